# SPDX-License-Identifier: Apache-2.0
"""Carrying out a plan: order, what a failure skips, and what goes on in the background."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest
import structlog
from daemon_host import DaemonHost
from fakes.units import FakeUnits

from ovms_scaler.core.actions import (
    Action,
    InstallProxy,
    Kill,
    Recover,
    Remove,
    Start,
    StartTarget,
    Stop,
    Write,
)
from ovms_scaler.core.device_event import DeviceEvent
from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.core.lifecycle import State
from ovms_scaler.core.plan import Plan, plan
from ovms_scaler.core.proxy_plan import RETRY_SEC
from ovms_scaler.core.target import render_proxy_files
from ovms_scaler.core.wedge import Wedge

UNIT = "ovms@chat-numa0.service"


def of(*actions: Action) -> Plan:
    return Plan(actions=actions, verdicts={}, in_rotation=frozenset())


async def settle(host: DaemonHost) -> None:
    """Wait for the jobs in the background."""
    jobs = [task for task in asyncio.all_tasks() if task.get_name().startswith("job for ")]
    async with asyncio.timeout(10):
        await asyncio.gather(*jobs)
    await asyncio.sleep(0)
    assert host.memory.jobs == set()


def write_of(host: DaemonHost) -> Write:
    return Write(instance="chat-numa0", files=host.target().wanted["chat-numa0"].files)


async def test_write_and_start(host: DaemonHost) -> None:
    await host.applier.apply(of(StartTarget(), write_of(host), Start(instance="chat-numa0")))
    assert host.memory.jobs == {"chat-numa0"}
    await settle(host)
    assert host.units.calls == [("start", "ovms.target"), ("reset-failed", UNIT), ("start", UNIT)]
    assert host.store.read_instance("chat-numa0") == dict(host.target().wanted["chat-numa0"].files)
    assert host.memory.start_errors == {}


async def test_stop_and_remove(host: DaemonHost) -> None:
    await host.applier.apply(of(write_of(host), Start(instance="chat-numa0")))
    await settle(host)
    await host.observe()
    await host.applier.apply(of(Stop(instance="chat-numa0")))
    await settle(host)
    assert not host.units.read_unit(UNIT).is_running
    assert UNIT not in host.store.read_started()
    await host.applier.apply(of(Remove(instance="chat-numa0")))
    assert host.store.list_instances() == frozenset()


async def test_a_write_that_fails_skips_the_start_of_that_instance_only(host: DaemonHost) -> None:
    (host.root / "run/ovms-scaler/instances").mkdir(parents=True)
    (host.root / "run/ovms-scaler/instances/chat-numa0").write_text("a file where a directory must be")
    both = host.target(nodes=2).wanted
    failures = await host.applier.apply(
        of(
            Write(instance="chat-numa0", files=both["chat-numa0"].files),
            Start(instance="chat-numa0"),
            Write(instance="chat-numa1", files=both["chat-numa1"].files),
            Start(instance="chat-numa1"),
        )
    )
    await settle(host)
    assert [failure.partition(":")[0] for failure in failures] == [
        f"cannot write {host.root}/run/ovms-scaler/instances/chat-numa0/graph.pbtxt"
    ]
    assert [call for call in host.units.calls if call[0] == "start"] == [
        ("start", "ovms@chat-numa1.service")
    ]


async def test_a_target_that_does_not_start_holds_up_no_instance(host: DaemonHost) -> None:
    host.units.installed = ("ovms@*.service",)
    await host.applier.apply(of(StartTarget(), write_of(host), Start(instance="chat-numa0")))
    await settle(host)
    assert host.units.read_unit(UNIT).active_state == "active"


async def test_a_job_holds_up_nothing_and_is_seen_as_one(host: DaemonHost) -> None:
    await host.applier.apply(of(write_of(host)))
    host.units.answering.clear()
    await host.applier.apply(of(Start(instance="chat-numa0")))
    assert host.memory.jobs == {"chat-numa0"}
    host.units.answering.set()
    await settle(host)
    assert host.units.read_unit(UNIT).active_state == "active"


async def test_hundreds_of_starts_do_not_stand_in_line_with_their_deadlines_running(
    host: DaemonHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    under_way = 0
    read_units = host.units.read_units

    async def read_in_turn(units: Iterable[str]) -> dict[str, UnitFacts]:
        nonlocal under_way
        under_way += 1
        asked.append(under_way)
        await asyncio.sleep(0)  # others have their turn
        under_way -= 1
        return await read_units(units)

    monkeypatch.setattr(FakeUnits, "read_units", lambda _, units: read_in_turn(units))
    ids = [f"chat-numa0.{number}" for number in range(200)]
    await host.applier.apply(of(*(Start(instance=one) for one in ids)))
    await settle(host)
    assert asked == [1] * len(ids)
    assert [unit for verb, unit in host.units.calls if verb == "start"] == [
        f"ovms@{one}.service" for one in ids
    ]


async def test_a_start_whose_job_takes_long_holds_up_no_other(
    host: DaemonHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = host.units.start

    async def start_late(unit: str) -> str:
        if unit == UNIT:
            await asyncio.Event().wait()
        return await start(unit)

    monkeypatch.setattr(FakeUnits, "start", lambda _, unit: start_late(unit))
    await host.applier.apply(of(Start(instance="chat-numa0"), Start(instance="chat-numa1")))
    other = next(task for task in asyncio.all_tasks() if task.get_name() == "job for chat-numa1")
    async with asyncio.timeout(10):
        await other
    await asyncio.sleep(0)
    assert host.memory.jobs == {"chat-numa0"}
    await host.applier.close()


async def test_an_agent_that_ends_waits_for_no_job(host: DaemonHost) -> None:
    host.units.answering.clear()
    await host.applier.apply(of(Start(instance="chat-numa0")))
    async with asyncio.timeout(5):
        await host.applier.close()
    assert host.memory.jobs == set()


@pytest.mark.parametrize(
    "result", ["failed", "timeout", "dependency", "canceled"], ids=lambda result: f"job {result}"
)
async def test_a_start_that_fails_is_remembered_until_it_is_worth_another(
    host: DaemonHost, result: str
) -> None:
    target = host.target()
    await host.applier.apply(of(write_of(host)))
    host.units.next_results[UNIT] = result
    await host.applier.apply(of(Start(instance="chat-numa0")))
    await settle(host)
    await host.units.start("ovms.target")
    facts = await host.observe(target)
    planned = plan(target, facts)
    verdict = planned.verdicts["chat-numa0"]
    assert (verdict.state, verdict.reason) == (State.failed, f"systemd did not start it: {result}")
    assert not any(isinstance(action, Start) for action in planned.actions)
    # Later it is tried again, and success forgets the error.
    own = replace(facts.instances["chat-numa0"], since_start_sec=RETRY_SEC)
    later = plan(target, replace(facts, instances={"chat-numa0": own}))
    assert any(isinstance(action, Start) for action in later.actions)
    await host.applier.apply(of(Start(instance="chat-numa0")))
    await settle(host)
    assert host.memory.start_errors == {}


async def test_a_start_that_systemd_refuses_is_remembered_in_its_words(host: DaemonHost) -> None:
    host.units.mask(UNIT)
    await host.applier.apply(of(Start(instance="chat-numa0")))
    await settle(host)
    assert host.memory.start_errors["chat-numa0"][0] == f"cannot start {UNIT}: unit is masked"


async def test_a_unit_that_is_loaded_with_old_files_makes_systemd_read_them(host: DaemonHost) -> None:
    await host.applier.apply(of(write_of(host), Start(instance="chat-numa0")))
    await settle(host)
    host.units.fail(UNIT)  # it stays loaded, with its files as they were
    changed = host.target({"smt": "physical"}).wanted["chat-numa0"].files
    await host.applier.apply(of(Write(instance="chat-numa0", files=changed)))
    pin_loaded(host.units)
    await host.applier.apply(of(Start(instance="chat-numa0")))
    await settle(host)
    assert host.units.calls[-2:] == [("daemon-reload", ""), ("start", UNIT)]


def pin_loaded(units: FakeUnits) -> None:
    """As if something else referred to the unit: resetting its failure does not unload it."""
    entry = units.loaded[UNIT]
    entry.facts = replace(entry.facts, active_state="inactive")


async def test_a_reload_of_systemd_is_not_made_without_need(host: DaemonHost) -> None:
    for _ in range(2):
        await host.applier.apply(of(write_of(host), Start(instance="chat-numa0")))
        await settle(host)
        await host.applier.apply(of(Stop(instance="chat-numa0")))
        await settle(host)
    assert ("daemon-reload", "") not in host.units.calls


async def test_a_stop_that_fails_is_tried_by_the_next_pass(host: DaemonHost) -> None:
    await host.applier.apply(of(write_of(host), Start(instance="chat-numa0")))
    await settle(host)
    host.units.overdue = 1
    await host.applier.apply(of(Stop(instance="chat-numa0")))
    await settle(host)
    host.units.thaw()
    assert host.units.read_unit(UNIT).is_running
    assert host.memory.jobs == set()


async def test_a_systemd_that_is_silent_refuses_nothing(host: DaemonHost) -> None:
    target = host.target()
    files = render_proxy_files(target, {})
    host.proxy.silent = True
    failures = await host.applier.apply(of(InstallProxy(files=files)))
    assert failures == ("cannot reload the proxy: systemd does not answer",)
    planned = plan(target, await host.observe(target))
    assert any(isinstance(action, InstallProxy) for action in planned.actions)


async def test_a_proxy_that_refuses_is_remembered_until_it_takes_something(host: DaemonHost) -> None:
    target = host.target()
    files = render_proxy_files(target, {})
    host.proxy.refuses = "worker_processes"
    await host.applier.apply(of(InstallProxy(files=files)))
    facts = await host.observe(target)
    assert (facts.proxy.refused, facts.since_refusal_sec < RETRY_SEC) == (files.generation, True)
    assert "nginx refuses it" in facts.proxy.error
    planned = plan(target, facts)
    assert not any(isinstance(action, InstallProxy) for action in planned.actions)
    assert planned.wake_in_sec is not None
    assert 0 < planned.wake_in_sec <= RETRY_SEC
    host.proxy.refuses = ""
    await host.applier.apply(of(InstallProxy(files=files)))
    facts = await host.observe(target)
    assert (facts.proxy.refused, facts.proxy.error) == ("", "")
    assert facts.since_reload_sec < RETRY_SEC


async def test_a_failure_that_lasts_is_logged_once_and_again_when_it_returns(host: DaemonHost) -> None:
    (host.root / "run").mkdir(exist_ok=True)
    (host.root / "run/systemd").write_text("a file where a directory must be")
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            assert await host.applier.apply(of(write_of(host)))
        assert await host.applier.apply(of()) == ()
        assert await host.applier.apply(of(write_of(host)))
    assert [entry["event"] for entry in logged] == ["action failed"] * 2


CARD = "0000:03:00.0"
HELPER = f"ovms-scaler-gpu-recovery@rebind-{CARD}.service"


async def recover(host: DaemonHost, method: str) -> Wedge:
    """Carry one recovery out; what is known of the card then."""
    event = DeviceEvent(action="change", subsystem="drm", address=CARD, wedged=(method,), detail="hung")
    host.wedges.note_hang(event, window_sec=600)
    await host.applier.apply(of(Recover(instance="chat-numa0", address=CARD, method=method)))
    assert host.memory.jobs == {"chat-numa0"}
    await settle(host)
    return host.wedges.read()[CARD]


@pytest.mark.parametrize("method", ["rebind", "bus-reset", "cold-reset"])
async def test_recovery_is_the_work_of_a_unit(host: DaemonHost, method: str) -> None:
    helper = f"ovms-scaler-gpu-recovery@{method}-{CARD}.service"
    host.units.installed = ("*",)
    wedge = await recover(host, method)
    assert wedge.is_recovered
    assert host.units.calls == [("reset-failed", helper), ("start", helper), ("reset-failed", UNIT)]


async def test_restart_is_no_work_at_all(host: DaemonHost) -> None:
    wedge = await recover(host, "restart")
    assert wedge.is_recovered
    assert host.units.calls == [("reset-failed", UNIT)]


async def test_recovery_that_fails_is_told_with_its_log(host: DaemonHost) -> None:
    host.units.installed = ("*",)
    host.units.next_results[HELPER] = "failed"
    wedge = await recover(host, "rebind")
    assert (wedge.is_recovered, wedge.attempt) == (False, 2)
    assert wedge.error == f"rebind did not help (journalctl -u {HELPER})"


async def test_recovery_that_systemd_refuses_is_told_in_its_words(host: DaemonHost) -> None:
    wedge = await recover(host, "rebind")
    assert (wedge.is_recovered, wedge.attempt) == (False, 2)
    assert wedge.error == f"cannot start {HELPER}: unit is not installed or not loaded"


async def test_instance_that_failed_on_the_card_is_to_be_started_anew(host: DaemonHost) -> None:
    await host.applier.apply(of(write_of(host), Start(instance="chat-numa0")))
    await settle(host)
    await host.observe()
    host.units.fail(UNIT)
    await recover(host, "restart")
    own = (await host.observe()).instances["chat-numa0"]
    assert own.unit is not None
    assert (own.unit.active_state, own.started) == ("inactive", False)


async def test_card_that_was_pulled_out_meanwhile_is_not_known_of(host: DaemonHost) -> None:
    await host.applier.apply(of(Recover(instance="chat-numa0", address=CARD, method="restart")))
    await settle(host)
    assert host.wedges.read() == {}


async def test_forgetting_refusals_starts_over_with_cards(host: DaemonHost) -> None:
    await recover(host, "rebind")
    host.applier.forget_refusals()
    wedge = host.wedges.read()[CARD]
    assert (wedge.attempt, wedge.error) == (1, "")


async def start(host: DaemonHost) -> str:
    """The invocation that runs then."""
    await host.applier.apply(of(StartTarget(), write_of(host), Start(instance="chat-numa0")))
    await settle(host)
    return host.units.read_unit(UNIT).invocation_id


async def test_a_kill_is_counted_whether_it_worked_or_not(host: DaemonHost) -> None:
    kill = Kill(instance="chat-numa0", invocation_id=await start(host), reason="it errs")
    assert await host.applier.apply(of(kill)) == ()
    assert host.units.read_unit(UNIT).sub_state == "auto-restart"
    assert await host.applier.apply(of(kill)) == (f"cannot kill {UNIT}: no main process to kill",)
    facts = (await host.observe()).instances["chat-numa0"]
    assert len(facts.repairs) == 2
    host.applier.forget_refusals()
    assert (await host.observe()).instances["chat-numa0"].repairs == ()


async def test_what_hangs_is_killed_without_systemd(host: DaemonHost) -> None:
    killed: list[tuple[int, str]] = []

    def kill(pid: int, unit: str) -> bool:
        killed.append((pid, unit))
        return True

    host.units.kill_process = kill
    invocation = await start(host)
    host.units.answering.clear()
    action = Kill(instance="chat-numa0", invocation_id=invocation, reason="it hangs", pid=4711)
    assert await host.applier.apply(of(action)) == ()
    assert killed == [(4711, UNIT)]
    assert len((await host.observe()).instances["chat-numa0"].repairs) == 1


async def test_a_process_that_came_since_is_not_killed(host: DaemonHost) -> None:
    kill = Kill(instance="chat-numa0", invocation_id=await start(host), reason="it errs")
    host.units.die(UNIT)
    host.units.restart_elapsed(UNIT)
    assert await host.applier.apply(of(kill)) == ()
    assert ("kill", UNIT) not in host.units.calls
    assert (await host.observe()).instances["chat-numa0"].repairs == ()


@pytest.mark.parametrize("dead", [False, True])
async def test_what_hangs_is_killed_and_then_stopped_for_good(host: DaemonHost, *, dead: bool) -> None:
    await start(host)
    if dead:
        host.units.die(UNIT)
    await host.applier.apply(of(Stop(instance="chat-numa0", at_once=True)))
    await settle(host)
    assert host.units.calls[-3:] == [("kill", UNIT), ("stop", UNIT), ("reset-failed", UNIT)]
    own = (await host.observe()).instances["chat-numa0"]
    assert own.unit is not None
    assert (own.unit.active_state, own.started) == ("inactive", False)
