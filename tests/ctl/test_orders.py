# SPDX-License-Identifier: Apache-2.0
"""Orders from the command line: what is asked of the agent, and how --wait follows them."""

import json
import os
import subprocess
from collections.abc import Iterable, Iterator
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
HELD = instance(FIRST, reason="its restart waits until chat-numa1 serves again")
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
        [HELD, FAILED | {"id": SECOND}],
        {"restarts": [FIRST]},
        (),
        "chat-numa1 is failed",
        id="halted by another",
    ),
    pytest.param(
        "restart",
        [HELD, FAILED | {"id": SECOND, "upstream": "code"}],
        {"restarts": [FIRST]},
        (),
        "",
        id="not by one of another upstream",
    ),
    pytest.param(
        "restart",
        [HELD, FAILED | {"id": SECOND, "outdated": True}],
        {"restarts": [FIRST]},
        (),
        "",
        id="not by one that is to be changed",
    ),
    pytest.param(
        "restart",
        [instance(FIRST, state="draining", in_rotation=False), FAILED | {"id": SECOND}],
        {"restarts": [FIRST]},
        (),
        "",
        id="under way although another failed",
    ),
    pytest.param(
        "restart",
        [HELD | {"reason": "its restart needs an outage", "hint": "restart --allow-outage"}],
        {"restarts": [FIRST]},
        (),
        "chat-numa0 is ready: its restart needs an outage\n  hint: restart --allow-outage",
        id="needs an outage",
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


LOADING = instance(SECOND, state="loading", in_rotation=False)
GONE = instance("old-numa0", pool=None, upstream=None)
OUTAGE = {"reason": "no other one serves", "hint": "ovms-scalerctl reload --allow-outage"}
CHANGED = {"outdated": True, "reason": "its change waits until chat-numa1 serves again"}
RELOADED = [
    pytest.param([instance(FIRST)], {}, {}, "", id="reached"),
    pytest.param([instance(FIRST, outdated=True)], {}, {FIRST: "ready"}, "", id="changed soon"),
    pytest.param([LOADING], {}, {SECOND: "loading"}, "", id="loads"),
    pytest.param([instance(FIRST) | CHANGED, LOADING], {}, {FIRST, SECOND}, "", id="one after the other"),
    pytest.param(
        [instance(FIRST) | CHANGED, FAILED | {"id": SECOND}],
        {},
        {FIRST, SECOND},
        "chat-numa1 is failed: exit status 64\n  hint: journalctl",
        id="halted",
    ),
    pytest.param(
        [instance(FIRST) | CHANGED, FAILED | {"id": SECOND}, LOADING | {"id": "code", "upstream": "code"}],
        {},
        {FIRST, SECOND, "code"},
        "",
        id="halted, while another upstream goes on",
    ),
    pytest.param(
        [FAILED, FAILED | {"id": SECOND, "upstream": "code"}],
        {},
        {FIRST, SECOND},
        "chat-numa0 is failed: exit status 64\n  hint: journalctl\n"
        "chat-numa1 is failed: exit status 64\n  hint: journalctl",
        id="all that failed",
    ),
    pytest.param([DRAINED], {}, {}, "", id="drained"),
    pytest.param([instance(FIRST, state="stopped", in_rotation=False)], {}, {}, "", id="stopped by hand"),
    pytest.param(
        [instance(FIRST, state="waiting", in_rotation=False, reason="its card is away")],
        {},
        {FIRST},
        "chat-numa0 is waiting: its card is away",
        id="no card",
    ),
    pytest.param([instance(FIRST), GONE | {"state": "draining"}], {}, {"old-numa0"}, "", id="not yet gone"),
    pytest.param(
        [GONE | OUTAGE],
        {},
        {"old-numa0"},
        "old-numa0 is ready: no other one serves\n  hint: ovms-scalerctl reload --allow-outage",
        id="the last one",
    ),
    pytest.param(
        [instance(FIRST, in_rotation=False) | OUTAGE],
        {},
        {FIRST},
        "chat-numa0 is ready: no other one serves\n  hint: ovms-scalerctl reload --allow-outage",
        id="kept out",
    ),
    pytest.param(
        [instance(FIRST)], {"actions": ["reload proxy"]}, {"agent"}, "", id="only the proxy changes"
    ),
    pytest.param(
        [instance(FIRST)],
        {"proxy": {"waits": "for old workers"}},
        {"proxy"},
        "",
        id="the proxy is to change",
    ),
    pytest.param(
        [instance(FIRST)],
        {"proxy": {"error": "bind() to :80"}},
        {"proxy"},
        "proxy: bind() to :80",
        id="the proxy refuses",
    ),
    pytest.param(
        [instance(FIRST)],
        {"deferred": ["reload proxy"], "orders": NOTHING | {"paused_since": 1.5}},
        {"agent"},
        "the agent is paused",
        id="paused",
    ),
]


@pytest.mark.parametrize(("instances", "changes", "others", "trouble"), RELOADED)
def test_how_far_a_configuration_is(
    instances: list[dict[str, object]], changes: dict[str, object], others: Iterable[str], trouble: str
) -> None:
    found = judge("reload", (), seen(*instances) | changes)
    assert found.others.keys() == set(others)
    assert found.trouble.startswith(trouble) if trouble else not found.trouble


@contextmanager
def waiting(agent: FakeAgent, verb: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A verb that waits, in a pipe; the agent has taken its order and been asked for its status once."""
    agent.say(seen(instance(FIRST), at=4.0))
    command = [*CTL, verb, "--wait", *arguments, "--socket", str(agent.socket)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as process:
        try:
            for _ in range(2):
                agent.asked.acquire()
            yield process
        finally:
            process.kill()


@contextmanager
def draining(agent: FakeAgent, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    agent.say(taken(FIRST, SECOND), path="/v1/drain")
    with waiting(agent, "drain", "chat", *arguments) as process:
        yield process


DRAINING = instance(FIRST, state="draining", in_rotation=False, reason="2 connections left")


def test_wait_in_a_pipe_prints_a_line_for_each_change(agent: FakeAgent) -> None:
    with draining(agent) as process:
        assert process.stdout is not None
        # What was observed before the order is not looked at.
        agent.say(seen(DRAINING, DRAINED | {"id": SECOND}))
        lines = {process.stdout.readline(), process.stdout.readline()}
        assert lines == {"chat-numa0: draining (2 connections left)\n", "chat-numa1: done\n"}
        agent.say(seen(DRAINED, DRAINED | {"id": SECOND}))
        assert process.stdout.read() == "chat-numa0: done\n"
        assert process.wait() == 0


def test_reload_waits_for_the_configuration(agent: FakeAgent) -> None:
    agent.say({"accepted": True, "instances": 1, "ordered_sec": 5.0}, path="/v1/reload?allow_outage=0")
    with waiting(agent, "reload") as process:
        assert process.stdout is not None
        agent.say(seen(instance(FIRST), GONE | {"state": "draining"}))
        lines = {process.stdout.readline(), process.stdout.readline()}
        assert lines == {"chat-numa0: done\n", "old-numa0: draining\n"}
        agent.say(seen(instance(FIRST)))
        assert process.stdout.read() == "old-numa0: gone\n"
        assert process.wait() == 0


def test_wait_with_json_prints_the_end_only(agent: FakeAgent) -> None:
    with draining(agent, "--json") as process:
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
