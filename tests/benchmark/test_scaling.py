# SPDX-License-Identifier: Apache-2.0
"""Curves, their knees, and which of two configurations is better."""

import math
import random
from dataclasses import replace

import pytest
from bench_lab import load, outcome, run

from ovms_scaler.bench.comparing import CONFIDENCE, FIGURES, Verdict, compare, note_failures, verdict_row
from ovms_scaler.bench.scaling import Curve, Measured, draw_curve, parse_scale
from ovms_scaler.bench.statistics import paired_ratio
from ovms_scaler.bench.summary import Summary, summarise
from ovms_scaler.errors import InputError

BASE = summarise(run(outcome()))


def curve(
    *points: tuple[int, float],
    request_rate: float | None = None,
    noise: tuple[float, ...] = (-0.002, 0.0, 0.002),
) -> Curve:
    """As many rounds as ``noise`` has shares, by which each is off."""
    measured = [
        Measured(
            instances=count,
            names=("a",) * count,
            output_tokens_per_sec=tuple(rate * (1 + share) for share in noise),
            requests_per_sec=(rate / 10,),
        )
        for count, rate in points
    ]
    return draw_curve(measured, request_rate=request_rate)


def test_a_curve_in_whatever_order_it_was_measured() -> None:
    drawn = curve((4, 350.0), (1, 100.0), (2, 190.0))
    assert [point.instances for point in drawn.points] == [1, 2, 4]
    assert [point.speedup for point in drawn.points] == pytest.approx([1.0, 1.9, 3.5])
    assert [point.efficiency for point in drawn.points] == pytest.approx([1.0, 0.95, 0.875])
    marginals = [point.marginal and point.marginal.mean for point in drawn.points]
    assert marginals == [None, pytest.approx(0.9), pytest.approx(0.8)]


@pytest.mark.parametrize(
    ("points", "knee"),
    [
        (((1, 100.0), (2, 200.0), (4, 400.0)), None),
        (((1, 100.0), (2, 190.0), (4, 350.0), (6, 380.0)), 4),
        (((1, 100.0), (2, 90.0)), 1),
        (((1, 100.0),), None),
        (((2, 200.0), (4, 390.0), (8, 420.0)), 4),
        (((1, 0.0), (2, 0.0)), None),
    ],
)
def test_the_knee_is_where_the_next_bring_less_than_half(
    points: tuple[tuple[int, float], ...], knee: int | None
) -> None:
    assert curve(*points).knee == knee


def test_one_round_tells_no_knee() -> None:
    found = curve((1, 100.0), (2, 149.0), noise=(0.0,))
    assert (found.knee, found.is_conclusive) == (None, False)
    assert found.notes == (
        "NO KNEE IS TOLD, as one round cannot tell it from chance: by these figures alone it would be at 1. "
        "Give --rounds 3 or more.",
    )
    (note,) = curve((1, 100.0), (2, 190.0), noise=(0.0,)).notes
    assert "by these figures alone it would not come up to 2." in note
    assert curve((1, 100.0), noise=(0.0,)).notes == ()


def test_a_knee_within_the_noise_is_none() -> None:
    rounds = {1: (80.0, 120.0), 2: (130.0, 166.0)}
    measured = [
        Measured(instances=count, names=("a",), output_tokens_per_sec=rates, requests_per_sec=(1.0, 1.0))
        for count, rates in rounds.items()
    ]
    found = draw_curve(measured, request_rate=None)
    assert (found.knee, found.is_conclusive) == (None, False)
    (note,) = found.notes
    assert note.startswith("NO KNEE IS TOLD, as it is within the noise: from 1 to 2 instances each further")
    assert note.endswith("and less than 50 % would be the knee. Give more --rounds, or more --num-prompts.")


def test_noise_after_the_knee_does_not_matter() -> None:
    # What the last ones bring may be more than half or less; the knee was before.
    measured = [
        Measured(instances=count, names=("a",), output_tokens_per_sec=rates, requests_per_sec=(1.0,) * 3)
        for count, rates in (
            (1, (99.0, 100.0, 101.0)),
            (2, (109.0, 110.0, 111.0)),
            (3, (120.0, 160.0, 200.0)),
        )
    ]
    found = draw_curve(measured, request_rate=None)
    assert (found.knee, found.is_conclusive, found.notes) == (1, True, ())


