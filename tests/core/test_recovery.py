# SPDX-License-Identifier: Apache-2.0
"""One instance whose GPU is away or hangs: the next step, and what people are told."""

from dataclasses import replace
from typing import Any

import pytest
import world

from ovms_scaler.core.actions import Action, Recover, Remove, Stop
from ovms_scaler.core.books import Books
from ovms_scaler.core.facts import Facts, InstanceFacts, UnitFacts
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.lifecycle import State
from ovms_scaler.core.placement import place
from ovms_scaler.core.recovery import Step, find_hang, plan_recovery, plan_waiting
from ovms_scaler.core.spec import GpuRules
from ovms_scaler.core.wedge import Wedge

A, B = "0000:03:00.0", "0000:04:00.0"
ID = "chat-hetero0"
NOW = 5000.0


def instance(*gpus: str) -> Instance:
    """One on two GPUs, of which these are there."""
    spec = world.spec({"placement": "hetero"})
    books = place(spec, world.topology(gpus=[world.gpu(A), world.gpu(B)]), Books()).books
    topology = world.topology(gpus=map(world.gpu, gpus))
    return place(spec, topology, books, planned=False).instances[0]


BOTH = instance(A, B)
WITHOUT_A = instance(B)
HANG = Wedge(methods=("rebind", "bus-reset"), detail="guc timeout", at_sec=NOW)


def own(state: str = "active", **facts: Any) -> InstanceFacts:
    unit = UnitFacts(unit=BOTH.unit, load_state="loaded", active_state=state, sub_state="")
    return replace(InstanceFacts(unit=unit, files={"/f": ""}), **facts)


# Which GPU hangs


@pytest.mark.parametrize(
    ("one", "wedges", "is_busy", "expected"),
    [
        pytest.param(BOTH, {}, False, None, id="none"),
        pytest.param(BOTH, {"0000:ff:00.0": HANG}, False, None, id="that of another"),
        pytest.param(BOTH, {A: replace(HANG, is_recovered=True)}, False, None, id="it did"),
        pytest.param(BOTH, {B: HANG}, False, B, id="the second"),
        pytest.param(BOTH, {B: HANG, A: HANG}, False, A, id="both: the first"),
        pytest.param(BOTH, {B: HANG, A: replace(HANG, is_recovered=True)}, False, B, id="one still does"),
        pytest.param(WITHOUT_A, {A: HANG}, False, None, id="it was pulled out"),
        pytest.param(WITHOUT_A, {A: HANG}, True, A, id="it is away while it is recovered"),
        pytest.param(WITHOUT_A, {A: HANG, B: HANG}, False, B, id="one was pulled out, one hangs"),
    ],
)
def test_find_hang(one: Instance, wedges: dict[str, Wedge], expected: str | None, *, is_busy: bool) -> None:
    found = find_hang(one, Facts(instances={ID: own(job=is_busy)}, wedges=wedges))
    assert found == (None if expected is None else (expected, wedges[expected]))
    if not is_busy:
        assert find_hang(one, Facts(wedges=wedges)) == found


# Its GPU is away


@pytest.mark.parametrize(
    ("facts", "routed", "actions"),
    [
        pytest.param(own(), False, (Stop(instance=ID),), id="it runs"),
        pytest.param(own(connections=3), False, (Stop(instance=ID),), id="with connections, which are lost"),
        pytest.param(own(), True, (), id="it is routed"),
        pytest.param(own("activating"), False, (Stop(instance=ID),), id="it starts"),
        pytest.param(own("deactivating"), False, (), id="it stops"),
        pytest.param(own(job=True), False, (), id="a job is under way"),
        pytest.param(own("inactive", job=True), False, (), id="it is about to start"),
        pytest.param(own("inactive"), False, (Remove(instance=ID),), id="it has stopped"),
        pytest.param(own("failed"), False, (Remove(instance=ID),), id="it has failed"),
        pytest.param(own("inactive", files={}), False, (), id="nothing is left"),
        pytest.param(own("inactive", unit=None), False, (), id="systemd does not answer"),
    ],
)
def test_plan_waiting(facts: InstanceFacts, actions: tuple[Action, ...], *, routed: bool) -> None:
    step = plan_waiting(WITHOUT_A, facts, routed=routed)
    assert step.actions == actions
    assert (step.verdict.state, step.verdict.reason) == (State.waiting, f"its GPU {A} is not there")
    hint = f'ovms-scalerctl topology; to give it up: gpu.exclude = ["{A}"]'
    assert (step.verdict.hint, step.wake_in_sec) == (hint, None)


# Its GPU hangs


def recover(
    wedge: Wedge, facts: InstanceFacts, *, routed: bool = False, after_sec: float = 0, **rules: Any
) -> Step:
    return plan_recovery(BOTH, A, wedge, facts, GpuRules(**rules), now_sec=NOW + after_sec, routed=routed)


CURED = replace(HANG, methods=("none",))


