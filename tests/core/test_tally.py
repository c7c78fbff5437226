# SPDX-License-Identifier: Apache-2.0
"""What the agent counts of its own deeds; the phrases that it counts by are those that are logged."""

from pathlib import Path

import pytest

import ovms_scaler
from ovms_scaler.core import tally
from ovms_scaler.core.tally import PASS_BOUNDS_SEC, Durations, Tally


def test_durations_are_counted_as_prometheus_does() -> None:
    durations = Durations()
    for duration_sec in (0.004, 0.01, 0.3, 7.0, 1000.0):
        durations.note(duration_sec)
    found = dict(durations.cumulative())
    assert list(found) == [*map(str, PASS_BOUNDS_SEC), "+Inf"]
    assert (found["0.01"], found["0.5"], found["5.0"], found["10.0"], found["300.0"], found["+Inf"]) == (
        *(2, 3, 3, 4, 4, 5),
    )
    assert durations.sum_sec == pytest.approx(1007.314)


def test_events_are_counted_by_level_and_by_what_they_are_about() -> None:
    found = Tally()
    for entry in (
        {"event": "killing instance", "level": "warning", "instance": "chat-numa0"},
        {"event": "killing instance", "level": "warning", "instance": "chat-numa0"},
        {"event": "gpu wedged", "level": "warning", "address": "0000:03:00.0"},
        {"event": "gpu coredump", "level": "warning", "address": "0000:03:00.0"},
        {"event": "proxy changed", "level": "info"},
        {"event": "paused", "level": "info"},
    ):
        found.note_event(entry)
    assert found.events == {"warning": 4, "info": 2}
    assert found.kills == {"chat-numa0": 2}
    assert found.hangs == {"0000:03:00.0": 2}
    assert found.proxy_changes == 1


@pytest.mark.parametrize("phrase", [tally.KILLING, tally.PROXY_CHANGED, *sorted(tally.HANGS)])
def test_each_phrase_is_one_that_is_logged(phrase: str) -> None:
    daemon = Path(ovms_scaler.__file__).parent / "daemon"
    assert any(f'"{phrase}"' in path.read_text() for path in daemon.glob("*.py"))
