# SPDX-License-Identifier: Apache-2.0
"""Curves, their knees, and which of two configurations is better."""

from dataclasses import replace

import pytest
from bench_lab import outcome, run

from ovms_scaler.bench.comparing import Verdict, compare
from ovms_scaler.bench.scaling import Curve, Measured, draw_curve, parse_scale
from ovms_scaler.bench.summary import Summary, summarise
from ovms_scaler.errors import InputError

BASE = summarise(run(outcome()))


def curve(*points: tuple[int, float], request_rate: float | None = None) -> Curve:
    measured = [
        Measured(
            instances=count,
            names=("a",) * count,
            output_tokens_per_sec=(rate,),
            requests_per_sec=(rate / 10,),
        )
        for count, rate in points
    ]
    return draw_curve(measured, request_rate=request_rate)


def test_a_curve_in_whatever_order_it_was_measured() -> None:
    drawn = curve((4, 350.0), (1, 100.0), (2, 190.0))
    assert [point.instances for point in drawn.points] == [1, 2, 4]
    assert [point.speedup for point in drawn.points] == [1.0, 1.9, 3.5]
    assert [point.efficiency for point in drawn.points] == [1.0, 0.95, 0.875]
    assert [point.marginal for point in drawn.points] == [None, pytest.approx(0.9), pytest.approx(0.8)]


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
        "Output token throughput: preferred.toml is better; preferred.toml has 12.0 % more (95 %"
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
