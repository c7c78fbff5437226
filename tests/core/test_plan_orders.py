# SPDX-License-Identifier: Apache-2.0
"""Drained, restarted and paused instances, replayed in a world in memory from every interruption."""

from dataclasses import replace

import pytest
import world
from hypothesis import given, settings
from hypothesis import strategies as st
from world import World

from ovms_scaler.core.facts import Probe
from ovms_scaler.core.lifecycle import State
from ovms_scaler.core.ordering import order_undrain
from ovms_scaler.core.plan import plan
from ovms_scaler.core.target import Target

FIRST, SECOND = "chat-numa0", "chat-numa1"
BOTH = {FIRST, SECOND}
PHYSICAL = {"smt": "physical"}


def started(nodes: int = 2, **pool: object) -> tuple[World, Target]:
    host, wanted = World(), world.target(pool, nodes=nodes)
    host.settle(wanted)
    return host, wanted


def invocations(host: World) -> dict[str, str]:
    return {name: unit.invocation_id for name, unit in host.units.items()}


def least_in_rotation(host: World, wanted: Target, *, passes: int = 40) -> int:
    """How few were in rotation while so many passes went by, every engine loading in between."""
    least = len(host.routed(wanted))
    for _ in range(passes):
        host.step(wanted)
        least = min(least, len(host.routed(wanted)))
        for name in [name for name, health in host.health.items() if not health.warmed]:
            host.load(name)
        host.since_reload_sec = float("inf")
    return least


def test_drained_leaves_at_once_waits_for_its_answers_and_is_stopped() -> None:
    host, wanted = started()
    host.connections[FIRST] = 2
    host.drain(FIRST)
    host.step(wanted)
    assert host.routed(wanted) == {SECOND}
    planned = host.step(wanted)
    assert planned.actions == ()
    assert planned.verdicts[FIRST].state is State.draining
    assert planned.verdicts[FIRST].reason == "drained by the administrator; 2 connections left"
    assert planned.wake_in_sec == 1.0
    host.connections.clear()
    host.settle(wanted)
    planned = host.step(wanted)
    assert host.units[FIRST].active_state == "inactive"
    assert planned.verdicts[FIRST].state is State.drained
    assert planned.verdicts[FIRST].hint == "ovms-scalerctl undrain chat-numa0"


def test_undrained_is_started_and_routed_when_ready() -> None:
    host, wanted = started()
    host.drain(FIRST)
    host.settle(wanted)
    host.orders = order_undrain(host.orders, [FIRST])
    host.step(wanted)
    assert host.routed(wanted) == {SECOND}
    host.settle(wanted)
    assert host.routed(wanted) == BOTH


def test_the_last_one_stays_in_rotation_unless_its_outage_is_allowed() -> None:
    host, wanted = started(nodes=1)
    host.drain(FIRST)
    planned = host.step(wanted)
    assert planned.actions == ()
    assert planned.verdicts[FIRST].state is State.ready
    assert planned.in_rotation == {FIRST}
    assert planned.verdicts[FIRST].hint == "ovms-scalerctl drain chat-numa0 --allow-outage"
    host.drain(FIRST, allow_outage=True)
    host.settle(wanted)
    assert host.step(wanted).verdicts[FIRST].state is State.drained


def test_a_drain_waits_when_the_other_one_has_died_meanwhile() -> None:
    host, wanted = started()
    host.drain(FIRST)
    host.end(SECOND, state="activating", result="signal")
    host.step(wanted)
    assert host.routed(wanted) == {FIRST}
    host.run(SECOND, wanted.wanted[SECOND].instance.cpus)
    assert least_in_rotation(host, wanted) == 1
    assert host.routed(wanted) == {SECOND}


def test_drained_after_a_reboot_is_not_started() -> None:
    host, wanted = started()
    host.drain(FIRST)
    rebooted = World()
    rebooted.orders = host.orders
    rebooted.settle(wanted)
    assert rebooted.routed(wanted) == {SECOND}
    assert FIRST not in rebooted.units


def test_drained_holds_up_no_change_of_others_and_is_changed_when_it_comes_back() -> None:
    host, _ = started(nodes=3)
    host.drain(FIRST)
    changed = world.target(PHYSICAL, nodes=3)
    assert least_in_rotation(host, changed) == 1
    assert host.routed(changed) == {"chat-numa1", "chat-numa2"}
    assert host.cpus[SECOND] == changed.wanted[SECOND].instance.cpus
    assert host.files[FIRST] != changed.wanted[FIRST].files
    host.orders = order_undrain(host.orders, [FIRST])
    host.settle(changed)
    assert host.cpus[FIRST] == changed.wanted[FIRST].instance.cpus


