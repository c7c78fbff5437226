# SPDX-License-Identifier: Apache-2.0
"""Events: the same document from what is logged and from what the journal has of it."""

import json

import pytest

from ovms_scaler.core.event import MOST_CHARACTERS, is_about, make_event, parse_event
from ovms_scaler.core.journal_entry import parse_entry
from ovms_scaler.host.journal import PRIORITIES, render_field_name, render_value

CHAT = frozenset({"chat-numa0"})


def journal_of(entry: dict[str, object]) -> dict[str, str]:
    """What journald makes of a log entry, with the fields that it adds itself."""
    fields = {
        "__REALTIME_TIMESTAMP": "1795287320809310",
        "_UID": "0",
        "PRIORITY": str(PRIORITIES[str(entry["level"])]),
        "MESSAGE": "readable",
    }
    keys = entry.keys() - {"level"}
    return fields | {render_field_name(key): render_value(entry[key]) for key in keys}


@pytest.mark.parametrize(
    "entry",
    [
        {"level": "info", "event": "agent started", "version": "0.1.0"},
        {"level": "warning", "event": "instance changed", "instance": "chat-numa0", "reason": "a\nb"},
        {"level": "info", "event": "proxy changed", "generation": "1234567890123456", "added": ["a"]},
        {"level": "info", "event": "proxy changed", "generation": "12e4567890123456", "removed": []},
        {"level": "info", "event": "to be drained", "instances": ["a", "b"], "allow_outage": False},
        {"level": "warning", "event": "requests cut by the proxy", "count": 3, "shutdown_timeout_sec": 60},
        {"level": "critical", "event": "agent cannot run", "error": "[1]", "hint": None},
    ],
    ids=lambda entry: entry["event"],
)
def test_the_journal_gives_back_what_was_logged(entry: dict[str, object]) -> None:
    made = make_event(entry, at=1795287320.80931)
    read = parse_event(journal_of(entry))
    assert read is not None
    assert read == made
    assert json.loads(json.dumps(made)) == made


def test_what_is_not_json_becomes_text() -> None:
    entry = {"event": "e", "level": "info", "path": object, "number": float("inf"), "names": {"b"}}
    made = make_event(entry, at=1.0)
    assert made == {**made, "number": "inf", "names": ["b"]}
    assert isinstance(made["path"], str)


def test_tracebacks_stay_in_the_journal_and_long_texts_are_cut() -> None:
    entry = {"event": "e", "level": "error", "exception": "Traceback", "error": "x" * 9999}
    made = make_event(entry, at=1.0)
    assert "exception" not in made
    assert len(str(made["error"])) == MOST_CHARACTERS


def test_the_time_is_when_it_was_sent() -> None:
    fields = {"OVMS_SCALER_EVENT": "paused", "__REALTIME_TIMESTAMP": "2000000"}
    assert parse_event(fields) == {"at": 2.0, "level": "info", "event": "paused"}
    assert parse_event({**fields, "_SOURCE_REALTIME_TIMESTAMP": "1500000"}) == {
        "at": 1.5,
        "level": "info",
        "event": "paused",
    }


@pytest.mark.parametrize(
    "fields",
    [{}, {"OVMS_SCALER_EVENT": "paused"}, {"__REALTIME_TIMESTAMP": "1", "MESSAGE": "Started."}],
    ids=["nothing", "no time", "no event"],
)
def test_other_entries_are_no_events(fields: dict[str, str]) -> None:
    assert parse_event(fields) is None


@pytest.mark.parametrize(
    ("keys", "is_it"),
    [
        ({"instance": "chat-numa0"}, True),
        ({"instance": "chat-numa01"}, False),
        ({"instances": ["code-numa0", "chat-numa0"]}, True),
        ({"added": [], "removed": ["chat-numa0"]}, True),
        ({"unit": "ovms@chat-numa0.service"}, True),
        ({"unit": "ovms-scaler-proxy.service", "added": ["code-numa0"]}, False),
        ({"address": "0000:03:00.0"}, True),
        ({"address": "0000:04:00.0"}, False),
        ({"action": "write /run/systemd/system/ovms@chat-numa0.service.d/50-placement.conf"}, True),
        ({"action": "install proxy generation 00c0ffee (+chat-numa0 -chat-numa1)"}, True),
        ({"action": "remove the files of chat-numa0"}, True),
        ({"action": "stop ovms@chat-numa0.service by SIGKILL"}, True),
        ({"action": "stop ovms@chat-numa00.service"}, False),
        ({"action": "install proxy generation 00c0ffee"}, False),
        ({}, False),
    ],
)
def test_whom_an_event_is_about(keys: dict[str, object], *, is_it: bool) -> None:
    assert is_about({"event": "e", **keys}, CHAT, frozenset({"0000:03:00.0"})) is is_it


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (b'{"MESSAGE":"text","PRIORITY":"6"}', {"MESSAGE": "text", "PRIORITY": "6"}),
        (b'{"MESSAGE":[27,91,51,49,109,104,255]}', {"MESSAGE": "\x1b[31mh\ufffd"}),
        (b'{"MESSAGE":null,"A":"1"}', {"A": "1"}),
        (b'{"A":["first","second"],"B":[[104,105],"x"],"C":[]}', {"A": "first", "B": "hi"}),
        (b'{"A":[1,"x"],"B":[999],"C":{"D":1},"D":[[["deep"]]],"E":[null]}', {}),
        (b"-- No entries --", None),
        (b"[1]", None),
        (b'{"MESSAGE":', None),
        (b"[" * 100_000, None),
        (b"\xff", None),
    ],
    ids=["text", "bytes", "too large", "several", "nonsense", "words", "a list", "cut", "deep", "not UTF-8"],
)
def test_lines_of_journalctl(line: bytes, fields: dict[str, str] | None) -> None:
    assert parse_entry(line) == fields
