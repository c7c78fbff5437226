# SPDX-License-Identifier: Apache-2.0
"""Installed, upgraded, removed and purged, as piuparts does it: what is left is what was there before."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host

APT = ("apt-get", "--yes", "-o", "APT::Sandbox::User=root")
# Every path with its type, mode, owner and target; not what belongs to dpkg and apt, or is temporary.
LIST = """
format='%p %y %m %u:%g %l\\n'
others='/(var/(lib|cache)/apt|var/lib/dpkg|var/cache/debconf|var/log|(var/)?tmp)'
find / -xdev -regextype posix-extended -regex "$others" -prune -o -printf "$format"
find /run/systemd/system /run/ovms* -printf "$format" 2>/dev/null || true
"""
# The next version, which ships another configuration.
NEXT = """
cd /var/tmp
rm -rf next
dpkg-deb --raw-extract "$1" next
sed -i 's/^Version: .*/&+next/' next/DEBIAN/control
echo '# The next version says more.' >>next/etc/ovms-scaler/config.toml
dpkg-deb --root-owner-group --build next next.deb >/dev/null
"""
# What changes with every package, and with every account.
OTHERS = (
    "/var/cache/ldconfig/aux-cache ",
    "/etc/passwd- ",
    "/etc/group- ",
    "/etc/shadow- ",
    "/etc/gshadow- ",
)


@pytest.fixture
def host(boot: Callable[..., Host], host_image: Image) -> Host:
    return boot(host_image, binds=agent_host.BINDS)


def list_files(host: Host) -> set[str]:
    return {line for line in host.script(LIST).splitlines() if not line.startswith(OTHERS)}


def read_accounts(host: Host) -> set[str]:
    return set(host.read("/etc/passwd").splitlines()) | set(host.read("/etc/group").splitlines())


def test_nothing_is_left_where_systemd_does_not_run(host: Host, debs: list[Path]) -> None:
    """As in a chroot or while an image is made: there is nothing in /run."""
    files, deb = list_files(host), "/var/tmp/" + debs[0].name
    host.write(deb, debs[0].read_bytes())
    alone = ("unshare", "--mount", "sh", "-euc", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh")
    host.run(*alone, *APT, "install", deb, timeout_sec=180)
    assert host.exists("/usr/bin/ovms-scalerctl")
    assert host.run(*alone, "ovms-scalerctl", "check-config").returncode == 0
    host.run(*alone, *APT, "purge", "ovms-scaler", timeout_sec=180)
    assert list_files(host) ^ files == set()


def test_nothing_is_left_after_a_life_with_changes(host: Host, debs: list[Path]) -> None:
    files, accounts = list_files(host), read_accounts(host)
    host.install(*debs)
    host.run("mkdir", "-p", "/run/lab")
    # The administrator's hand: the conffile is edited, a fragment added, an instance given a cache.
    host.write(agent_host.CONFIG, agent_host.pool())
    host.write("/etc/ovms-scaler/config.d/50-site.toml", "[engine]\n")
    host.run("systemctl", "enable", "--now", agent_host.AGENT)
    agent_host.wait_until_routed(host, 2)
    host.run("sh", "-euc", NEXT, "sh", f"/var/tmp/{debs[0].name}")
    # Nobody is there to be asked: then dpkg keeps what was edited, and puts the new one beside it.
    install = (*APT, "-o", "Dpkg::Options::=--force-confdef", "install", "/var/tmp/next.deb")
    host.run(*install, timeout_sec=180)
    assert host.read(agent_host.CONFIG) == agent_host.pool()
    assert "says more" in host.read(f"{agent_host.CONFIG}.dpkg-dist")
    agent_host.wait_until_routed(host, 2)
    assert host.run("dpkg", "--audit").stdout == ""
    host.run(*APT, "remove", "ovms-scaler", timeout_sec=180)
    kept = host.run("dpkg-query", "--showformat=${Conffiles}", "--show", "ovms-scaler").stdout.split()[::2]
    assert agent_host.CONFIG in kept
    assert [path for path in kept if not host.exists(path)] == []
    assert host.exists("/etc/ovms-scaler/config.d/50-site.toml")
    assert host.exists("/var/lib/ovms-scaler/ports.json")
    host.run(*install, timeout_sec=180)
    assert host.read(agent_host.CONFIG) == agent_host.pool()
    host.run("systemctl", "enable", "--now", agent_host.AGENT)
    agent_host.wait_until_routed(host, 2)
    # From a host that serves, in one step.
    host.run(*APT, "purge", "ovms-scaler", timeout_sec=180)
    assert list_files(host) ^ files == set()
    # Users and groups stay, so that a file of theirs never falls to another one; nobody can log in as them.
    added = {line.split(":")[0]: line for line in read_accounts(host) - accounts}
    assert {"ovms", "ovms-scaler", "ovms-scaler-proxy"} <= added.keys()
    assert host.run("getent", "passwd", "ovms").stdout.strip().endswith("/nonexistent:/usr/sbin/nologin")
    assert host.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""