@pytest.mark.parametrize(
    ("wedge", "facts", "routed", "after_sec", "state", "actions", "wake_in_sec"),
    [
        pytest.param(HANG, own(unit=None), False, 0, State.absent, (), None, id="systemd does not answer"),
        pytest.param(HANG, own(), True, 0, State.draining, (), None, id="it is routed"),
        pytest.param(HANG, own(job=True), False, 0, State.draining, (), None, id="a job is under way"),
        pytest.param(HANG, own("deactivating"), False, 0, State.stopping, (), None, id="it stops"),
        pytest.param(
            HANG, own(connections=3), False, 0, State.stopping, (Stop(instance=ID),), None, id="all lost"
        ),
        pytest.param(CURED, own(connections=3), False, 0, State.draining, (), 1.0, id="reset: drained"),
        pytest.param(CURED, own(), False, 0, State.draining, (), 1.0, id="connections unknown"),
        pytest.param(CURED, own(connections=3), False, 29.75, State.draining, (), 0.25, id="nearly over"),
        pytest.param(
            CURED, own(connections=3), False, 30, State.stopping, (Stop(instance=ID),), None, id="time over"
        ),
        pytest.param(
            CURED, own(connections=0), False, 0, State.stopping, (Stop(instance=ID),), None, id="drained"
        ),
        pytest.param(
            CURED, own("activating", connections=0), False, 0, State.stopping, (Stop(instance=ID),), None,
            id="it restarts",
        ),
    ],
)  # fmt: skip
def test_running_instance_is_stopped(
    wedge: Wedge,
    facts: InstanceFacts,
    after_sec: float,
    state: State,
    actions: tuple[Action, ...],
    wake_in_sec: float | None,
    *,
    routed: bool,
) -> None:
    step = recover(wedge, facts, routed=routed, after_sec=after_sec)
    assert (step.verdict.state, step.actions, step.wake_in_sec) == (state, actions, wake_in_sec)
    assert step.verdict.reason == f"GPU {A} hangs: guc timeout"


def test_time_to_drain_is_as_configured() -> None:
    busy = own(connections=3)
    assert recover(CURED, busy, drain_timeout_sec=0).actions == (Stop(instance=ID),)
    assert recover(CURED, busy, after_sec=99, drain_timeout_sec=100).actions == ()


@pytest.mark.parametrize(
    ("attempt", "method"),
    [(1, "rebind"), (2, "bus-reset"), (3, "bus-reset")],
    ids=["first", "second", "last"],
)
@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_stopped_instance_has_its_card_recovered(state: str, attempt: int, method: str) -> None:
    wedge = replace(HANG, attempt=attempt, error="did not help" if attempt > 1 else "")
    step = recover(wedge, own(state), after_sec=1000)
    assert step.actions == (Recover(instance=ID, address=A, method=method),)
    assert step.verdict.state is State.waiting
    assert step.verdict.reason == f"GPU {A} is recovered by {method}, attempt {attempt} of 3"
    busy = recover(wedge, own(state, job=True), after_sec=1000)
    assert (busy.actions, busy.verdict) == ((), step.verdict)


@pytest.mark.parametrize(
    ("attempt", "pause_sec"), [(2, 10), (3, 20), (4, 40), (12, 10240), (13, 10240), (99, 10240)]
)
def test_attempts_are_further_and_further_apart(attempt: int, pause_sec: float) -> None:
    wedge = replace(HANG, attempt=attempt, error="did not help")
    early = recover(wedge, own("inactive"), after_sec=pause_sec - 1, recovery_attempts=100)
    assert (early.actions, early.wake_in_sec) == ((), 1.0)
    assert early.verdict.reason == (
        f"GPU {A} hangs: guc timeout; attempt {attempt} of 100 to recover it comes soon; "
        "the one before failed: did not help"
    )
    assert recover(wedge, own("inactive"), after_sec=pause_sec, recovery_attempts=100).actions


def test_pause_after_a_recovery_that_did_not_last_names_no_failure() -> None:
    reason = recover(replace(HANG, attempt=2), own("inactive")).verdict.reason
    assert reason == f"GPU {A} hangs: guc timeout; attempt 2 of 3 to recover it comes soon"


def test_no_detail_leaves_nothing_dangling() -> None:
    assert recover(replace(HANG, detail=""), own()).verdict.reason == f"GPU {A} hangs"


@pytest.mark.parametrize(
    ("wedge", "attempts", "reason"),
    [
        pytest.param(
            replace(HANG, attempt=4, error="did not help"),
            3,
            "its GPU was recovered 3 times in a row and still hangs: did not help",
            id="too often in vain",
        ),
        pytest.param(
            replace(HANG, attempt=2),
            1,
            "its GPU was recovered 1 times in a row and still hangs: guc timeout",
            id="too often with success",
        ),
        pytest.param(
            HANG, 0, "its GPU hangs, and gpu.recovery_attempts is 0: guc timeout", id="not to be recovered"
        ),
        pytest.param(
            replace(HANG, methods=("vendor-specific", "rebind")),
            3,
            "its GPU hangs, and the kernel names vendor-specific, which needs the vendor's own tools: "
            "guc timeout",
            id="nothing that we can do",
        ),
        pytest.param(
            replace(HANG, methods=("rebind", "vendor-specific"), attempt=2),
            3,
            "its GPU hangs, and the kernel names vendor-specific, which needs the vendor's own tools: "
            "guc timeout",
            id="nothing more that we can do",
        ),
    ],
)
def test_quarantine(wedge: Wedge, attempts: int, reason: str) -> None:
    step = recover(wedge, own("inactive"), after_sec=1e6, recovery_attempts=attempts)
    assert (step.actions, step.wake_in_sec) == ((), None)
    assert (step.verdict.state, step.verdict.reason) == (State.quarantined, reason)
    assert step.verdict.hint == "dmesg; then `ovms-scalerctl reload` tries again"
    # One that still runs is stopped first.
    assert recover(wedge, own(), after_sec=1e6, recovery_attempts=attempts).actions == (Stop(instance=ID),)