def test_a_knee_that_is_none_is_hardly_ever_told() -> None:
    """Four numbers of instances without a knee, but near to one, and rounds with 5 % of noise."""
    source = random.Random(1)

    def draw() -> Curve:
        measured = [
            Measured(
                instances=count,
                names=("a",),
                output_tokens_per_sec=tuple(rate * source.gauss(1.0, 0.05) for _ in range(3)),
                requests_per_sec=(1.0,) * 3,
            )
            for count, rate in ((1, 100.0), (2, 155.0), (3, 210.0), (4, 265.0))
        ]
        return draw_curve(measured, request_rate=None)

    assert sum(draw().knee is not None for _ in range(400)) <= 400 * 0.05


def test_the_first_point_stands_for_one_where_one_alone_was_not_measured() -> None:
    drawn = curve((2, 180.0), (4, 300.0))
    assert drawn.points[0].efficiency == 1.0
    assert drawn.points[1].speedup == pytest.approx(300 / 90)


def test_rounds_give_an_interval() -> None:
    measured = Measured(
        instances=1, names=("a",), output_tokens_per_sec=(9.0, 10.0, 11.0), requests_per_sec=(1.0, 1.0, 1.0)
    )
    (point,) = draw_curve([measured], request_rate=None).points
    assert point.throughput.low == pytest.approx(7.516, abs=0.001)


def test_a_load_that_was_served_is_no_measure_of_instances() -> None:
    (note,) = curve((1, 100.0), (2, 196.0), (4, 198.0), request_rate=20.0).notes
    assert note.startswith("From 2 instances on all of the 20 requests per second were served")
    assert curve((1, 100.0), request_rate=None).notes == ()
    assert curve((1, 100.0), request_rate=float("inf")).notes == ()


def clients(count: int | None, **changes: float) -> Curve:
    measured = [
        Measured(
            instances=number,
            names=("a",) * number,
            output_tokens_per_sec=(rate, rate + 1, rate - 1),
            requests_per_sec=(1.0,),
            clients=count,
            failed_share=changes.get(f"failed_{number}", 0.0),
        )
        for number, rate in ((1, 100.0), (2, 110.0))
    ]
    return draw_curve(measured, request_rate=None)


def test_a_curve_of_too_few_clients_has_no_knee() -> None:
    found = clients(31)
    assert (found.knee, found.is_conclusive) == (None, False)
    (note,) = found.notes
    assert note.startswith("31 clients are 15.5 for each of 2 instances, too few to keep them busy")
    assert "or give 32 or more" in note
    assert (clients(32).knee, clients(32).notes, clients(None).knee) == (1, (), 1)


def test_a_curve_of_requests_that_failed_has_no_knee() -> None:
    found = clients(64, failed_2=0.3)
    assert (found.knee, found.is_conclusive) == (None, False)
    assert found.notes[0].startswith("REQUESTS FAILED, and not alike (0.0 % with 1, 30.0 % with 2)")
    assert clients(64, failed_1=0.3, failed_2=0.3).is_conclusive


def test_nothing_is_said_of_a_knee_where_one_instance_served_nothing() -> None:
    found = curve((1, 0.0), (4, 50.0))
    assert (found.knee, found.is_conclusive) == (None, False)
    assert not curve((1, 100.0), (2, 196.0), request_rate=19.0).is_conclusive


@pytest.mark.parametrize(("text", "counts"), [("1,2,4,6", (1, 2, 4, 6)), ("6, 1,1", (1, 6)), ("3", (3,))])
def test_numbers_of_instances(text: str, counts: tuple[int, ...]) -> None:
    assert parse_scale(text) == counts


@pytest.mark.parametrize("text", ["", "0", "1,", "a", "1-4", "-1", "9999"])
def test_what_are_no_numbers_of_instances(text: str) -> None:
    with pytest.raises(InputError, match="numbers of instances must be like 1,2,4"):
        parse_scale(text)


def sides(before: list[float], after: list[float]) -> dict[str, Verdict]:
    def make(rates: list[float]) -> list[Summary]:
        return [replace(BASE, output_tokens_per_sec=rate, ttft_sec=None) for rate in rates]

    return {verdict.figure.name: verdict for verdict in compare(make(before), make(after))}


def test_a_difference_beyond_the_noise() -> None:
    verdict = sides([100.0, 102.0, 98.0], [112.0, 113.0, 111.0])["output_tokens_per_sec"]
    assert verdict.better == "B"
    sentence = verdict.describe({"A": "bind.toml", "B": "preferred.toml"})
    assert sentence.startswith(
        "Output token throughput: preferred.toml is better; preferred.toml has 12.0 % more (99.3 %"
    )


