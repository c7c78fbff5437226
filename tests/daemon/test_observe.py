# SPDX-License-Identifier: Apache-2.0
"""One look at everything: what is found, what is remembered, and what a source that fails leaves unknown."""

import asyncio
from pathlib import Path

import pytest
import world
from daemon_host import PROXY_UID, SERVING, DaemonHost, write
from fakes.units import FakeUnits

from ovms_scaler.core.books import Books
from ovms_scaler.core.device_event import DeviceEvent
from ovms_scaler.core.facts import Facts, InstanceFacts
from ovms_scaler.core.plan import plan
from ovms_scaler.core.target import Target, resolve

UNIT = "ovms@chat-numa0.service"


async def start(host: DaemonHost, target: Target | None = None) -> None:
    """Write what the instances need and have systemd start them, as the applier does."""
    wanted = target or host.target()
    for name, one in wanted.wanted.items():
        host.store.write_instance(one.files)
        await host.units.start(f"ovms@{name}.service")
    await asyncio.sleep(0)


async def test_an_empty_host(host: DaemonHost) -> None:
    facts = await host.observe()
    own = facts.instances["chat-numa0"]
    assert (own.unit and own.unit.active_state, own.exec, own.process, own.health) == (
        "inactive",
        None,
        None,
        None,
    )
    assert (dict(own.files), own.started, own.job, own.start_error) == ({}, False, False, "")
    assert (facts.target_started, facts.proxy.generation, host.observer.problems) == (False, None, [])


async def test_a_running_instance(host: DaemonHost) -> None:
    await start(host)
    # What systemd understood is left to the second look.
    assert (await host.observe()).instances["chat-numa0"].exec is None
    own = (await host.observe()).instances["chat-numa0"]
    assert own.unit is not None
    assert own.unit.active_state == "active"
    assert own.exec is not None
    assert own.exec.cpu_affinity == {0, 1, 2, 3}
    assert own.process is not None
    assert own.process.pid == own.unit.main_pid
    assert own.process.cpus_allowed == {0, 1, 2, 3}
    assert own.health is not None
    assert (own.health.invocation_id, own.started) == (own.unit.invocation_id, True)
    assert dict(own.files) == dict(host.target().wanted["chat-numa0"].files)


async def test_instances_that_are_not_wanted_are_seen_too(host: DaemonHost) -> None:
    two = host.target(nodes=2)
    await start(host, two)
    await host.units.start("ovms.target")
    write(host.root / "run/systemd/system/ovms@old.service.d/50-placement.conf", "[Service]\n")
    facts = await host.observe(host.target(nodes=1))
    assert facts.instances.keys() == {"chat-numa0", "chat-numa1", "old"}
    assert facts.instances["old"].files
    assert facts.target_started


async def test_what_systemd_understood_is_read_once_for_each_process(host: DaemonHost) -> None:
    await start(host)
    await host.observe()
    first = (await host.observe()).instances["chat-numa0"].exec
    assert first is not None
    host.units.loaded[UNIT].text = "CPUAffinity=9\n"
    assert (await host.observe()).instances["chat-numa0"].exec == first
    host.units.die(UNIT)
    assert (await host.observe()).instances["chat-numa0"].exec is None
    host.units.restart_elapsed(UNIT)
    await asyncio.sleep(0)
    again = (await host.observe()).instances["chat-numa0"]
    assert again.exec == first
    assert again.unit is not None
    assert again.unit.restarts == 1


async def test_it_is_remembered_that_an_instance_ran(host: DaemonHost) -> None:
    await start(host)
    await host.observe()
    host.units.stop_by_admin(UNIT)
    assert (await host.observe()).instances["chat-numa0"].started
    host.store.forget_started(UNIT)
    assert not (await host.observe()).instances["chat-numa0"].started


