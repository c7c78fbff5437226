# SPDX-License-Identifier: Apache-2.0
"""On a terminal and with --watch: colours, redrawing in place, and a new table for each change elsewhere."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ctl_lab import CTL, Ctl, FakeAgent, instance, status
from ctl_screen import screen


def test_states_are_coloured_on_a_terminal(agent: FakeAgent) -> None:
    agent.say(status(instance(), instance("b", state="failed", in_rotation=False)))
    with screen("status", "--socket", agent.socket) as shown:
        text = shown.read_rest()
    assert "\x1b[32mready" in text
    assert "\x1b[31mfailed" in text


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_nothing_is_coloured_where_it_is_not_wanted(environment: dict[str, str], agent: FakeAgent) -> None:
    agent.say(status(instance()))
    with screen("status", "--socket", agent.socket, env=environment) as shown:
        assert "\x1b" not in shown.read_rest()


def test_watch_redraws_in_place(agent: FakeAgent) -> None:
    agent.say(status(instance(state="loading", in_rotation=False)))
    with screen("status", "--watch", "--socket", agent.socket) as shown:
        shown.read_until("loading")
        agent.say(status(instance()))
        redrawn = shown.read_until("ready")
        assert "\x1b[2J" not in shown.text  # no clearing, so no flicker
        assert "\x1b[1A" in redrawn  # up to where the table began
        shown.process.send_signal(signal.SIGINT)
        rest = shown.read_rest()
        assert shown.process.wait() == 130
    assert "Traceback" not in rest
    assert rest.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_watch_outlives_the_agent(agent: FakeAgent) -> None:
    agent.say(status(instance()))
    with screen("status", "--watch", "--socket", agent.socket) as shown:
        shown.read_until("ready")
        agent.answer = None
        shown.read_until("cannot reach the agent")
        agent.say(status(instance(state="suspect")))
        shown.read_until("suspect")


def test_watch_needs_an_agent_at_first(ctl: Ctl, agent: FakeAgent) -> None:
    agent.answer = None
    assert ctl("status", "--watch", "--socket", agent.socket).status == 3


@contextmanager
def follow(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*CTL, "status", "--watch", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_watch_in_a_pipe_prints_a_line_of_json_for_each_change(agent: FakeAgent) -> None:
    first, second = status(instance(state="loading", in_rotation=False)), status(instance())
    agent.say(first)
    with follow("--json", "--socket", agent.socket) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == first
        for _ in range(3):  # asked again without a change
            agent.asked.acquire()
        agent.say(second)
        assert json.loads(process.stdout.readline()) == second


def test_watch_in_a_pipe_prints_a_table_for_each_change(agent: FakeAgent) -> None:
    agent.say(status(instance()))
    with follow("--socket", agent.socket) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        table = [process.stdout.readline() for _ in range(3)]
        assert table[1].startswith("Instance ")
        assert table[2].startswith("chat-numa0  ready")
        agent.answer = None
        assert process.stderr.readline().startswith("cannot reach the agent: ")


def test_waiting_for_an_order_draws_a_bar(agent: FakeAgent) -> None:
    agent.say({"accepted": True, "instances": ["a", "b"], "ordered_sec": 1.0}, path="/v1/drain")
    drained, busy = (instance(name, state=state) for name, state in (("a", "drained"), ("b", "draining")))
    agent.say(status(drained, busy, observed_sec=2.0))
    with screen("drain", "chat", "--wait", "--socket", agent.socket) as shown:
        shown.read_until("1/2")
        shown.read_until("b draining")
        agent.say(status(drained, busy | {"state": "drained"}, observed_sec=2.0))
        shown.read_until("2/2")
        rest = shown.read_rest()
        assert shown.process.wait() == 0
    assert rest.rstrip().endswith("\x1b[?25h")
