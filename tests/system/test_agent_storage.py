# SPDX-License-Identifier: Apache-2.0
"""Files that cannot be read or written: said clearly, and no running instance is harmed."""

from collections.abc import Iterator

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Traffic

pytestmark = agent_host.on_bookworm

PORTS = "/var/lib/ovms-scaler/ports.json"
STATE = "/var/lib/ovms-scaler"
CHANGED = agent_host.pool(ovms='flags = ["--log_level", "DEBUG"]')


@pytest.fixture
def host(installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, agent_host.pool(), in_rotation=2) as booted:
        yield booted


def wait_until_said(host: Host, *words: str) -> None:
    """Wait until status names the trouble, in the document and for people."""
    agent_host.wait_for_status(
        host, lambda found: all(word in str(found) for word in words), f"status to say {words}"
    )
    shown = host.run("ovms-scalerctl", "status", check=False)
    assert shown.returncode == 1
    assert all(word in shown.stdout + shown.stderr for word in words)


def test_port_book_that_cannot_be_read_harms_nobody(host: Host) -> None:
    before, book = agent_host.read_footprint(host), host.read(PORTS)
    with Traffic(host) as traffic:
        host.run("sh", "-c", f"echo '{{' >{PORTS}")
        refused = agent_host.reload(host)
        assert refused.returncode == 1
        assert PORTS in refused.stderr
        assert "remove it" in refused.stderr
        host.run("systemctl", "restart", agent_host.AGENT)
        wait_until_said(host, PORTS)
        traffic.wait_for_answers(host)
        assert agent_host.read_footprint(host)["engines"] == before["engines"]
        host.write(PORTS, book)
        assert agent_host.reload(host).returncode == 0
        agent_host.wait_until_routed(host, 2)
    traffic.assert_unharmed()
    after = agent_host.read_footprint(host)
    assert (after["engines"], after["generation"]) == (before["engines"], before["generation"])


def test_full_disk_is_said_and_the_plan_goes_on(host: Host) -> None:
    before = agent_host.read_pids(host)
    host.script(f"""
        cp -a {STATE} /var/tmp/kept
        mount -t tmpfs -o size=16k,mode=755 none {STATE}
        cp -a /var/tmp/kept/. {STATE}/
        cat /dev/zero >{STATE}/filler 2>/dev/null || true
        """)
    with Traffic(host) as traffic:
        # Another instance, which has a port to be remembered.
        assert agent_host.reload(host, agent_host.pool(instances=1)).returncode == 0
        wait_until_said(host, "No space left on device")
        traffic.wait_for_answers(host)
        host.run("rm", f"{STATE}/filler")
        assert agent_host.reload(host, agent_host.pool()).returncode == 0
        agent_host.wait_for_status(host, lambda found: not found["problems"], "the trouble to be over")
    traffic.assert_unharmed()
    assert agent_host.read_pids(host) == before


@pytest.mark.parametrize("directory", ["/run/systemd/system", "/run/ovms-scaler-proxy"])
def test_read_only_directory_is_said_and_overcome_when_it_can_be_written(host: Host, directory: str) -> None:
    host.run("mount", "--bind", directory, directory)
    host.run("mount", "-o", "remount,bind,ro", directory)
    host.run("systemctl", "restart", agent_host.AGENT)
    agent_host.wait_until_routed(host, 2)
    with Traffic(host) as traffic:
        agent_host.reload(host, CHANGED)
        wait_until_said(host, "Read-only file system")
        assert agent_host.read_pids(host)
        traffic.wait_for_answers(host)
        host.run("umount", directory)
        host.run("systemctl", "restart", agent_host.AGENT)
        host.wait_for(lambda: is_changed(host), 60, "the change to be made")
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()


def is_changed(host: Host) -> bool:
    pids = agent_host.read_pids(host)
    return len(pids) == 2 and all("DEBUG" in agent_host.read_command(host, pid) for pid in pids.values())
