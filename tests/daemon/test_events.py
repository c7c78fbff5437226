# SPDX-License-Identifier: Apache-2.0
"""The agent's latest events: what is logged now, and what agents before it logged."""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from journalctl_lab import Journalctl, entry

from ovms_scaler import log
from ovms_scaler.daemon.events import Events
from ovms_scaler.errors import InputError


def read(events: Events, **query: str) -> list[dict[str, Any]]:
    found = events.answer(query)["events"]
    assert isinstance(found, list)
    return found


def phrases(events: Events, **query: str) -> list[str]:
    return [event["event"] for event in read(events, **query)]


def filled(*phrases: str, most: int = 10, environment: Mapping[str, str] = os.environ) -> Events:
    events = Events(most, environment)
    for phrase in phrases:
        events.note({"event": phrase, "level": "info"})
    return events


def test_the_oldest_are_forgotten() -> None:
    assert phrases(filled("a", "b", "c", most=2)) == ["b", "c"]


def test_the_newest_of_those_since_a_time_are_given() -> None:
    events = filled("a", "b", "c")
    assert phrases(events, limit="2") == ["b", "c"]
    assert phrases(events, limit="1000000") == ["a", "b", "c"]
    assert phrases(events, since=str(time.time() + 60)) == []
    assert "c" in phrases(events, since=repr(read(events)[2]["at"]))
    json.dumps(events.document(), allow_nan=False)


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ({"since": "yesterday"}, "since must be seconds since the epoch, not 'yesterday'"),
        ({"since": "nan"}, "not 'nan'"),
        ({"since": "-1"}, "not '-1'"),
        ({"since": ""}, "not ''"),
        ({"limit": "0"}, "limit must be a whole number from 1 on, not '0'"),
        ({"limit": "1.5"}, "not '1.5'"),
        ({"limit": "\N{SUPERSCRIPT TWO}"}, "limit must be"),
        ({"limit": "9" * 5000}, "limit must be"),
        ({"until": "1"}, "'until' is not asked for here; since and limit are"),
    ],
)
def test_what_is_asked_wrongly_is_refused(query: dict[str, str], rule: str) -> None:
    with pytest.raises(InputError, match=rule.replace("'", ".")):
        filled("a").answer(query)


async def test_the_past_is_recalled_from_the_journal(journalctl: Journalctl) -> None:
    journalctl.holds(
        entry("agent started", version="0.1.0"),
        entry("paused", _SYSTEMD_INVOCATION_ID="beef"),
        {"MESSAGE": "Traceback", "__REALTIME_TIMESTAMP": "1"},
        # What this process has logged is known already.
        entry("agent started", _SYSTEMD_INVOCATION_ID="c0ffee"),
    )
    events = filled("agent started", "resumed", environment={"INVOCATION_ID": "c0ffee"})
    await events.recall()
    assert phrases(events) == ["agent started", "paused", "agent started", "resumed"]
    (asked,) = journalctl.calls()
    assert {"--lines=10", "--output=json", "SYSLOG_IDENTIFIER=ovms-scaler", "_UID=0"} <= set(asked)


async def test_what_is_new_is_kept_when_the_past_is_long(journalctl: Journalctl) -> None:
    journalctl.holds(*(entry(f"old {number}") for number in range(5)))
    events = filled("new", most=3)
    await events.recall()
    assert phrases(events) == ["old 3", "old 4", "new"]


async def test_what_is_logged_meanwhile_comes_after_the_past(journalctl: Journalctl) -> None:
    journalctl.holds(entry("old"))
    events = Events()
    recalling = asyncio.create_task(events.recall())
    await asyncio.sleep(0)
    events.note({"event": "new"})
    await recalling
    assert phrases(events) == ["old", "new"]


async def test_without_a_journal_there_is_no_past(
    journalctl: Journalctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events = filled("a")
    journalctl.fails("No journal files were found.")
    await events.recall()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    await events.recall()
    assert phrases(events) == ["a"]


async def test_a_journal_that_does_not_answer_is_not_waited_for(journalctl: Journalctl) -> None:
    journalctl.hangs()
    events = filled("a")
    await events.recall(deadline_sec=0.1)
    assert phrases(events) == ["a"]


async def test_an_agent_that_ends_does_not_wait_for_the_journal(journalctl: Journalctl) -> None:
    journalctl.hangs()
    recalling = asyncio.create_task(filled("a").recall())
    await journalctl.until_it_hangs()
    recalling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await recalling


def test_every_entry_is_noted_and_logged(capfd: pytest.CaptureFixture[str]) -> None:
    events = Events()
    log.configure(events.note)
    try:
        logger = structlog.get_logger()
        logger.warning("instance changed", instance="chat-numa0", state="failed")
        logger.debug("nobody wants it")
        try:
            raise ValueError("x")
        except ValueError:
            logger.exception("control request failed", path="/")
    finally:
        structlog.reset_defaults()
    first, second = read(events)
    assert capfd.readouterr().err.startswith(
        "warning: instance changed instance=chat-numa0 state=failed\n"
        "error: control request failed path=/\nTraceback"
    )
    assert {**first, "at": 0} == {
        "at": 0,
        "level": "warning",
        "event": "instance changed",
        "instance": "chat-numa0",
        "state": "failed",
    }
    assert second.keys() == {"at", "level", "event", "path"}
    assert abs(time.time() - first["at"]) < 60


def test_what_cannot_be_noted_is_logged_all_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a bug")

    log.configure(fail)
    try:
        structlog.get_logger().info("agent started")
    finally:
        structlog.reset_defaults()
    assert capfd.readouterr().err == "info: agent started\n"
