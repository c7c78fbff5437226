# SPDX-License-Identifier: Apache-2.0
"""A changed configuration under load: drained, stopped, rewritten, started; one at a time, unnoticed."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Traffic, find_instance

FIRST, SECOND = "chat-numa0.0", "chat-numa0.1"
HALVES = agent_host.pool()
CHANGED = agent_host.pool(ovms='flags = ["--log_level", "DEBUG"]')
WHOLE = agent_host.pool(instances=1)
OUTAGE = "--allow-outage"
# SD_MESSAGE_UNIT_STOPPED and SD_MESSAGE_UNIT_STARTING of sd-messages.h(3).
STOPPED = "9d1aaa27d60140bd96365438aad20286"
STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """When one instance went through a change, seconds of the host's wall clock."""

    ended: float
    written: float
    started: float
    routed: float


def read_message_times(host: Host, unit: str, message_id: str) -> list[float]:
    """When systemd said this of the unit, as systemd sent it."""
    fields = ("-b", "_PID=1", f"UNIT={unit}", f"MESSAGE_ID={message_id}")
    lines = host.run("journalctl", "--output=json", *fields).stdout.splitlines()
    return [int(json.loads(line)["_SOURCE_REALTIME_TIMESTAMP"]) / 1e6 for line in lines]


def read_passage(host: Host, name: str) -> Passage:
    unit = f"ovms@{name}.service"
    drop_in = f"/run/systemd/system/{unit}.d/50-placement.conf"
    route = f"/run/ovms-scaler-proxy/routes/chat/{name}.conf"
    written, routed = (float(line) for line in host.run("stat", "-c", "%.6Y", drop_in, route).stdout.split())
    return Passage(
        ended=read_message_times(host, unit, STOPPED)[-1],
        written=written,
        started=read_message_times(host, unit, STARTING)[-1],
        routed=routed,
    )


def wait_until_changed(host: Host, before: dict[str, int]) -> None:
    """Wait until every instance is another process, and in rotation."""

    def changed() -> bool:
        now = agent_host.read_pids(host)
        return now.keys() == before.keys() and all(now[name] != before[name] for name in before)

    host.wait_for(changed, 60, "every instance to be another process")
    agent_host.wait_until_routed(host, len(before))


@pytest.fixture
def host(boot: Callable[..., Host], installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, HALVES, in_rotation=2) as booted:
        yield booted


def test_change_rolls_through_the_instances_without_a_lost_or_cut_answer(host: Host) -> None:
    before = agent_host.read_pids(host)
    with Traffic(host, max_tokens=40) as traffic:
        traffic.wait_for_answers(host)
        assert agent_host.reload(host, CHANGED).returncode == 0
        wait_until_changed(host, before)
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    for pid in agent_host.read_pids(host).values():
        assert "DEBUG" in agent_host.read_command(host, pid)
    passages = sorted((read_passage(host, name) for name in before), key=lambda one: one.ended)
    for one in passages:
        # A drop-in is never written while its unit runs.
        assert one.ended < one.written < one.started < one.routed
    # The second leaves only when the first serves again.
    assert passages[0].routed < passages[1].ended


@agent_host.on_bookworm
def test_change_of_the_only_instance_needs_permission(host: Host) -> None:
    agent_host.reload(host, WHOLE, OUTAGE)
    agent_host.wait_for_state(host, "chat-numa0", "ready")
    agent_host.wait_until_routed(host, 1)
    before = agent_host.read_footprint(host)
    changed = WHOLE + 'flags = ["--log_level", "DEBUG"]\n'
    with Traffic(host) as traffic:
        assert agent_host.reload(host, changed).returncode == 0
        agent_host.wait_for_status(
            host,
            lambda found: "needs an outage" in find_instance(found, "chat-numa0")["reason"],
            "the change to be refused",
        )
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    found = find_instance(agent_host.read_status(host), "chat-numa0")
    assert (found["state"], found["in_rotation"]) == ("ready", True)
    assert found["hint"] == "ovms-scalerctl reload --allow-outage"
    assert agent_host.read_footprint(host)["engines"] == before["engines"]
    assert agent_host.reload(host, "", OUTAGE).returncode == 0
    wait_until_changed(host, before["engines"])
    assert "DEBUG" in agent_host.read_command(host, agent_host.read_pids(host)["chat-numa0"])


@agent_host.on_bookworm
def test_joining_the_halves_of_a_node_needs_permission_and_then_happens(host: Host) -> None:
    before = agent_host.read_pids(host)
    with Traffic(host) as traffic:
        assert agent_host.reload(host, WHOLE).returncode == 0
        agent_host.wait_for_state(host, "chat-numa0", "absent", reason="waits for CPUs")
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    assert agent_host.read_pids(host) == before
    assert (
        find_instance(agent_host.read_status(host), FIRST)["hint"] == "ovms-scalerctl reload --allow-outage"
    )
    with Traffic(host, max_tokens=40) as traffic:
        assert agent_host.reload(host, "", OUTAGE).returncode == 0
        agent_host.wait_for_state(host, "chat-numa0", "ready")
        agent_host.wait_until_routed(host, 1)
        traffic.wait_for_answers(host, by="chat-numa0")
    # Turned away while nobody serves, but what had begun was answered.
    assert (traffic.counts["lost"], traffic.counts["cut"]) == ([], [])
    assert traffic.counts["status"].keys() == {"200", "503"}
    assert agent_host.read_pids(host).keys() == {"chat-numa0"}
    assert not host.exists(f"/run/systemd/system/ovms@{FIRST}.service.d")
    assert not host.exists(f"/run/ovms-scaler/instances/{SECOND}")


@agent_host.on_bookworm
def test_change_that_does_not_start_stops_at_the_first_instance(host: Host) -> None:
    before = agent_host.read_pids(host)
    with Traffic(host) as traffic:
        assert agent_host.reload(host, agent_host.pool(ovms='flags = ["--no_such_flag"]')).returncode == 0
        agent_host.wait_for_status(
            host,
            lambda found: any("exit status 64" in entry["reason"] for entry in found["instances"]),
            "the first instance to fail",
        )
        traffic.wait_for_answers(host)
        now = agent_host.read_pids(host)
        assert len(now) == 1
        assert now.items() <= before.items()
        assert agent_host.reload(host, HALVES).returncode == 0
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    assert now.items() <= agent_host.read_pids(host).items()
