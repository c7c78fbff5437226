# SPDX-License-Identifier: Apache-2.0
"""The administrator's word holds: what was stopped stays so, what was enabled is back after a reboot."""

import json
from collections.abc import Iterator
from functools import partial

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Traffic, find_instance

FIRST, SECOND = "chat-numa0.0", "chat-numa0.1"


@pytest.fixture(scope="module")
def host(installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, agent_host.pool(), in_rotation=2) as booted:
        yield booted


def read_pass_time(host: Host) -> int:
    """When the agent was last through with a pass: then it tells systemd's watchdog."""
    return int(host.properties(agent_host.AGENT, "WatchdogTimestampMonotonic")["WatchdogTimestampMonotonic"])


def make_passes(host: Host) -> None:
    """Have the agent look at everything again, a few times, and act on what it sees."""
    for _ in range(3):
        before = read_pass_time(host)
        assert agent_host.reload(host).returncode == 0
        host.wait_for(partial(has_passed, host, before), 10, "the agent to look at everything")


def has_passed(host: Host, before: int) -> bool:
    return read_pass_time(host) > before


def is_active(host: Host, unit: str) -> bool:
    return host.properties(unit, "ActiveState")["ActiveState"] == "active"


def test_reboot_brings_everything_back_at_the_same_ports(host: Host) -> None:
    ports = {entry["id"]: entry["port"] for entry in agent_host.read_status(host)["instances"]}
    host.reboot()
    document = agent_host.wait_until_routed(host, 2)
    assert {entry["id"]: entry["port"] for entry in document["instances"]} == ports
    agent_host.wait_for_answer(host)
    assert json.loads(host.read("/var/lib/ovms-scaler/ports.json")) == ports


def test_stopped_target_stays_stopped_until_it_is_started(host: Host) -> None:
    host.run("systemctl", "stop", agent_host.TARGET)
    assert agent_host.read_pids(host) == {}
    for name in (FIRST, SECOND):
        found = agent_host.wait_for_state(host, name, "stopped", reason="ovms.target")
        assert found["hint"] == "systemctl start ovms.target"
    answer = agent_host.ask(host)
    assert (answer.status, "retry-after" in answer.headers) == (503, True)
    make_passes(host)
    host.run("systemctl", "restart", agent_host.AGENT)
    agent_host.wait_for_state(host, FIRST, "stopped", reason="ovms.target")
    make_passes(host)
    assert agent_host.read_pids(host) == {}
    assert not is_active(host, agent_host.TARGET)
    host.run("systemctl", "start", agent_host.TARGET)
    agent_host.wait_until_routed(host, 2)
    agent_host.wait_for_answer(host)


def test_target_stopped_and_started_while_the_agent_is_away_brings_all_back(host: Host) -> None:
    host.run("systemctl", "stop", agent_host.AGENT)
    host.run("systemctl", "stop", agent_host.TARGET)
    assert agent_host.read_routes(host) == set()
    host.run("systemctl", "start", agent_host.TARGET)
    host.run("systemctl", "start", agent_host.AGENT)
    agent_host.wait_until_routed(host, 2)


def test_stopped_instance_stays_stopped_until_it_is_started(host: Host) -> None:
    unit = f"ovms@{FIRST}.service"
    with Traffic(host, stream="no") as traffic:
        traffic.wait_for_answers(host, by=FIRST)
        host.run("systemctl", "stop", unit)
        found = agent_host.wait_for_state(host, FIRST, "stopped", reason="by the administrator")
        assert found["hint"] == f"systemctl start {unit}"
        make_passes(host)
        host.run("systemctl", "restart", agent_host.AGENT)
        agent_host.wait_for_state(host, FIRST, "stopped", reason="by the administrator")
        make_passes(host)
        assert agent_host.read_pids(host).keys() == {SECOND}
        host.run("systemctl", "start", unit)
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host, by=FIRST)
    traffic.assert_unharmed()


@agent_host.on_bookworm
def test_instance_stopped_while_it_loads_stays_stopped(host: Host) -> None:
    unit = f"ovms@{FIRST}.service"
    host.write("/etc/systemd/system/ovms@.service.d/stop.conf", "[Service]\nTimeoutStopSec=2s\n")
    host.run("systemctl", "daemon-reload")
    agent_host.close_gate(host)
    agent_host.kill(host, agent_host.read_pids(host)[FIRST])
    agent_host.wait_for_state(host, FIRST, "loading", timeout_sec=30)
    # An engine that loads does not look at SIGTERM and is killed after TimeoutStopSec=.
    host.run("systemctl", "stop", unit, timeout_sec=60)
    agent_host.open_gate(host)
    agent_host.wait_for_state(host, FIRST, "stopped", reason="by the administrator")
    make_passes(host)
    assert agent_host.read_pids(host).keys() == {SECOND}
    host.run("systemctl", "start", unit)
    agent_host.wait_until_routed(host, 2)


@agent_host.on_bookworm
def test_masked_instance_is_left_alone(host: Host) -> None:
    unit = f"ovms@{FIRST}.service"
    host.run("systemctl", "mask", "--runtime", "--now", unit)
    found = agent_host.wait_for_state(host, FIRST, "stopped", reason="masked by the administrator")
    assert found["hint"] == f"systemctl unmask {unit}"
    make_passes(host)
    assert agent_host.read_pids(host).keys() == {SECOND}
    assert find_instance(agent_host.read_status(host), FIRST)["state"] == "stopped"
    host.run("systemctl", "unmask", "--runtime", unit)
    host.run("systemctl", "start", unit)
    agent_host.wait_until_routed(host, 2)


@agent_host.on_bookworm
def test_stopped_proxy_stays_stopped_until_it_is_started(host: Host) -> None:
    before = agent_host.read_pids(host)
    host.run("systemctl", "stop", agent_host.PROXY)
    make_passes(host)
    host.run("systemctl", "restart", agent_host.AGENT)
    make_passes(host)
    assert not is_active(host, agent_host.PROXY)
    assert host.run("ovms-scalerctl", "status", check=False).returncode == 1
    host.run("systemctl", "start", agent_host.PROXY)
    agent_host.wait_until_routed(host, 2)
    agent_host.wait_for_answer(host)
    assert agent_host.read_pids(host) == before
