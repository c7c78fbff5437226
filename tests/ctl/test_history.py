# SPDX-License-Identifier: Apache-2.0
"""``ovms-scalerctl events`` and ``logs``: from the journal, and from the agent for who may not read it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from ctl_lab import Ctl, FakeAgent, instance, status
from ctl_screen import screen
from journalctl_lab import BEGAN_USEC, Fields, Journalctl, engine, entry, manager, proxy

from ovms_scaler import history
from ovms_scaler.core.event import Event, parse_event
from ovms_scaler.ctl import remembered

BEGAN = BEGAN_USEC / 1e6
CRASH: list[Fields] = [
    entry("agent started", version="0.1.0"),
    engine("loaded"),
    manager("ovms@chat-numa0.service: Main process exited, code=killed, status=9/KILL"),
    entry(
        "instance changed",
        priority=4,
        instance="chat-numa0",
        state="failed",
        was="ready",
        reason="ovms ended with exit status 64, a usage error: ovms refused its arguments",
        hint="journalctl -u ovms@chat-numa0.service; then: ovms-scalerctl reset chat-numa0",
    ),
    proxy('2026/11/21 19:00:00 [error] 1#1: *1 connect() failed, upstream: "http://127.0.0.1:8003/v3"'),
]
# As a process of its own, on whose journal nothing depends.
READABLE = (
    "from ovms_scaler import history; history.can_read = lambda: True; import ovms_scaler.ctl.__main__"
)


@pytest.fixture(autouse=True)
def here() -> Iterator[None]:
    """A host in UTC, whose journal may be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "can_read", lambda: True)
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is not for this user."""
    monkeypatch.setattr(history, "can_read", lambda: False)
    monkeypatch.setattr(remembered, "INTERVAL_SEC", 0.0)


def events_of(*entries: Fields) -> list[dict[str, object]]:
    """What an agent that logged this remembers."""
    fields = [{key: str(value) for key, value in one.items()} for one in entries]
    numbered = [
        {"__REALTIME_TIMESTAMP": str(BEGAN_USEC + 1_000_000 * count), **one}
        for count, one in enumerate(fields)
    ]
    return [event for one in numbered if (event := parse_event(one)) is not None]


def test_events_for_people(ctl: Ctl, journalctl: Journalctl) -> None:
    journalctl.holds(*CRASH)
    result = ctl("events")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines() == [
        "Nov 21 19:00:00 the agent started, version 0.1.0",
        "Nov 21 19:00:03 chat-numa0 is failed (was ready): ovms ended with exit status",
        "                64, a usage error: ovms refused its arguments",
        "                next: journalctl -u ovms@chat-numa0.service; then:",
        "                ovms-scalerctl reset chat-numa0",
    ]


def test_in_a_pipe_nothing_is_folded(
    ctl: Ctl, journalctl: Journalctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    journalctl.holds(*CRASH)
    lines = ctl("events").out.splitlines()
    assert len(lines) == 3
    assert lines[2].endswith("then: ovms-scalerctl reset chat-numa0")


def test_events_for_programs(ctl: Ctl, journalctl: Journalctl) -> None:
    journalctl.holds(*CRASH)
    first, second = map(json.loads, ctl("events", "--json").out.splitlines())
    assert first == {"at": BEGAN, "level": "info", "event": "agent started", "version": "0.1.0"}
    assert (second["state"], second["level"]) == ("failed", "warning")


def test_no_event_is_no_error(ctl: Ctl, journalctl: Journalctl) -> None:
    result = ctl("events", "--level", "error")
    assert (result.status, result.out, result.err) == (0, "", "no such event\n")
    assert ctl("events", "--json").err == ""


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ((), 50),
        (("-n", "3"), 3),
        (("-n", "all"), None),
        (("--since", "1 hour ago"), None),
        (("--since", "1 hour ago", "--lines=7"), 7),
        (("--follow",), 10),
        (("-f", "-n", "0"), 0),
    ],
    ids=lambda value: str(value),
)
def test_how_many_there_are(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], asked: int | None
) -> None:
    seen: list[history.Selection] = []

    def take(selection: history.Selection, *_: object) -> Generator[Event, None, None]:
        seen.append(selection)
        yield from ()

    monkeypatch.setattr(history, "read_events", take)
    assert ctl("events", *arguments).status == 0
    assert seen[0].lines == asked


def test_events_of_one_level(ctl: Ctl, journalctl: Journalctl) -> None:
    journalctl.holds(*CRASH)
    assert "the agent started" not in ctl("events", "--level", "warning").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("events", "--since", "soon"), "Invalid value for '--since': 'soon' is no time"),
        (("logs", "chat", "--since", ""), "'' is no time"),
        (("events", "-n", "-1"), "'-1' is no number of lines"),
        (("logs", "chat", "-n", "x"), "'x' is no number of lines"),
        (("events", "--level", "bad"), "'bad' is not one of 'info'"),
        (("logs",), "Missing argument 'INSTANCE|POOL'"),
    ],
)
def test_wrong_usage(ctl: Ctl, arguments: tuple[str, ...], words: str) -> None:
    result = ctl(*arguments)
    assert (result.status, result.out) == (2, "")
    assert words in result.err


def test_a_log_has_everybody_in_it(ctl: Ctl, journalctl: Journalctl, agent: FakeAgent) -> None:
    agent.say(status(instance()))
    journalctl.holds(*CRASH, engine("another's", "chat-numa1"))
    result = ctl("logs", "chat-numa0", "--socket", agent.socket)
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[:2] == [
        "Nov 21 19:00:01 chat-numa0: loaded",
        "Nov 21 19:00:02 systemd: ovms@chat-numa0.service: Main process exited, code=killed, status=9/KILL",
    ]
    assert lines[2].startswith("Nov 21 19:00:03 agent: chat-numa0 is failed (was ready): ovms ended")
    assert lines[3].startswith("                next: journalctl -u")
    assert lines[-1] == ('Nov 21 19:00:04 proxy: connect() failed, upstream: "http://127.0.0.1:8003/v3"')
    documents = [
        json.loads(line) for line in ctl("logs", "chat", "--json", "--socket", agent.socket).out.splitlines()
    ]
    assert [(one["source"], one["instance"], one["level"]) for one in documents] == [
        ("engine", "chat-numa0", "info"),
        ("systemd", "chat-numa0", "info"),
        ("agent", "chat-numa0", "warning"),
        ("proxy", None, "error"),
    ]


def test_without_the_agent_both_go_on(ctl: Ctl, journalctl: Journalctl, tmp_path: Path) -> None:
    journalctl.holds(*CRASH)
    nobody = tmp_path / "none.sock"
    assert "loaded" in ctl("logs", "chat-numa0", "--socket", nobody).out
    assert "is failed" in ctl("events", "chat", "--socket", nobody).out


def test_what_is_logged_cannot_steer_the_terminal(
    ctl: Ctl, journalctl: Journalctl, agent: FakeAgent
) -> None:
    agent.say(status(instance()))
    escape = "\x1b[2J"
    journalctl.holds(
        {**engine(""), "MESSAGE": [*f"{escape}one\r\ntwo".encode()]},
        entry("instance changed", instance="chat-numa0", state="failed", reason=f"a\n{escape}b"),
    )
    for verb in ("logs", "events"):
        result = ctl(verb, "chat-numa0", "--socket", agent.socket)
        assert "\\x1b[2J" in result.out
        assert not {"\x1b", "\r"} & set(result.out)
        # Nothing of what others say begins a line of its own.
        assert all(line.startswith(("Nov 21", " " * 16)) for line in result.out.splitlines())


@pytest.mark.parametrize("verb", ["events", "logs"])
def test_a_wrong_name_is_one_clear_error(
    ctl: Ctl, journalctl: Journalctl, agent: FakeAgent, verb: str
) -> None:
    agent.say(status(instance()))
    result = ctl(verb, "chat-numa1", "--socket", agent.socket)
    assert (result.status, result.out) == (1, "")
    assert result.err == (
        "ovms-scalerctl: there is no instance and no pool named 'chat-numa1'\n  hint: there is chat-numa0\n"
    )


def test_a_journal_that_cannot_be_read_is_bad_news(ctl: Ctl, journalctl: Journalctl) -> None:
    journalctl.fails("Failed to open: I/O error")
    result = ctl("events")
    assert (result.status, result.out) == (1, "")
    assert result.err == "ovms-scalerctl: journalctl failed: Failed to open: I/O error\n"


# Without the journal


def test_who_may_not_read_the_journal_sees_what_the_agent_remembers(
    ctl: Ctl, agent: FakeAgent, closed: None
) -> None:
    agent.say({"events": events_of(*CRASH)})
    result = ctl("events", "--level", "warning", "--socket", agent.socket)
    assert result.status == 0
    assert "hint: join the group systemd-journal" in result.err
    assert result.out.startswith("Nov 21 19:00:03 chat-numa0 is failed")
    ctl("events", "--since", "@17.5", "--socket", agent.socket)
    assert agent.requests[-1] == "GET /v1/events?since=17.500000"


def test_a_log_without_the_journal_is_only_half_of_it(ctl: Ctl, agent: FakeAgent, closed: None) -> None:
    agent.say(status(instance()), path="/v1/status")
    agent.say({"events": events_of(*CRASH)})
    result = ctl("logs", "chat", "--socket", agent.socket)
    assert result.status == 1
    assert "cannot read the journal" in result.err
    assert result.out.startswith("Nov 21 19:00:03 agent: chat-numa0 is failed")


def test_with_neither_there_is_nothing(ctl: Ctl, closed: None, tmp_path: Path) -> None:
    result = ctl("events", "--socket", tmp_path / "none.sock")
    assert (result.status, result.out) == (3, "")
    assert result.err.startswith("ovms-scalerctl: cannot read the journal, and cannot reach the agent:")
    assert "hint: join the group systemd-journal" in result.err


def test_what_the_agent_does_is_followed_without_doubles(agent: FakeAgent, closed: None) -> None:
    first, second, third = events_of(entry("paused"), entry("resumed"), entry("agent stopped"))
    agent.say({"events": [first, second]})
    selection = history.Selection(lines=1, follow=True)
    found = remembered.read_remembered(agent.socket, selection, None, "info")
    assert next(found) == second
    agent.answer = None  # it is restarted
    agent.say({"events": [second, third]}, path=f"/v1/events?since={second['at']:.6f}")
    assert next(found) == third
    found.close()


# In processes of their own


@pytest.mark.parametrize(("colour", "codes"), [({}, True), ({"NO_COLOR": "1"}, False)], ids=["", "NO_COLOR"])
def test_what_is_bad_is_coloured_on_a_terminal(
    journalctl: Journalctl, colour: dict[str, str], *, codes: bool
) -> None:
    journalctl.holds(*CRASH)
    with screen("events", command=[sys.executable, "-c", READABLE], env=colour) as shown:
        text = shown.read_rest()
    assert ("\x1b[33mchat-numa0 is failed" in text) is codes
    assert ("\x1b" in text) is codes
    plain = re.sub("\x1b[^m]*m", "", text)
    assert max(map(len, plain.splitlines())) <= 80


def start(*arguments: str) -> "subprocess.Popen[str]":
    """A verb in a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-c", READABLE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def test_following_ends_with_control_c(journalctl: Journalctl) -> None:
    journalctl.holds(entry("paused"))
    journalctl.then_comes(entry("resumed"), and_waits=True)
    with start("events", "--follow") as verb:
        assert verb.stdout is not None
        assert verb.stderr is not None
        assert "pause" in verb.stdout.readline()
        assert "resume" in verb.stdout.readline()
        os.killpg(verb.pid, signal.SIGINT)  # as a terminal does
        assert verb.wait() == 130
        assert not journalctl.is_running()
        assert "Traceback" not in verb.stderr.read()


def test_following_ends_with_whoever_reads(journalctl: Journalctl) -> None:
    journalctl.holds(*[entry("paused")] * 2000)
    with start("events", "--follow", "--lines=all") as verb:
        assert verb.stdout is not None
        assert "pause" in verb.stdout.readline()
        verb.stdout.close()
        assert verb.wait() == 141
