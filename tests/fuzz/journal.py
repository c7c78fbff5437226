# SPDX-License-Identifier: Apache-2.0
"""Entries of the journal, where engines, clients' requests and other programs leave what they like."""

import contextlib
import json
from collections.abc import Callable, Iterator

from hypothesis import strategies as st

from fuzz.driver import ODD, Target, damaged
from fuzz.specs import HOSTILE
from ovms_scaler.core.event import is_about, parse_event
from ovms_scaler.core.event_text import render_event, render_hint
from ovms_scaler.core.journal_entry import parse_entry
from ovms_scaler.core.log_line import make_line
from ovms_scaler.core.subject import Subject

SUBJECT = Subject(
    instances=frozenset({"chat-numa0"}), ports=frozenset({8003}), upstreams=frozenset({"chat"})
)


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    def check(line: bytes) -> None:
        fields = parse_entry(line)
        if fields is None:
            return
        assert all(isinstance(value, str) for value in fields.values())
        made = make_line(fields, SUBJECT)
        if made is not None:
            json.dumps(made.document(), allow_nan=False)
        event = parse_event(fields)
        if event is not None:
            json.dumps(event, allow_nan=False)
            assert isinstance(render_event(event) + render_hint(event), str)
            is_about(event, SUBJECT.instances)

    yield check


_NAMES = st.sampled_from(
    (
        "MESSAGE", "PRIORITY", "__REALTIME_TIMESTAMP", "_SOURCE_REALTIME_TIMESTAMP", "_SYSTEMD_UNIT", "UNIT",
        "COREDUMP_UNIT", "OVMS_SCALER_EVENT", "OVMS_SCALER_INSTANCE", "OVMS_SCALER_INSTANCES",
        "OVMS_SCALER_ADDED", "OVMS_SCALER_COUNT", "OVMS_SCALER_ACTION", "OVMS_SCALER_", "OVMS_SCALER_AT",
    )
)  # fmt: skip
_TEXTS = st.one_of(
    st.sampled_from(
        (
            "ovms@chat-numa0.service", "ovms-scaler-proxy.service", "instance changed", "proxy changed",
            "chat-numa0", '["chat-numa0", 1e999, null]', "NaN", "-1e999", "1795287600000000", "9" * 5000,
            '[] upstream: "http://127.0.0.1:8003/v3"', 'upstream: "127.0.0.1:' + "9" * 5000 + '"',
            "[" * 3000, "{instance.__class__}", "null",
        )
    ),
    HOSTILE,
)  # fmt: skip
_VALUES = st.one_of(
    _TEXTS,
    st.none(),
    st.lists(st.integers(-1, 300), max_size=9),
    st.lists(_TEXTS, max_size=2),
    st.floats(),
    st.dictionaries(HOSTILE, st.none(), max_size=1),
)
_ENTRIES = st.dictionaries(_NAMES, _VALUES, max_size=8).map(
    lambda fields: json.dumps({"__REALTIME_TIMESTAMP": "1", **fields}).encode(errors="replace")
)
_WHOLE = b'{"__REALTIME_TIMESTAMP":"1","OVMS_SCALER_EVENT":"instance changed","MESSAGE":[104,105]}'


def open_journal() -> Target:
    return Target(
        name="journal",
        about="entries of the journal",
        inputs=st.one_of(_ENTRIES, damaged((_WHOLE,)), ODD),
        open=_open,
    )
