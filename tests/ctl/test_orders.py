# SPDX-License-Identifier: Apache-2.0
"""Orders from the command line: what is asked of the agent, and how --wait follows them."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ctl_lab import CTL, Ctl, FakeAgent, instance, status

from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.waiting import judge

FIRST, SECOND = "chat-numa0", "chat-numa1"
NOTHING: dict[str, object] = {"paused_since": None, "drained": {}, "restarts": []}


def taken(*names: str, at: float = 5.0) -> dict[str, object]:
    return {"accepted": True, "instances": list(names), "ordered_sec": at}


def seen(*instances: dict[str, object], at: float = 6.0, **orders: Any) -> dict[str, object]:
    """A status document that was observed ``at``."""
    return status(*instances, observed_sec=at, orders=NOTHING | orders, deferred=[])


@pytest.mark.parametrize(
    ("arguments", "request_line", "body", "said"),
    [
        (
            ["drain", FIRST],
            "POST /v1/drain",
            {"name": FIRST, "allow_outage": False},
            "to be drained: chat-numa0",
        ),
        (["drain", "chat", "--allow-outage"], "POST /v1/drain", {"name": "chat", "allow_outage": True}, ""),
        (["undrain", FIRST], "POST /v1/undrain", {"name": FIRST}, "to be started: chat-numa0"),
        (["restart"], "POST /v1/restart", {"allow_outage": False, "rolling": False}, ""),
        (
            ["restart", FIRST, "--rolling"],
            "POST /v1/restart",
            {"name": FIRST, "allow_outage": False, "rolling": True},
            "to be restarted: chat-numa0",
        ),
        (["reset", FIRST], "POST /v1/reset", {"name": FIRST}, "tried again: chat-numa0"),
        (["pause"], "POST /v1/pause", {}, "paused"),
        (["resume"], "POST /v1/resume", {}, "resumed"),
    ],
)
def test_what_is_asked_of_the_agent(
    arguments: list[str], request_line: str, body: dict[str, object], said: str, ctl: Ctl, agent: FakeAgent
) -> None:
    agent.say(taken(FIRST))
    shown = ctl(*arguments, "--socket", agent.socket)
    assert (shown.status, agent.requests) == (0, [request_line])
    assert json.loads(agent.bodies[0]) == body
    assert said in shown.out
    assert ctl(*arguments, "--json", "--socket", agent.socket).json() == taken(FIRST)


def test_a_refusal_is_bad_news_with_the_reason(ctl: Ctl, agent: FakeAgent) -> None:
    agent.say({"error": {"message": "cannot drain: it is the last", "problems": []}}, status=409)
    refused = ctl("drain", FIRST, "--wait", "--socket", agent.socket)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == "ovms-scalerctl: cannot drain: it is the last\n"


def test_an_agent_that_is_away_is_3(ctl: Ctl, agent: FakeAgent) -> None:
    agent.answer = None
    assert ctl("pause", "--socket", agent.socket).status == Exit.unreachable


def test_an_answer_that_makes_no_sense_is_3(ctl: Ctl, agent: FakeAgent) -> None:
    agent.say({"accepted": True})
    assert ctl("drain", FIRST, "--socket", agent.socket).status == Exit.unreachable


DRAINED = instance(FIRST, state="drained", in_rotation=False)
FAILED = instance(FIRST, state="failed", in_rotation=False, reason="exit status 64", hint="journalctl")
JUDGED = [
    pytest.param("drain", [DRAINED], {}, (FIRST,), "", id="drained"),
    pytest.param("drain", [FAILED], {}, (), "", id="drained soon, whatever it is"),
    pytest.param("undrain", [DRAINED], {}, (), "", id="not yet started"),
    pytest.param("undrain", [instance(FIRST)], {}, (FIRST,), "", id="in rotation"),
    pytest.param("undrain", [FAILED], {}, (), "exit status 64\n  hint: journalctl", id="failed"),
    pytest.param("restart", [instance(FIRST)], {"restarts": [FIRST]}, (), "", id="not yet its turn"),
    pytest.param("restart", [instance(FIRST)], {}, (FIRST,), "", id="restarted"),
    pytest.param(
        "restart",
        [instance(FIRST), FAILED | {"id": SECOND}],
        {"restarts": [FIRST]},
        (),
        "chat-numa1 is failed",
        id="halted by another",
    ),
    pytest.param("reset", [DRAINED], {}, (FIRST,), "", id="nothing to try"),
    pytest.param("reset", [], {}, (), "", id="not known yet"),
    pytest.param("drain", [instance(FIRST)], {"paused_since": 1.5}, (), "the agent is paused", id="paused"),
    pytest.param("drain", [DRAINED], {"paused_since": 1.5}, (FIRST,), "", id="paused, but done"),
]


@pytest.mark.parametrize(("verb", "instances", "orders", "done", "trouble"), JUDGED)
def test_how_far_an_order_is(
    verb: str,
    instances: list[dict[str, object]],
    orders: dict[str, Any],
    done: tuple[str, ...],
    trouble: str,
) -> None:
    found = judge(verb, (FIRST,), seen(*instances, **orders))
    assert found.done == done
    assert trouble in found.trouble
    assert bool(found.trouble) == bool(trouble)


@contextmanager
def waiting(agent: FakeAgent, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A verb that waits, in a pipe; the agent has taken its order and been asked for its status once."""
    agent.say(taken(FIRST, SECOND), path="/v1/drain")
    agent.say(seen(instance(FIRST), at=4.0))
    command = [*CTL, "drain", "chat", "--wait", *arguments, "--socket", str(agent.socket)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as process:
        try:
            for _ in range(2):
                agent.asked.acquire()
            yield process
        finally:
            process.kill()


DRAINING = instance(FIRST, state="draining", in_rotation=False, reason="2 connections left")


def test_wait_in_a_pipe_prints_a_line_for_each_change(agent: FakeAgent) -> None:
    with waiting(agent) as process:
        assert process.stdout is not None
        # What was observed before the order is not looked at.
        agent.say(seen(DRAINING, DRAINED | {"id": SECOND}))
        lines = {process.stdout.readline(), process.stdout.readline()}
        assert lines == {"chat-numa0: draining (2 connections left)\n", "chat-numa1: done\n"}
        agent.say(seen(DRAINED, DRAINED | {"id": SECOND}))
        assert process.stdout.read() == "chat-numa0: done\n"
        assert process.wait() == 0


def test_wait_with_json_prints_the_end_only(agent: FakeAgent) -> None:
    with waiting(agent, "--json") as process:
        assert process.stdout is not None
        agent.say(seen(DRAINED, DRAINING | {"id": SECOND}, paused_since=1.5))
        document = json.loads(process.stdout.read())
        assert process.wait() == 1
    assert document["done"] == [FIRST]
    assert document["others"] == {SECOND: "draining (2 connections left)"}
    assert "the agent is paused" in document["trouble"]


def test_status_tells_of_drained_and_paused_and_is_no_bad_news(ctl: Ctl, agent: FakeAgent) -> None:
    drained = DRAINED | {
        "reason": "drained by the administrator",
        "hint": "ovms-scalerctl undrain chat-numa0",
    }
    found = seen(instance(SECOND), drained, paused_since=1.5) | {"deferred": ["start ovms@x.service"]}
    agent.say(found)
    shown = ctl("status", "--socket", agent.socket)
    assert shown.status == 0
    assert "next: ovms-scalerctl undrain chat-numa0" in shown.out
    assert "The agent is paused for " in shown.out
    assert "next: ovms-scalerctl resume" in shown.out
    assert "start ovms@x.service" in shown.out