def test_drained_that_failed_is_drained() -> None:
    host, wanted = started()
    host.drain(FIRST)
    host.end(FIRST, state="failed", result="exit-code")
    host.settle(wanted)
    assert host.step(wanted).verdicts[FIRST].state is State.drained


def test_drained_that_hangs_is_stopped_at_once_as_its_answers_would_never_end() -> None:
    host, wanted = started()
    host.connections[FIRST] = 2
    host.drain(FIRST)
    host.step(wanted)
    stuck = replace(
        host.health[FIRST], fault="it got no further", works=False, faulty_since_sec=host.now_sec
    )
    host.health[FIRST] = stuck
    host.step(wanted)
    assert host.log[-1] == "stop ovms@chat-numa0.service by SIGKILL"
    host.settle(wanted)
    assert host.step(wanted).verdicts[FIRST].state is State.drained
    assert host.routed(wanted) == {SECOND}


def test_restart_rolls_through_the_instances() -> None:
    host, wanted = started(nodes=3)
    before = invocations(host)
    host.restart(*before)
    assert least_in_rotation(host, wanted) == 2
    assert host.routed(wanted) == before.keys()
    assert all(now != before[name] for name, now in invocations(host).items())
    assert not host.orders.restarts


def test_restart_says_who_waits_for_whom() -> None:
    host, wanted = started()
    host.restart(*BOTH)
    planned = host.step(wanted)
    assert planned.verdicts[FIRST].state is State.draining
    assert planned.verdicts[FIRST].reason == "it is restarted"
    assert planned.verdicts[SECOND].reason == "its restart waits until chat-numa0 serves again"


def test_restart_of_one_leaves_the_others() -> None:
    host, wanted = started()
    before = invocations(host)
    host.restart(SECOND)
    host.settle(wanted)
    now = invocations(host)
    assert (now[FIRST] == before[FIRST], now[SECOND] == before[SECOND]) == (True, False)


def test_max_unavailable_lets_more_go_and_never_the_last() -> None:
    host, wanted = started(nodes=4, max_unavailable=2)
    host.restart(*host.units)
    assert least_in_rotation(host, wanted) == 2
    host, wanted = started(nodes=2, max_unavailable=2)
    host.restart(*host.units)
    assert least_in_rotation(host, wanted) == 1
    assert not host.orders.restarts


@pytest.mark.parametrize("max_unavailable", [1, 2])
def test_restart_that_fails_halts_with_the_rest_serving(max_unavailable: int) -> None:
    host, wanted = started(nodes=4, max_unavailable=max_unavailable)
    before = invocations(host)
    host.restart(*before)
    for _ in range(30):
        host.step(wanted)
        for name in [name for name, health in host.health.items() if not health.warmed]:
            host.end(name, state="failed", result="exit-code")
    assert len(host.routed(wanted)) == 4 - max_unavailable
    assert len(host.orders.restarts) == 4 - max_unavailable


def test_restart_goes_no_further_when_one_of_several_at_a_time_fails() -> None:
    host, wanted = started(nodes=4, max_unavailable=2)
    host.restart(*host.units)
    for _ in range(30):
        host.step(wanted)
        for name in [name for name, health in host.health.items() if not health.warmed]:
            if name == FIRST:
                host.end(name, state="failed", result="exit-code")
            else:
                host.load(name)
        host.since_reload_sec = float("inf")
    assert host.routed(wanted) == wanted.wanted.keys() - {FIRST}
    assert host.orders.restarts.keys() == {"chat-numa2", "chat-numa3"}


def test_restart_of_the_only_one_waits_for_permission() -> None:
    host, wanted = started(nodes=1)
    before = invocations(host)
    host.restart(FIRST)
    planned = host.step(wanted)
    assert planned.verdicts[FIRST].reason == "its restart needs an outage: it is the only one that serves"
    assert planned.verdicts[FIRST].hint == "ovms-scalerctl restart chat-numa0 --allow-outage"
    host.settle(wanted)
    assert invocations(host) == before
    host.restart(FIRST, allow_outage=True)
    host.settle(wanted)
    assert invocations(host) != before
    assert host.routed(wanted) == {FIRST}


def test_restart_at_once_takes_all_when_that_is_allowed() -> None:
    host, wanted = started()
    host.restart(*BOTH, is_rolling=False, allow_outage=True)
    host.step(wanted)
    assert host.routed(wanted) == set()
    host.settle(wanted)
    assert host.routed(wanted) == BOTH


