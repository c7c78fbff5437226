# SPDX-License-Identifier: Apache-2.0
"""Security updates of what the package stands on reach the proxy under load, and engines are left alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import image
from lab.host import Host
from system import agent_host
from system.agent_host import Traffic

# Makes a package anew from what is installed, with a higher version and, in FILE, other bytes.
REPACK = """
package=$1 file=$2 version=$3
root=/var/tmp/$package.update
rm -rf "$root"
mkdir -p "$root/DEBIAN"
dpkg -L "$package" | while read -r path; do
    [ -d "$path" ] || [ ! -e "$path" ] || cp --archive --parents "$path" "$root"
done
printf '%s' "$version" >>"$root/$file"
dpkg-query --status "$package" | sed -e '/^Status:/d' -e '/^Conffiles:/,/^[^ ]/{/^Conffiles:/d;/^ /d}' \\
    -e "s/^Version: .*/&$version/" >"$root/DEBIAN/control"
for script in preinst postinst prerm postrm triggers conffiles shlibs symbols; do
    for found in "/var/lib/dpkg/info/$package.$script" "/var/lib/dpkg/info/$package:amd64.$script"; do
        [ ! -e "$found" ] || cp "$found" "$root/DEBIAN/$script"
    done
done
dpkg-deb --root-owner-group --build "$root" "/var/tmp/$package$version.deb" >/dev/null
"""
# Restarts nothing and asks nothing by itself, as on a machine that upgrades unattended.
UPDATE = "apt-get --yes -o APT::Sandbox::User=root -o Dpkg::Options::=--force-confold install"
# Puts other bytes in the place of the C library, as an update does, unseen by dpkg.
REPLACE_LIBC = """
file=$(readlink -f "$(ldconfig -p | sed -n 's/.*libc.so.6 (libc6,x86-64) => //p')")
cp -p "$file" "$file.new"
mv "$file.new" "$file"
"""


@pytest.fixture(scope="module")
def host(release: str, debs: list[Path]) -> Iterator[Host]:
    """Serving; with needrestart, which an administrator may have."""
    with Host.boot(image.build(release, image.Kind.BUILD), binds=agent_host.BINDS) as booted:
        booted.install(*debs)
        booted.run("mkdir", "-p", "/run/lab")
        booted.write(agent_host.CONFIG, agent_host.pool())
        booted.run("systemctl", "enable", "--now", agent_host.AGENT)
        agent_host.wait_until_routed(booted, 2)
        yield booted


def read_proxy(host: Host) -> int:
    return int(host.properties(agent_host.PROXY, "MainPID")["MainPID"])


def list_outdated(host: Host, pid: int) -> str:
    """What the process executes and is no longer on the disk."""
    return host.script(f"grep '^[^ ]* ..x.* (deleted)$' /proc/{pid}/maps || true")


def update(host: Host, package: str, file: str, version: str) -> str:
    """Install a new version of a package; what apt said."""
    host.run("sh", "-euc", REPACK, "sh", package, file, version, timeout_sec=120)
    done = host.run("sh", "-euc", f"exec 2>&1; {UPDATE} /var/tmp/{package}{version}.deb", timeout_sec=180)
    return done.stdout


def find_libssl(host: Host) -> tuple[str, str]:
    """Package and path of the library that nginx has from OpenSSL."""
    library = host.script("ldd /usr/sbin/nginx | sed -n 's/.* => .*\\(libssl[^ ]*\\) .*/\\1/p'").strip()
    package, path = host.script(f"dpkg -S '*/{library}'").split()
    return package.split(":")[0], path


def assert_taken_over(host: Host, before: int) -> None:
    """The proxy is another process that executes what is on the disk, and the one before has ended."""
    assert read_proxy(host) not in (0, before)
    assert list_outdated(host, read_proxy(host)) == ""
    host.wait_for(f"! test -e /proc/{before}", 60, "the old nginx to end")
    assert host.properties(agent_host.PROXY, "ActiveState")["ActiveState"] == "active"


def test_update_of_nginx_reaches_the_proxy_without_a_lost_request(host: Host) -> None:
    engines, first = agent_host.read_pids(host), read_proxy(host)
    nginx = host.properties("nginx.service", "MainPID")["MainPID"]
    # Longer streams than the update of a process takes, so that some are under way.
    with Traffic(host, max_tokens=60) as traffic:
        traffic.wait_for_answers(host, 10)
        update(host, "nginx", "/usr/sbin/nginx", "+lab1")
        traffic.wait_for_answers(host, 10)
        assert_taken_over(host, first)
        # So does the next one; and what the agent asks for afterwards is taken by the new process.
        second = read_proxy(host)
        update(host, "nginx", "/usr/sbin/nginx", "+lab2")
        traffic.wait_for_answers(host, 10)
        assert_taken_over(host, second)
        assert agent_host.read_pids(host) == engines
        host.run("ovms-scalerctl", "drain", "chat-numa0.1")
        agent_host.wait_until_routed(host, 1)
        host.run("ovms-scalerctl", "undrain", "chat-numa0.1")
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host, 10, by="chat-numa0.1")
    traffic.assert_unharmed()
    # Debian's own nginx was updated by its own package.
    assert host.properties("nginx.service", "MainPID")["MainPID"] not in ("0", nginx)
    assert_systemd_follows(host)


def assert_systemd_follows(host: Host) -> None:
    """The process that took over is one that systemd starts again, and ends."""
    pid = read_proxy(host)
    agent_host.kill(host, pid)
    host.wait_for(lambda: read_proxy(host) not in (0, pid), 30, "the proxy to be started again")
    agent_host.wait_until_routed(host, 2)
    agent_host.wait_for_answer(host)
    host.run("systemctl", "stop", agent_host.PROXY)
    assert host.run("pgrep", "--list-full", "-u", "ovms-scaler-proxy", check=False).stdout == ""
    host.run("systemctl", "start", agent_host.PROXY)
    agent_host.wait_until_routed(host, 2)


def test_update_of_a_library_reaches_the_proxy_and_leaves_the_rest(host: Host) -> None:
    engines, agent, first = agent_host.read_pids(host), agent_host.read_agent_pid(host), read_proxy(host)
    package, path = find_libssl(host)
    with Traffic(host) as traffic:
        traffic.wait_for_answers(host)
        update(host, package, path, "+lab1")
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    assert_taken_over(host, first)
    assert (agent_host.read_pids(host), agent_host.read_agent_pid(host)) == (engines, agent)


def test_needrestart_restarts_the_agent_reloads_the_proxy_and_defers_engines(host: Host) -> None:
    engines, agent, first = agent_host.read_pids(host), agent_host.read_agent_pid(host), read_proxy(host)
    with Traffic(host) as traffic:
        traffic.wait_for_answers(host)
        host.script(REPLACE_LIBC)
        assert all(list_outdated(host, pid) for pid in (first, *engines.values()))
        shown = host.run("sh", "-c", "exec 2>&1; needrestart -l -r a", timeout_sec=180).stdout
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    assert_taken_over(host, first)
    assert agent_host.read_pids(host) == engines
    assert agent_host.read_agent_pid(host) not in (0, agent)
    deferred = shown.partition("deferred:")[2]
    assert all(f"ovms@{name}.service" in deferred for name in engines), shown
