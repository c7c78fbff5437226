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
from ovms_scaler.core.repair import BACK_OFF_SEC, DRAIN_SEC, PATIENCE_SEC

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


def test_the_last_ones_are_killed_in_rotation_when_they_answer_nothing(host: World) -> None:
    fall_ill(host, ONE, TWO, **ERRS)
    host.step(TARGET)
    assert killed(host) == [f"kill ovms@{ONE}.service", f"kill ovms@{TWO}.service"]
    host.settle(TARGET)
    assert host.routed(TARGET) == {ONE, TWO}


def test_all_that_fall_silent_together_stay_for_a_while(host: World) -> None:
    fall_ill(host, ONE, TWO, **HUNG)
    host.step(TARGET)
    assert (host.routed(TARGET), killed(host)) == ({ONE, TWO}, [])
    host.now_sec += PATIENCE_SEC
    host.step(TARGET)
    assert len(killed(host)) == 2


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
    host.step(TARGET)
    given_up = host.step(TARGET)
    assert given_up.actions == ()
    verdict = given_up.verdicts[ONE]
    assert (verdict.state, verdict.reason[:27]) == (State.quarantined, "it was repaired 3 times: it")
    assert f"ovms-scalerctl reset {ONE}" in verdict.hint
    assert host.routed(TARGET) == {TWO}
    host.now_sec += TARGET.health.repair_window_sec
    host.step(TARGET)
    assert len(killed(host)) == 4


def test_one_that_recovers_by_itself_comes_back(host: World) -> None:
    fall_ill(host, ONE, **ERRS)
    host.connections[ONE] = 1
    host.step(TARGET)
    assert host.routed(TARGET) == {TWO}
    host.health[ONE] = replace(host.health[ONE], fault="")
    host.settle(TARGET)
    assert (host.routed(TARGET), killed(host)) == ({ONE, TWO}, [])