def test_one_that_is_to_be_restarted_and_is_not_routed_does_not_join() -> None:
    host, wanted = started()
    host.unroute(FIRST)
    host.restart(FIRST)
    before = invocations(host)
    host.step(wanted)
    assert host.routed(wanted) == {SECOND}
    assert host.units[FIRST].active_state == "inactive"
    host.settle(wanted)
    assert invocations(host)[FIRST] != before[FIRST]


def test_one_whose_model_vanished_is_not_restarted() -> None:
    host, wanted = started()
    broken = {
        name: replace(one, instance=replace(one.instance, problem="no such directory"))
        for name, one in wanted.wanted.items()
    }
    host.restart(*BOTH)
    vanished = replace(wanted, wanted=broken)
    assert plan(vanished, host.facts(vanished)).actions == ()


def test_paused_shows_what_it_would_do_and_does_nothing() -> None:
    host, wanted = started()
    changed = world.target(PHYSICAL)
    host.end(SECOND, state="failed", result="exit-code")
    host.orders = replace(host.orders, paused_since=17.5)
    acting = plan(changed, replace(host.facts(changed), orders=replace(host.orders, paused_since=None)))
    planned = host.step(changed)
    assert planned.actions == ()
    assert planned.deferred == acting.actions != ()
    verdict = planned.verdicts[SECOND]
    assert verdict.state is State.quarantined or verdict.state is State.failed
    assert "the agent is paused" in verdict.reason
    assert verdict.hint == "ovms-scalerctl resume"
    host.orders = replace(host.orders, paused_since=None)
    host.settle(changed)
    assert host.routed(changed) == BOTH
    assert wanted.wanted.keys() == changed.wanted.keys()


def test_paused_tells_of_one_that_would_join_and_of_one_that_would_leave() -> None:
    host, wanted = started()
    host.since_reload_sec = float("inf")
    host.unroute(FIRST)
    host.drain(SECOND, allow_outage=True)
    host.orders = replace(host.orders, paused_since=17.5)
    planned = host.step(wanted)
    assert planned.verdicts[FIRST].reason.endswith("not done: joins")
    assert planned.verdicts[SECOND].reason.endswith("not done: leaves")
    assert planned.in_rotation == {SECOND}


@pytest.mark.parametrize(
    "order", ["drain", "restart", "restart at once", "drain and change", "restart and change"]
)
def test_orders_interrupted_anywhere_are_finished_by_the_next_pass(order: str) -> None:
    for interrupted_pass in range(6):
        for actions_done in range(4):
            host, wanted = started()
            changed = world.target(PHYSICAL) if order.endswith("change") else wanted
            if order.startswith("drain"):
                host.drain(FIRST)
            else:
                host.restart(*BOTH, is_rolling=order != "restart at once", allow_outage=True)
            before = invocations(host)
            for _ in range(interrupted_pass):
                host.step(changed)
            host.step(changed, interrupt_after=actions_done)
            host.settle(changed, allow_outage=True)
            assert host.routed(changed) == ({SECOND} if order.startswith("drain") else BOTH)
            assert plan(changed, host.facts(changed)).actions == ()
            if order.startswith("restart"):
                assert all(now != before[name] for name, now in invocations(host).items())


EVENTS = st.sampled_from(
    [
        *("crash", "fail", "ill", "well", "busy", "idle", "load", "change", "back", "pass"),
        *("drain", "undrain", "restart", "pause", "resume"),
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.sampled_from(sorted(BOTH))), max_size=30))
def test_orders_keep_the_invariants_whatever_happens(events: list[tuple[str, str]]) -> None:
    host, wanted = started()
    first, changed = wanted, world.target(PHYSICAL)
    for event, name in events:
        active = name in host.units and host.units[name].active_state == "active"
        match event:
            case "crash" | "fail" if active:
                host.end(name, state={"crash": "activating", "fail": "failed"}[event])
            case "ill" if name in host.health:
                host.health[name] = replace(host.health[name], failures=9, probe=Probe.silent)
            case "well" if name in host.health:
                host.health[name] = replace(host.health[name], failures=0, probe=Probe.available)
            case "busy" | "idle":
                host.connections[name] = 3 if event == "busy" else 0
            case "load" if name in host.health:
                host.load(name)
            case "change" | "back":
                wanted = changed if event == "change" else first
            case "drain":
                host.drain(name)
            case "undrain":
                host.orders = order_undrain(host.orders, [name])
            case "restart" if active:
                host.restart(name)
            case "pause" | "resume":
                host.orders = replace(host.orders, paused_since=17.5 if event == "pause" else None)
            case _:
                host.step(wanted)
        before = host.routed(wanted)
        host.step(wanted)
        # No order takes the last one out.
        assert host.routed(wanted) or not before