async def test_an_instance_that_the_agent_is_stopping_is_not_remembered(host: DaemonHost) -> None:
    await start(host)
    host.memory.jobs.add("chat-numa0")
    own = (await host.observe()).instances["chat-numa0"]
    assert (own.started, own.job) == (False, True)


async def test_a_start_that_failed_is_told_with_its_age(host: DaemonHost) -> None:
    host.memory.start_errors["chat-numa0"] = (
        "systemd did not start it: failed",
        asyncio.get_running_loop().time() - 5,
    )
    own = (await host.observe()).instances["chat-numa0"]
    assert own.start_error == "systemd did not start it: failed"
    assert 5 <= own.since_start_sec < 30


CONNECTIONS = [
    pytest.param([], 0, id="none"),
    pytest.param([(8003, PROXY_UID, "01"), (8003, PROXY_UID, "02")], 2, id="established, and being so"),
    pytest.param([(8003, PROXY_UID, "06"), (8003, PROXY_UID, "08")], 0, id="closing ones"),
    pytest.param([(8003, 0, "01")], 0, id="the agent's own probes"),
    pytest.param([(8004, PROXY_UID, "01")], 0, id="another port"),
]


@pytest.mark.parametrize(("clients", "expected"), CONNECTIONS)
async def test_connections_of_the_proxy_are_counted_out_of_rotation(
    host: DaemonHost, clients: list[tuple[int, int, str]], expected: int
) -> None:
    await start(host)
    host.connect(*clients)
    assert (await host.observe()).instances["chat-numa0"].connections == expected


async def test_connections_in_rotation_are_not_counted(host: DaemonHost) -> None:
    await route(host)
    (host.root / "proc/net/tcp").unlink()
    facts = await host.observe()
    assert (facts.instances["chat-numa0"].connections, host.observer.problems) == (None, [])


async def route(host: DaemonHost) -> Facts:
    """Bring the instance into rotation by one pass after another."""
    target = host.target()
    host.engine().body = SERVING
    async with asyncio.timeout(10):
        while True:
            facts = await host.observe(target)
            planned = plan(target, facts)
            if planned.in_rotation:
                return facts
            await host.applier.apply(planned)
            await asyncio.sleep(0.01)


async def test_one_in_rotation_is_adopted_by_an_agent_that_comes_back(host: DaemonHost) -> None:
    await route(host)
    await host.health.close()
    warmed = len(host.engine().warmed)
    own = (await host.observe()).instances["chat-numa0"]
    assert own.health is not None
    assert own.health.warmed
    await host.engine().count(2)
    assert len(host.engine().warmed) == warmed


async def test_a_stuck_systemd_leaves_units_as_they_were_seen_last(host: DaemonHost) -> None:
    await route(host)
    before = (await host.observe()).instances["chat-numa0"]
    host.units.overdue = 1
    facts = await host.observe()
    own = facts.instances["chat-numa0"]
    assert (facts.target, own.unit, own.exec) == (None, before.unit, before.exec)
    assert own.files
    assert facts.proxy.files
    assert len(host.observer.problems) == 1
    assert "systemd has not answered" in host.observer.problems[0]
    # Who was watched still is, and nothing is planned.
    assert host.health.read("chat-numa0") is not None
    assert plan(host.target(), facts).actions == ()
    host.units.thaw()
    assert (await host.observe()).target is not None
    assert host.observer.problems == []


def break_files(root: Path, units: FakeUnits) -> None:
    (root / "run/ovms-scaler/instances/chat-numa0/graph.pbtxt").write_bytes(b"\xff\xfe")
    assert UNIT in units.loaded


def break_started(root: Path, _units: FakeUnits) -> None:
    directory = root / "run/ovms-scaler/started"
    for marker in directory.iterdir():
        marker.unlink()
    directory.rmdir()
    directory.write_text("a file")


def break_process(root: Path, units: FakeUnits) -> None:
    write(root / f"proc/{units.loaded[UNIT].facts.main_pid}/status", "Name:\tovms\n")


