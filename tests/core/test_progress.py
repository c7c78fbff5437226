# SPDX-License-Identifier: Apache-2.0
"""Idle, at work or stuck."""

import pytest

from ovms_scaler.core.progress import Counters, Progress, has_worked, look, parse_metrics


def follow(*looks: tuple[int, int, float | None]) -> Progress:
    """Looks ten seconds apart: requests in work, answers given, CPU seconds used."""
    known: Progress | None = None
    for number, (graphs, responses, cpu_sec) in enumerate(looks):
        known = look(known, Counters(graphs=graphs, responses=responses), cpu_sec, at_sec=10.0 * number)
    assert known is not None
    return known


@pytest.mark.parametrize(
    ("looks", "idle", "stuck"),
    [
        pytest.param([(0, 0, 1.0)], 0.0, None, id="idle at first sight"),
        pytest.param([(0, 0, 1.0), (0, 0, 1.0), (0, 0, 9.0)], 0.0, None, id="idle"),
        pytest.param([(0, 0, 1.0), (0, 1, 1.0)], 10.0, None, id="asked in between"),
        pytest.param([(1, 0, 1.0), (1, 0, 1.0), (1, 0, 1.0)], None, 0.0, id="stuck"),
        pytest.param([(1, 0, 1.0), (1, 0, 1.05), (2, 0, 1.1)], None, 0.0, id="stuck, but for idle threads"),
        pytest.param([(1, 0, 1.0), (1, 0, 1.0), (1, 1, 1.0)], None, None, id="an answer came"),
        pytest.param([(1, 0, 1.0), (1, 0, 1.0), (1, 0, 3.0)], None, None, id="computes for long"),
        pytest.param([(1, 0, None), (1, 0, None), (1, 0, None)], None, None, id="CPU time unknown"),
        pytest.param([(0, 0, 1.0), (1, 0, 1.0), (0, 0, 1.0)], 20.0, None, id="idle again"),
    ],
)
def test_look(looks: list[tuple[int, int, float | None]], idle: float | None, stuck: float | None) -> None:
    progress = follow(*looks)
    assert (progress.idle_since_sec, progress.stuck_since_sec) == (idle, stuck)


def test_work_is_more_than_idle_threads_do() -> None:
    assert has_worked(1.0, 1.5, in_sec=1.0)
    assert has_worked(1.0, 1.001, in_sec=1.0) is False
    assert has_worked(None, 1.0, in_sec=1.0) is None


METRICS = """\
# HELP ovms_current_graphs Number of graphs currently in process.
# TYPE ovms_current_graphs gauge
ovms_current_graphs{name="org/a b"} 3
ovms_current_graphs{name="org/b"} 1
ovms_responses{api="V3",interface="REST",method="Stream",name="org/a"} 42
ovms_responses{api="V3",interface="REST",method="Unary",name="org/a"} 8
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(METRICS, Counters(graphs=4, responses=50), id="two models"),
        pytest.param('ovms_current_graphs{name="a"} 0\n', Counters(graphs=0, responses=0), id="nothing yet"),
        pytest.param("", None, id="nothing"),
        pytest.param('ovms_current_graphs{name="a"} many\n', None, id="no number"),
    ],
)
def test_parse_metrics(text: str, expected: Counters | None) -> None:
    assert parse_metrics(text) == expected
