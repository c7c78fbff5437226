# SPDX-License-Identifier: Apache-2.0
"""Idle, at work or stuck."""

import pytest

from ovms_scaler.core.progress import Counters, Progress, Use, errs, has_worked, look, parse_metrics


def follow(*looks: tuple[int, int, float | None]) -> Progress:
    """Looks ten seconds apart: requests in work, answers given, CPU seconds used."""
    known: Progress | None = None
    for number, (graphs, responses, cpu_sec) in enumerate(looks):
        counters = Counters(graphs=graphs, responses=responses)
        known = look(known, counters, Use(cpu_sec=cpu_sec), at_sec=10.0 * number)
    assert known is not None
    return known


@pytest.mark.parametrize(
    ("looks", "idle", "quiet", "still", "works"),
    [
        pytest.param([(0, 0, 1.0)], 0.0, None, None, None, id="idle at first sight"),
        pytest.param([(0, 0, 1.0), (0, 0, 1.0), (0, 0, 9.0)], 0.0, None, None, None, id="idle"),
        pytest.param([(0, 0, 1.0), (0, 1, 1.0)], 10.0, None, None, None, id="asked in between"),
        pytest.param([(1, 0, 1.0)], None, 0.0, 0.0, None, id="at work at first sight"),
        pytest.param([(1, 0, 1.0), (1, 0, 1.0), (1, 0, 1.0)], None, 0.0, 0.0, False, id="stuck"),
        pytest.param(
            [(1, 0, 1.0), (1, 0, 1.08), (2, 0, 1.16)], None, 0.0, 0.0, False, id="but for idle threads"
        ),
        pytest.param(
            [(1, 0, 1.0), (1, 0, 1.09), (1, 0, 1.21)], None, 0.0, 20.0, True, id="not so little in all"
        ),
        pytest.param(
            [(1, 0, 1.0), (1, 0, 1.0), (1, 0, 1.15)], None, 0.0, 0.0, False, id="little in a long time"
        ),
        pytest.param([(1, 0, 1.0), (1, 0, 1.0), (1, 1, 1.0)], None, 20.0, 20.0, None, id="an answer came"),
        pytest.param([(1, 0, 1.0), (1, 0, 1.0), (1, 0, 3.0)], None, 0.0, 20.0, True, id="computes for long"),
        pytest.param(
            [(1, 0, None), (1, 0, None), (1, 0, None)], None, 0.0, 0.0, None, id="CPU time unknown"
        ),
        pytest.param([(0, 0, 1.0), (1, 0, 1.0)], None, 10.0, 10.0, None, id="asked just now"),
        pytest.param([(0, 0, 1.0), (1, 0, 1.0), (0, 0, 1.0)], 20.0, None, None, None, id="idle again"),
    ],
)
def test_look(
    *,
    looks: list[tuple[int, int, float | None]],
    idle: float | None,
    quiet: float | None,
    still: float | None,
    works: bool | None,
) -> None:
    progress = follow(*looks)
    assert (progress.idle_since_sec, progress.quiet_since_sec) == (idle, quiet)
    assert (progress.still_since_sec, progress.works) == (still, works)


def test_an_error_is_an_answer() -> None:
    first = look(None, Counters(graphs=1, responses=0), Use(cpu_sec=1.0), at_sec=0.0)
    then = look(first, Counters(graphs=1, responses=0, errors=1), Use(cpu_sec=1.0), at_sec=10.0)
    assert then.quiet_since_sec == 10.0


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(Use(cpu_sec=1.0), Use(cpu_sec=1.5), True, id="CPU"),
        pytest.param(Use(cpu_sec=1.0), Use(cpu_sec=1.001), False, id="idle threads"),
        pytest.param(Use(), Use(cpu_sec=1.0), None, id="CPU time was unknown"),
        pytest.param(
            Use(cpu_sec=1.0, gpu_idle_sec=(5.0, 9.0)), Use(cpu_sec=1.0, gpu_idle_sec=(5.4, 10.0)), True,
            id="one part of the card is at work",
        ),
        pytest.param(
            Use(cpu_sec=1.0, gpu_idle_sec=(5.0,)), Use(cpu_sec=1.0, gpu_idle_sec=(5.95,)), False,
            id="the card was woken up only to be looked at",
        ),
        pytest.param(
            Use(cpu_sec=1.0, gpu_idle_sec=None), Use(cpu_sec=1.0, gpu_idle_sec=(5.95,)), None,
            id="of the card nothing was known",
        ),
        pytest.param(
            Use(cpu_sec=1.0, gpu_idle_sec=(5.0,)), Use(cpu_sec=1.0, gpu_idle_sec=(5.0, 5.0)), None,
            id="another card",
        ),
        pytest.param(
            Use(cpu_sec=1.0, gpu_idle_sec=None), Use(cpu_sec=1.5, gpu_idle_sec=None), True,
            id="CPU, and nothing known of the card",
        ),
        pytest.param(Use(gpu_idle_sec=(5.0,)), Use(gpu_idle_sec=(6.0,)), None, id="an idle card only"),
    ],
)  # fmt: skip
def test_work_is_what_idle_threads_and_cards_do_not_do(
    before: Use, after: Use, *, expected: bool | None
) -> None:
    assert has_worked(before, after, in_sec=1.0) is expected


@pytest.mark.parametrize(
    ("responses", "errors", "expected"),
    [(0, 4, False), (0, 5, True), (5, 5, True), (6, 5, False), (0, 0, False)],
)
def test_errors_are_many_when_answers_are_not_more(responses: int, errors: int, *, expected: bool) -> None:
    before = Counters(graphs=1, responses=100, errors=50)
    after = Counters(graphs=0, responses=100 + responses, errors=50 + errors)
    assert errs(before, after) is expected


METRICS = """\
# HELP ovms_current_graphs Number of graphs currently in process.
# TYPE ovms_current_graphs gauge
ovms_current_graphs{name="org/a b"} 3
ovms_current_graphs{name="org/b"} 1
ovms_responses{api="V3",interface="REST",method="Stream",name="org/a"} 42
ovms_responses{api="V3",interface="REST",method="Unary",name="org/a"} 8
ovms_graph_error{api="V3",interface="REST",method="Unary",name="org/a"} 2
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(METRICS, Counters(graphs=4, responses=50, errors=2), id="two models"),
        pytest.param('ovms_current_graphs{name="a"} 0\n', Counters(graphs=0, responses=0), id="nothing yet"),
        pytest.param("", None, id="nothing"),
        pytest.param('ovms_current_graphs{name="a"} many\n', None, id="no number"),
        pytest.param('ovms_current_graphs{name="a"} NaN\n', None, id="not a number"),
        pytest.param('ovms_current_graphs{name="a"} 1\novms_responses{} +Inf\n', None, id="endless"),
    ],
)
def test_parse_metrics(text: str, expected: Counters | None) -> None:
    assert parse_metrics(text) == expected