def break_connections(root: Path, _units: FakeUnits) -> None:
    (root / "proc/net/tcp").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(break_files, "graph.pbtxt", id="files of an instance"),
        pytest.param(break_started, "/started", id="what ran before"),
        pytest.param(break_process, "/status: 'Cpus_allowed_list'", id="its process"),
        pytest.param(break_connections, "cannot read /proc/net/tcp", id="connections"),
    ],
)
async def test_a_source_that_fails_is_a_problem_and_nothing_else_is_lost(
    host: DaemonHost, damage: object, message: str
) -> None:
    assert callable(damage)
    await start(host)
    await host.observe()
    damage(host.root, host.units)
    facts = await host.observe()
    assert any(message in problem for problem in host.observer.problems)
    assert facts.instances["chat-numa0"].unit is not None
    assert facts.instances["chat-numa0"].health is not None


async def test_a_process_that_ended_meanwhile_is_no_problem(host: DaemonHost) -> None:
    await start(host)
    await host.observe()
    (host.root / f"proc/{host.units.loaded[UNIT].facts.main_pid}/status").unlink()
    own = (await host.observe()).instances["chat-numa0"]
    assert (own.process, host.observer.problems) == (None, [])
    assert isinstance(own, InstanceFacts)


# GPUs

CARD = "0000:03:00.0"
ON_CARD = f"chat-gpu-{CARD}"
WEDGED = DeviceEvent(action="change", subsystem="drm", address=CARD, wedged=("rebind",), detail="hung")


def on_gpus(host: DaemonHost, *, books: Books | None = None) -> Target:
    """The target on the cards that are there."""
    config = world.spec({"placement": "gpu"})
    models = {"chat": host.model}
    return resolve(config, host.topology, models, books or Books(), planned=books is None)


async def test_device_that_is_replaced_is_lost_for_who_runs_and_no_stop_by_hand_for_who_does_not(
    host: DaemonHost,
) -> None:
    host.plug(CARD)
    target = on_gpus(host)
    await start(host, target)
    own = (await host.observe(target)).instances[ON_CARD]
    assert (own.started, own.has_lost_device) == (True, False)
    host.pull(CARD)
    assert (await host.observe(target)).instances[ON_CARD].has_lost_device
    host.plug(CARD)
    own = (await host.observe(target)).instances[ON_CARD]
    assert (own.started, own.has_lost_device) == (False, True)
    host.units.stop_by_admin(f"ovms@{ON_CARD}.service")
    own = (await host.observe(target)).instances[ON_CARD]
    assert (own.started, own.has_lost_device) == (False, False)


async def test_instances_on_cpus_have_no_device_to_lose(host: DaemonHost) -> None:
    await start(host)
    host.plug(CARD)
    own = (await host.observe()).instances["chat-numa0"]
    assert (own.started, own.has_lost_device) == (True, False)


async def test_hang_is_seen_with_the_time_and_forgotten_when_the_card_is_pulled_out(
    host: DaemonHost,
) -> None:
    host.plug(CARD)
    target = on_gpus(host)
    host.wedges.note_hang(WEDGED, window_sec=600)
    facts = await host.observe(target)
    assert facts.wedges == host.wedges.read()
    assert facts.wedges[CARD].at_sec <= facts.now_sec
    host.pull(CARD)
    away = on_gpus(host, books=target.books)
    # While it is being recovered it may be away for a moment.
    host.memory.jobs.add(ON_CARD)
    assert (await host.observe(away)).wedges.keys() == {CARD}
    host.memory.jobs.clear()
    assert (await host.observe(away)).wedges == {}


async def test_lines_that_the_proxy_cannot_have_written_are_a_problem(host: DaemonHost) -> None:
    host.health.note_datagram(b"hello")
    await host.observe()
    assert host.observer.problems == ["the proxy's record of requests has lines that are none: 1 so far"]
