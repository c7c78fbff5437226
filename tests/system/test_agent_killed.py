# SPDX-License-Identifier: Apache-2.0
"""The agent is not in the path of a request: what happens to it, or while it is away, is not noticed."""

from collections.abc import Iterator

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Traffic, find_instance

WATCHDOG = "/etc/systemd/system/ovms-scaler.service.d/watchdog.conf"


@pytest.fixture(scope="module")
def host(installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, agent_host.pool(), in_rotation=2) as booted:
        yield booted


def wait_until_agent_is_back(host: Host, before: int) -> None:
    host.wait_for(lambda: agent_host.read_agent_pid(host) not in (0, before), 30, "the agent to come back")
    agent_host.wait_until_routed(host, 2)


def test_killed_agent_comes_back_and_touches_nothing(host: Host) -> None:
    """The kernel's OOM killer ends it in the same way: it gets no last word."""
    before = agent_host.read_footprint(host)
    pid = agent_host.read_agent_pid(host)
    with Traffic(host) as traffic:
        traffic.wait_for_answers(host)
        agent_host.kill(host, pid)
        traffic.wait_for_answers(host)
        wait_until_agent_is_back(host, pid)
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    assert agent_host.read_footprint(host) == before
    assert len(traffic.counts["instances"]) == 2


def test_agent_that_hangs_is_replaced_and_no_client_notices(host: Host) -> None:
    # Two seconds in place of thirty; the watchdog is asked for when the agent starts.
    host.write(WATCHDOG, "[Service]\nWatchdogSec=2s\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", agent_host.AGENT)
    agent_host.wait_until_routed(host, 2)
    before, pid = agent_host.read_footprint(host), agent_host.read_agent_pid(host)
    try:
        with Traffic(host) as traffic:
            traffic.wait_for_answers(host)
            host.run("kill", "-STOP", str(pid))
            traffic.wait_for_answers(host)
            wait_until_agent_is_back(host, pid)
            traffic.wait_for_answers(host)
    finally:
        host.run("rm", WATCHDOG)
        host.run("systemctl", "daemon-reload")
    traffic.assert_unharmed()
    assert agent_host.read_footprint(host) == before


def test_bus_that_goes_is_told_and_found_again(host: Host) -> None:
    victim, other = "chat-numa0.1", "chat-numa0.0"
    pid = agent_host.read_agent_pid(host)
    with Traffic(host, stream="no") as traffic:
        traffic.wait_for_answers(host)
        # systemctl of root needs no bus.
        host.run("systemctl", "stop", "dbus.socket", "dbus.service")
        try:
            found = agent_host.wait_for_status(host, lambda found: found["problems"], "the agent to notice")
            assert "systemctl start dbus" in str(found["problems"])
            traffic.wait_for_answers(host)
            # Its unit takes it out of rotation without the agent.
            agent_host.kill(host, agent_host.read_pids(host)[victim])
            host.wait_for(lambda: agent_host.read_routes(host) == {other}, 10, "the route to go")
            traffic.wait_for_answers(host, by=other)
        finally:
            host.run("systemctl", "start", "dbus.socket", "dbus.service")
        agent_host.wait_for_status(host, lambda found: not found["problems"], "the agent to be well again")
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host, by=victim)
    traffic.assert_unharmed()
    assert agent_host.read_agent_pid(host) == pid


def test_bus_that_restarts_is_not_noticed_by_clients(host: Host) -> None:
    before, pid = agent_host.read_footprint(host), agent_host.read_agent_pid(host)
    with Traffic(host) as traffic:
        traffic.wait_for_answers(host)
        host.run("systemctl", "restart", "dbus.service")
        traffic.wait_for_answers(host)
        agent_host.reload(host)
        agent_host.wait_for_status(host, lambda found: not found["problems"], "the agent to be well again")
        agent_host.wait_until_routed(host, 2)
    traffic.assert_unharmed()
    assert agent_host.read_agent_pid(host) == pid
    assert agent_host.read_footprint(host) == before


def test_sigterm_ends_the_agent_only(host: Host) -> None:
    before = agent_host.read_footprint(host)
    with Traffic(host) as traffic:
        host.run("systemctl", "stop", agent_host.AGENT)
        assert not host.exists(agent_host.SOCKET)
        traffic.wait_for_answers(host)
        assert agent_host.read_footprint(host) == before
        host.run("systemctl", "start", agent_host.AGENT)
        agent_host.wait_until_routed(host, 2)
    traffic.assert_unharmed()
    assert agent_host.read_footprint(host) == before


def test_engine_that_dies_while_the_agent_is_dead_is_out_until_it_is_warm(host: Host) -> None:
    victim, other = "chat-numa0.0", "chat-numa0.1"
    agent_host.kill(host, agent_host.read_agent_pid(host))
    host.run("systemctl", "stop", agent_host.AGENT)
    agent_host.close_gate(host)
    pid = agent_host.read_pids(host)[victim]
    with Traffic(host, stream="no") as traffic:
        traffic.wait_for_answers(host, by=victim)
        agent_host.kill(host, pid)
        host.wait_for(lambda: agent_host.read_routes(host) == {other}, 10, "the route to go")
        host.wait_for(lambda: is_loading(host, 8003), 30, "the engine to load again")
        traffic.wait_for_answers(host, by=other)
        host.run("systemctl", "start", agent_host.AGENT)
        agent_host.wait_for_state(host, victim, "loading")
        traffic.wait_for_answers(host, by=other)
        assert agent_host.read_routes(host) == {other}
        agent_host.open_gate(host)
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host, by=victim)
    traffic.assert_unharmed()
    assert agent_host.read_pids(host)[victim] != pid
    assert find_instance(agent_host.read_status(host), victim)["restarts"] == 1


def is_loading(host: Host, port: int) -> bool:
    try:
        return bool(host.http("GET", "/v1/config", port=port).text == "{}")
    except OSError:
        return False