def test_a_difference_within_the_noise() -> None:
    verdict = sides([100.0, 120.0, 95.0], [105.0, 99.0, 112.0])["output_tokens_per_sec"]
    assert verdict.better == ""
    assert "no difference beyond the noise" in verdict.describe({"A": "a", "B": "b"})


def test_less_of_a_time_is_better() -> None:
    def with_ttft(ttft_sec: float) -> Summary:
        return summarise(run(outcome(first_sec=1.0 + ttft_sec)))

    verdicts = compare([with_ttft(0.5), with_ttft(0.52)], [with_ttft(0.2), with_ttft(0.208)])
    assert {one.figure.name: one.better for one in verdicts}["ttft_median_sec"] == "B"


def test_one_round_cannot_tell() -> None:
    verdict = sides([100.0], [200.0])["output_tokens_per_sec"]
    assert verdict.better == ""
    assert "one round cannot tell whether that is chance" in verdict.describe({"A": "a", "B": "b"})


def test_what_was_not_measured_is_not_compared() -> None:
    verdict = sides([100.0, 100.0], [100.0, 100.0])["ttft_median_sec"]
    assert (verdict.ratio, verdict.better) == (None, "")
    assert verdict.describe({}) == "Median TTFT: not measured in every round"


NAMES = {"A": "a.toml", "B": "b.toml"}


def with_failures(ttft_sec: float, failed: int) -> Summary:
    return replace(
        summarise(run(outcome(first_sec=1.0 + ttft_sec))),
        successful_requests=100 - failed,
        failed_requests=failed,
    )


def test_times_of_what_was_answered_are_not_compared_where_more_failed() -> None:
    before = [with_failures(ttft_sec, 0) for ttft_sec in (0.5, 0.51, 0.49)]
    after = [with_failures(ttft_sec, failed) for ttft_sec, failed in ((0.2, 60), (0.21, 61), (0.19, 59))]
    verdicts = compare(before, after)
    found = {one.figure.name: one for one in verdicts}
    assert found["ttft_median_sec"].better == ""
    assert "not compared, as requests failed and not alike" in found["ttft_median_sec"].describe(NAMES)
    assert found["failed_share"].better == "A"
    said = found["failed_share"].describe(NAMES)
    assert said == "Failed requests: a.toml is better; 0.0 % with a.toml, 60.0 % with b.toml"
    (note,) = note_failures(verdicts, NAMES)
    assert "0.0 % with a.toml, 60.0 % with b.toml" in note
    assert verdict_row(found["failed_share"], NAMES)["b_text"] == "60.0 %"


def test_without_failures_there_is_nothing_to_say_of_them() -> None:
    verdicts = compare([with_failures(0.5, 0)] * 3, [with_failures(0.2, 0)] * 3)
    assert {one.figure.name: one.better for one in verdicts}["ttft_median_sec"] == "B"
    assert verdicts[-1].describe(NAMES) == "Failed requests: none"
    assert note_failures(verdicts, NAMES) == []


def test_sides_that_are_alike_have_hardly_ever_a_winner() -> None:
    """All rows together: 5 % at most, of figures that have nothing to do with each other."""
    source = random.Random(1)

    def draw() -> list[float]:
        return [math.exp(source.gauss(0.0, 0.02)) for _ in range(4)]

    def has_winner() -> bool:
        ratios = [paired_ratio(draw(), draw(), CONFIDENCE) for _ in FIGURES]
        return any(one and one.low and one.high and (one.low > 1 or one.high < 1) for one in ratios)

    assert sum(has_winner() for _ in range(400)) <= 400 * 0.08


def test_clients_of_a_load() -> None:
    assert load(num_prompts=10, max_concurrency=4).clients == 4
    assert load(num_prompts=10, max_concurrency=40).clients == 10
    assert load(request_rate=3.0, max_concurrency=None).clients is None
    assert load(request_rate=float("inf"), max_concurrency=None).clients == 10
    scaled = load(num_prompts=10, max_concurrency=4, scales_clients=True)
    assert scaled.describe() == "closed loop of 4 clients for each instance"
    sized = scaled.for_instances(3)
    assert (sized.max_concurrency, sized.num_prompts) == (12, 10)
