# SPDX-License-Identifier: Apache-2.0
"""What is done about instances that run and do not infer."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import world
from world import World

from ovms_scaler.core.facts import Probe
from ovms_scaler.core.lifecycle import State
from ovms_scaler.core.repair import (
    BACK_OFF_SEC,
    CRASH_WINDOW_SEC,
    CRASHES,
    DRAIN_SEC,
    LOAD_SEC,
    LONGEST_BACK_OFF_SEC,
    PATIENCE_SEC,
)
from ovms_scaler.core.target import Target

ONE, TWO = "chat-numa0", "chat-numa1"
HUNG = {"probe": Probe.silent, "failures": 2, "works": False}
BUSY = {"probe": Probe.silent, "failures": 9, "works": True}
GONE = {"probe": Probe.refused, "failures": 2, "works": True}
ERRS = {"fault": "it answers a good request with an error"}
STUCK = {"fault": "it got no further", "works": False}
TARGET = world.target()


@pytest.fixture(name="host")
def settled_world() -> World:
    host = World()
    host.settle(TARGET)
    assert host.routed(TARGET) == {ONE, TWO}
    host.now_sec = 1000.0
    host.log.clear()
    return host


def fall_ill(host: World, *names: str, **signs: Any) -> None:
    for name in names:
        host.health[name] = replace(host.health[name], faulty_since_sec=host.now_sec, **signs)


def killed(host: World) -> list[str]:
    return [line for line in host.log if line.startswith("kill ")]


@pytest.mark.parametrize("signs", [HUNG, STUCK], ids=["hung", "stuck"])
def test_one_in_which_nothing_moves_is_killed_right_after_it_left(host: World, signs: Any) -> None:
    fall_ill(host, ONE, **signs)
    host.connections[ONE] = 5
    first = host.step(TARGET)
    assert first.verdicts[ONE].state is State.ejected
    assert (host.routed(TARGET), killed(host)) == ({TWO}, [])
    host.step(TARGET)
    assert killed(host) == [f"kill ovms@{ONE}.service"]
    host.connections.clear()
    host.settle(TARGET)
    assert host.routed(TARGET) == {ONE, TWO}
    assert len(killed(host)) == 1


@pytest.mark.parametrize("signs", [ERRS, GONE], ids=["errs", "gone"])
@pytest.mark.parametrize("ends", [True, False], ids=["requests end", "requests go on"])
def test_one_that_may_still_answer_is_drained_first(host: World, signs: Any, *, ends: bool) -> None:
    fall_ill(host, ONE, **signs)
    host.connections[ONE] = 1
    host.step(TARGET)
    waiting = host.step(TARGET)
    assert (killed(host), waiting.wake_in_sec) == ([], 1.0)
    host.now_sec += PATIENCE_SEC
    if ends:
        host.connections.clear()
    else:
        host.now_sec += DRAIN_SEC - PATIENCE_SEC - 0.5
        host.step(TARGET)
        assert killed(host) == []
        host.now_sec += 0.5
    host.step(TARGET)
    assert killed(host) == [f"kill ovms@{ONE}.service"]


def test_a_silent_one_without_requests_is_given_time(host: World) -> None:
    fall_ill(host, ONE, **HUNG)
    for _ in range(3):
        host.step(TARGET)
    assert (host.routed(TARGET), killed(host)) == ({TWO}, [])
    host.now_sec += PATIENCE_SEC
    host.step(TARGET)
    assert killed(host) == [f"kill ovms@{ONE}.service"]


def test_one_that_computes_is_busy(host: World) -> None:
    fall_ill(host, ONE, **BUSY)
    host.now_sec += 1000
    planned = host.step(TARGET)
    assert (planned.verdicts[ONE].state, planned.actions) == (State.suspect, ())
    assert host.routed(TARGET) == {ONE, TWO}


def test_one_that_loads_its_models_again_is_not_killed(host: World) -> None:
    fall_ill(host, ONE, probe=Probe.loading, failures=2)
    for _ in range(3):
        host.now_sec += 100
        host.step(TARGET)
    assert (host.routed(TARGET), killed(host)) == ({TWO}, [])


def test_of_those_at_fault_together_one_leaves_and_the_next_waits_until_it_is_ready(host: World) -> None:
    fall_ill(host, ONE, TWO, **ERRS)
    host.connections = {ONE: 30, TWO: 30}
    host.step(TARGET)
    assert (host.routed(TARGET), killed(host)) == ({TWO}, [])
    host.connections[ONE] = 0
    host.step(TARGET)
    assert killed(host) == [f"kill ovms@{ONE}.service"]
    for _ in range(5):
        host.now_sec += 10
        host.step(TARGET)
        assert (host.routed(TARGET), len(killed(host))) == ({TWO}, 1)
    host.load(ONE)
    host.since_reload_sec = float("inf")
    host.step(TARGET)
    host.step(TARGET)
    assert host.routed(TARGET) == {ONE}
    host.connections.clear()
    host.settle(TARGET)
    assert killed(host) == [f"kill ovms@{ONE}.service", f"kill ovms@{TWO}.service"]
    assert host.routed(TARGET) == {ONE, TWO}


def test_the_one_in_which_nothing_moves_comes_first(host: World) -> None:
    fall_ill(host, ONE, **ERRS)
    fall_ill(host, TWO, **STUCK)
    host.step(TARGET)
    host.step(TARGET)
    assert killed(host) == [f"kill ovms@{TWO}.service"]


def test_the_next_is_repaired_although_the_first_does_not_get_ready(host: World) -> None:
    fall_ill(host, ONE, TWO, **STUCK)
    host.step(TARGET)
    host.step(TARGET)
    host.now_sec += LOAD_SEC
    host.step(TARGET)
    assert killed(host) == [f"kill ovms@{ONE}.service", f"kill ovms@{TWO}.service"]


@pytest.mark.parametrize(("signs", "patience_sec"), [(ERRS, 0.0), (HUNG, PATIENCE_SEC)])
def test_the_only_one_is_killed_in_rotation_when_it_answers_nothing(signs: Any, patience_sec: float) -> None:
    host, alone = World(), world.target(nodes=1)
    host.settle(alone)
    host.log.clear()
    for number in range(alone.health.repair_attempts + 2):
        fall_ill(host, ONE, **signs)
        if patience_sec or number:
            host.step(alone)
        assert (host.routed(alone), len(killed(host))) == ({ONE}, number)
        # It is never given up: there is no other one.
        host.now_sec += max(patience_sec, LONGEST_BACK_OFF_SEC)
        host.step(alone)
        assert len(killed(host)) == number + 1
        host.settle(alone)
        assert host.routed(alone) == {ONE}


def test_all_that_fall_silent_together_stay_for_a_while(host: World) -> None:
    fall_ill(host, ONE, TWO, **HUNG)
    host.step(TARGET)
    assert (host.routed(TARGET), killed(host)) == ({ONE, TWO}, [])
    host.now_sec += PATIENCE_SEC
    host.step(TARGET)
    host.step(TARGET)
    assert (host.routed(TARGET), len(killed(host))) == ({TWO}, 1)


def test_one_that_still_serves_other_models_is_not_killed(host: World) -> None:
    both = {name: replace(one, expected=("org/tiny", "org/other")) for name, one in TARGET.wanted.items()}
    several = replace(TARGET, wanted=both)
    broken = {"probe": Probe.failed, "failures": 9, "detail": "'org/other' failed to load"}
    fall_ill(host, ONE, TWO, **broken)
    for _ in range(5):
        host.now_sec += 100
        host.step(several)
    assert (host.routed(several), killed(host)) == ({ONE, TWO}, [])
    fall_ill(host, TWO, probe=Probe.available, failures=0)
    verdict = host.step(several).verdicts[ONE]
    assert (verdict.state, verdict.hint) == (State.ejected, f"ovms-scalerctl restart {ONE}")
    fall_ill(host, ONE, probe=Probe.refused)
    host.now_sec += 100
    host.step(several)
    assert len(killed(host)) == 1


def test_one_that_computes_is_given_time_to_answer(host: World) -> None:
    fall_ill(host, ONE, works=True, **ERRS)
    host.connections[ONE] = 1
    host.step(TARGET)
    host.now_sec += TARGET.health.busy_sec - 0.5
    host.step(TARGET)
    assert killed(host) == []
    host.now_sec += 0.5
    host.step(TARGET)
    assert killed(host) == [f"kill ovms@{ONE}.service"]


def test_one_that_hangs_is_killed_also_when_the_proxy_cannot_be_changed(host: World) -> None:
    host.refuses = True
    fall_ill(host, ONE, **HUNG)
    host.step(TARGET)
    assert (host.routed(TARGET), killed(host)) == ({ONE, TWO}, [])
    host.now_sec += PATIENCE_SEC
    host.step(TARGET)
    # Its unit takes it out.
    assert (host.routed(TARGET), killed(host)) == ({TWO}, [f"kill ovms@{ONE}.service"])


def test_repairs_back_off_and_end_in_quarantine(host: World) -> None:
    times = []
    for number in range(TARGET.health.repair_attempts):
        fall_ill(host, ONE, **STUCK)
        while len(killed(host)) == number:
            wake = host.step(TARGET).wake_in_sec
            host.now_sec += wake or 0.0
        times.append(host.now_sec)
        host.load(ONE)
        host.settle(TARGET)
    gaps = [after - before for before, after in pairwise(times)]
    assert [gap >= BACK_OFF_SEC * 2**number for number, gap in enumerate(gaps)] == [True, True]
    fall_ill(host, ONE, **STUCK)
    host.connections[ONE] = 5
    host.step(TARGET)
    host.now_sec += LONGEST_BACK_OFF_SEC
    given_up = host.step(TARGET)
    # Whoever has a request in it waits no longer.
    assert host.log[-1] == f"stop ovms@{ONE}.service by SIGKILL"
    for verdict in (given_up.verdicts[ONE], host.step(TARGET).verdicts[ONE]):
        assert (verdict.state, verdict.reason[:27]) == (State.quarantined, "it was repaired 3 times: it")
        assert f"ovms-scalerctl reset {ONE}" in verdict.hint
    assert (host.routed(TARGET), len(killed(host))) == ({TWO}, 3)
    host.now_sec += TARGET.health.repair_window_sec
    host.settle(TARGET)
    assert host.routed(TARGET) == {ONE, TWO}


UNREPAIRED = replace(TARGET, health=replace(TARGET.health, repair_attempts=0))


def test_without_repairs_it_is_left_to_the_administrator(host: World) -> None:
    fall_ill(host, ONE, TWO, **STUCK)
    for _ in range(3):
        host.now_sec += 1000
        planned = host.step(UNREPAIRED)
    assert (planned.actions, host.routed(UNREPAIRED)) == ((), {ONE, TWO})
    assert planned.verdicts[ONE].state is State.quarantined
    assert planned.verdicts[ONE].reason.startswith("health.repair_attempts is 0: ")


@pytest.mark.parametrize("target", [UNREPAIRED, TARGET], ids=["not repaired", "backs off"])
@pytest.mark.parametrize("order", ["restart", "drain", "change"])
def test_what_is_ordered_of_one_that_hangs_is_done_at_once(host: World, target: Target, order: str) -> None:
    host.repairs[ONE] = (host.now_sec, host.now_sec)
    fall_ill(host, ONE, **STUCK)
    host.connections[ONE] = 5
    host.step(target)
    assert host.routed(target) == {TWO}
    if order == "restart":
        host.restart(ONE)
    elif order == "drain":
        host.drain(ONE)
    else:
        target = replace(target, wanted=world.target({"smt": "physical"}).wanted)
    host.step(target)
    assert host.log[-1] == f"stop ovms@{ONE}.service by SIGKILL"
    host.settle(target)
    assert (ONE in host.routed(target)) == (order != "drain")


def crash(host: World, *names: str, times: int) -> None:
    """They end by themselves and systemd starts them again."""
    for name in names:
        cpus = host.cpus[name]
        host.end(name, state="activating")
        host.run(name, cpus)
        host.crashes[name] = (host.now_sec,) * times


def test_one_that_ends_again_and_again_is_put_down_while_others_serve(host: World) -> None:
    crash(host, ONE, times=CRASHES - 1)
    host.settle(TARGET)
    assert host.routed(TARGET) == {ONE, TWO}
    crash(host, ONE, times=CRASHES)
    planned = host.step(TARGET)
    for verdict in (planned.verdicts[ONE], host.step(TARGET).verdicts[ONE]):
        assert (verdict.state, verdict.reason[:31]) == (State.quarantined, "it ended 6 times within an hour")
        assert f"ovms-scalerctl reset {ONE}" in verdict.hint
    assert not host.units[ONE].is_running
    host.settle(TARGET)
    assert host.routed(TARGET) == {TWO}
    host.now_sec += CRASH_WINDOW_SEC
    host.settle(TARGET)
    assert host.routed(TARGET) == {ONE, TWO}


def test_all_that_end_again_and_again_go_on_but_for_those_that_another_replaces(host: World) -> None:
    crash(host, ONE, TWO, times=CRASHES)
    host.step(TARGET)
    host.load(ONE)
    host.load(TWO)
    host.settle(TARGET)
    assert host.routed(TARGET) == {ONE, TWO}
    crash(host, ONE, times=CRASHES)
    host.settle(TARGET)
    assert host.routed(TARGET) == {TWO}
    crash(host, TWO, times=CRASHES)
    host.settle(TARGET)
    assert host.routed(TARGET) == {TWO}


def test_the_wait_before_a_repair_grows_to_ten_minutes_at_most(host: World) -> None:
    alone = world.target(nodes=1)
    host.repairs[ONE] = (host.now_sec,) * 10
    fall_ill(host, ONE, **ERRS)
    host.now_sec += LONGEST_BACK_OFF_SEC - 1
    host.step(alone)
    assert killed(host) == []
    host.now_sec += 1
    host.step(alone)
    assert killed(host) == [f"kill ovms@{ONE}.service"]


def test_one_that_recovers_by_itself_comes_back(host: World) -> None:
    fall_ill(host, ONE, **ERRS)
    host.connections[ONE] = 1
    host.step(TARGET)
    assert host.routed(TARGET) == {TWO}
    host.health[ONE] = replace(host.health[ONE], fault="")
    host.settle(TARGET)
    assert (host.routed(TARGET), killed(host)) == ({ONE, TWO}, [])
