# SPDX-License-Identifier: Apache-2.0
"""The package on a host that serves: an upgrade restarts the agent only, a removal ends everything."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Document, Traffic

OWN = r"ovms|openvino"
REPACK = """
cd /var/tmp
dpkg-deb --raw-extract "$1" repacked
sed -i 's/^Version: .*/&+upgraded/' repacked/DEBIAN/control
dpkg-deb --build repacked upgraded.deb >/dev/null
apt-get --yes -o APT::Sandbox::User=root install /var/tmp/upgraded.deb
"""
REINSTALL = "apt-get --yes -o APT::Sandbox::User=root install --reinstall /var/tmp/upgraded.deb"


@pytest.fixture
def host(boot: Callable[..., Host], host_image: Image, debs: list[Path]) -> Host:
    """Installed here, not in the image: so dpkg's database is as it is on a real host."""
    booted = boot(host_image, binds=agent_host.BINDS)
    booted.install(*debs)
    booted.run("mkdir", "-p", "/run/lab")
    booted.write(agent_host.CONFIG, agent_host.pool())
    booted.run("systemctl", "enable", "--now", agent_host.AGENT)
    agent_host.wait_until_routed(booted, 2)
    return booted


def read_debians_nginx(host: Host) -> Document:
    return dict(host.properties("nginx.service", "ActiveState", "MainPID", "InvocationID", "UnitFileState"))


def list_traces(host: Host) -> set[str]:
    """Every path of ours outside the package's own directories, models and the lab."""
    places = "/etc /var/lib /var/cache /var/log /run /usr/lib /usr/share /lib/systemd"
    shown = host.script(
        f"find {places} -xdev \\( -path /var/lib/dpkg -o -path /run/lab \\) -prune -o -print"
        f" | grep -E '{OWN}' || true"
    )
    return set(shown.splitlines())


def test_upgrade_and_reinstallation_restart_the_agent_only(host: Host, debs: list[Path]) -> None:
    nginx, before = read_debians_nginx(host), agent_host.read_footprint(host)
    assert nginx["ActiveState"] == "active"
    agent = agent_host.read_agent_pid(host)
    with Traffic(host) as traffic:
        traffic.wait_for_answers(host)
        host.run("sh", "-euc", REPACK, "sh", f"/var/tmp/{debs[0].name}", timeout_sec=180)
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host)
        upgraded = agent_host.read_agent_pid(host)
        host.script(REINSTALL, timeout_sec=180)
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    assert host.run("dpkg-query", "-W", "-f", "${Version}", "ovms-scaler").stdout.endswith("+upgraded")
    assert len({0, agent, upgraded, agent_host.read_agent_pid(host)}) == 4
    assert agent_host.read_footprint(host) == before
    assert read_debians_nginx(host) == nginx


def test_remove_ends_everything_and_purge_leaves_nothing(host: Host) -> None:
    nginx = read_debians_nginx(host)
    host.run("apt-get", "--yes", "remove", "ovms-scaler", timeout_sec=120)
    assert host.run("pgrep", "--list-full", "ovms", check=False).stdout == ""
    assert agent_host.read_pids(host) == {}
    listed = host.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "ovms*").stdout
    assert [line for line in listed.splitlines() if " active " in line or " failed " in line] == []
    assert host.run("ss", "-Hltn", "sport = :8000").stdout == ""
    assert agent_host.MODEL in host.read(agent_host.CONFIG)
    assert not host.exists("/run/ovms-scaler")
    assert host.script("ls -d /run/systemd/system/ovms* 2>/dev/null || true") == ""
    host.run("apt-get", "--yes", "purge", "ovms-scaler", timeout_sec=120)
    assert list_traces(host) == set()
    # The users stay, so that no file of theirs falls to another one.
    assert host.run("id", "ovms").returncode == 0
    assert read_debians_nginx(host) == nginx


def test_removed_and_installed_again_it_serves_with_the_configuration_that_was_left(
    host: Host, debs: list[Path]
) -> None:
    host.run("apt-get", "--yes", "remove", "ovms-scaler", timeout_sec=120)
    host.install(*debs)
    host.run("systemctl", "enable", "--now", agent_host.AGENT)
    agent_host.wait_until_routed(host, 2)
    agent_host.wait_for_answer(host)
