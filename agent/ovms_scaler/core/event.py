# SPDX-License-Identifier: Apache-2.0
"""Events: what the agent logged, as a document, whether it comes from the agent or from the journal.

An event is a constant phrase (``event``), its ``level``, when it was (``at``, seconds since the epoch), and
keys.
"""

import json
import math
import re
from collections.abc import Collection, Mapping

Event = Mapping[str, object]

# By what journald calls its levels (PRIORITY=, as syslog(3) numbers them).
_LEVELS = {"0": "critical", "1": "critical", "2": "critical", "3": "error", "4": "warning", "7": "debug"}
LEVELS = ("debug", "info", "warning", "error", "critical")
PREFIX = "OVMS_SCALER_"
_WORDS = re.compile("[\\s,/]+")
_MICROSECONDS = re.compile("[0-9]{1,20}")
# Beyond it a value is cut: a configuration may have hundreds of errors.
MOST_CHARACTERS = 4096
# A traceback is for the journal; the others are not the event's own keys.
_LEFT_OUT = frozenset({"event", "level", "exception", "timestamp", "at"})
# Keys whose values are not texts. Any other value stays as it is, also one that looks like a number, as a
# generation or a model may.
_JSON_KEYS = frozenset(
    {
        "added", "allow_outage", "at_once", "count", "cut_requests", "dropped", "files", "instances",
        "is_rolling", "methods", "old_workers", "removed", "shutdown_timeout_sec",
    }
)  # fmt: skip


def make_event(entry: Mapping[str, object], *, at: float) -> dict[str, object]:
    """The event of a log entry, with values that JSON has; it shares nothing with the entry."""
    event = {"at": at, "level": str(entry.get("level", "info")), "event": _shorten(entry.get("event", ""))}
    return event | {key: _plain(value) for key, value in entry.items() if key not in _LEFT_OUT}


def parse_event(fields: Mapping[str, str]) -> dict[str, object] | None:
    """The event of an entry in the journal; None for one that is no event, or was cut off."""
    phrase = fields.get(f"{PREFIX}EVENT")
    at = parse_time(fields)
    if phrase is None or at is None:
        return None
    event: dict[str, object] = {"at": at, "level": parse_level(fields), "event": phrase}
    for name, text in fields.items():
        key = name.removeprefix(PREFIX).lower()
        if name.startswith(PREFIX) and key not in _LEFT_OUT:
            # As None is written; nothing that is said to people is just this word.
            is_json = key in _JSON_KEYS or text == "null"
            event[key] = _parse_value(text) if is_json else _shorten(text)
    return event


def parse_level(fields: Mapping[str, str]) -> str:
    """The level of any entry in the journal."""
    return _LEVELS.get(fields.get("PRIORITY", ""), "info")


def parse_time(fields: Mapping[str, str]) -> float | None:
    """When an entry was sent; where that is not known, when the journal had it. In seconds of the epoch."""
    for name in ("_SOURCE_REALTIME_TIMESTAMP", "__REALTIME_TIMESTAMP"):
        text = fields.get(name, "")
        if _MICROSECONDS.fullmatch(text):
            return int(text) / 1_000_000
    return None


def is_about(event: Event, instances: Collection[str], gpus: Collection[str] = ()) -> bool:
    """Whether an event names one of these instances, alone or among others, or one of these GPUs."""
    if event.get("instance") in instances or event.get("address") in gpus:
        return True
    for key in ("instances", "added", "removed"):
        named = event.get(key)
        if isinstance(named, list) and not set(map(str, named)).isdisjoint(instances):
            return True
    # Units, and files and instances in an action's description of itself.
    words = {_find_name(word) for word in _WORDS.split(f"{event.get('unit', '')} {event.get('action', '')}")}
    return not words.isdisjoint(instances)


def _find_name(word: str) -> str:
    return word.strip("()+-").removeprefix("ovms@").removesuffix(".d").removesuffix(".service")


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_shorten(one) for one in value]
    return _shorten(value)


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 3] + "..."


def _parse_value(text: str) -> object:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _shorten(text)
    return _plain(value)
