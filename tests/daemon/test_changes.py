# SPDX-License-Identifier: Apache-2.0
"""What is logged of a pass: what is other than before it, once."""

from structlog.testing import capture_logs

from ovms_scaler.core.lifecycle import State, Verdict
from ovms_scaler.core.plan import Plan
from ovms_scaler.daemon.changes import Changes

A = "chat-numa0"


def plan_of(state: State | None = None, *, routed: bool = False) -> Plan:
    """A pass that found the instance in that state; None for no such instance."""
    verdicts = {} if state is None else {A: Verdict(state=state, reason="why", hint="what")}
    return Plan(actions=(), verdicts=verdicts, in_rotation=frozenset({A} if routed else ()))


def logged(*plans: Plan) -> list[dict[str, object]]:
    """What the last of these passes logs."""
    changes = Changes()
    for one in plans[:-1]:
        changes.note(one)
    with capture_logs() as found:
        changes.note(plans[-1])
    return [{key: value for key, value in entry.items() if key != "unit"} for entry in found]


def test_a_state_is_logged_when_it_is_entered() -> None:
    assert logged(plan_of(State.ready), plan_of(State.failed)) == [
        {
            "log_level": "warning",
            "event": "instance changed",
            "instance": A,
            "state": "failed",
            "was": "ready",
            "reason": "why",
            "hint": "what",
        }
    ]
    assert logged(plan_of(State.failed), plan_of(State.failed)) == []
    assert logged(plan_of(State.starting))[0]["log_level"] == "info"
    assert "was" not in logged(plan_of(State.ready), plan_of(), plan_of(State.ready))[0]


def test_bad_news_name_the_command_that_status_names() -> None:
    for state, said in (
        (State.suspect, "journalctl -u ovms@chat-numa0.service"),
        (State.waiting, "ovms-scalerctl topology"),
    ):
        bad = Plan(actions=(), verdicts={A: Verdict(state=state, reason="why")}, in_rotation=frozenset())
        (entry,) = logged(bad)
        assert (entry["log_level"], entry["hint"]) == ("warning", said)


def test_rotation_is_logged_when_it_changes_whoever_changed_it() -> None:
    ready, out = plan_of(State.ready, routed=True), plan_of(State.ready)
    assert logged(out, ready) == [{"log_level": "info", "event": "instance in rotation", "instance": A}]
    assert logged(ready, ready) == []
    left = {"log_level": "info", "event": "instance out of rotation", "instance": A, "state": "ready"}
    assert logged(ready, out) == [left]
    del left["state"]
    assert logged(ready, plan_of()) == [left]  # it is no more


def test_who_is_in_rotation_at_the_start_did_not_come_just_now() -> None:
    assert [one["event"] for one in logged(plan_of(State.ready, routed=True))] == ["instance changed"]


def test_a_crash_is_told_in_order() -> None:
    changes = Changes()
    with capture_logs() as found:
        for one in (
            plan_of(State.ready, routed=True),
            plan_of(State.starting),
            plan_of(State.ready),
            plan_of(State.ready, routed=True),
        ):
            changes.note(one)
    assert [(one["event"], one.get("state")) for one in found[1:]] == [
        ("instance changed", "starting"),
        ("instance out of rotation", "starting"),
        ("instance changed", "ready"),
        ("instance in rotation", None),
    ]


def test_since_when_is_kept_while_a_state_lasts() -> None:
    changes = Changes()
    changes.note(plan_of(State.ready))
    since = changes.since[A]
    changes.note(plan_of(State.ready, routed=True))
    assert changes.since == {A: since}
    changes.note(plan_of())
    assert changes.since == {}
