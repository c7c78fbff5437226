# SPDX-License-Identifier: Apache-2.0
"""Figures against values that were computed by hand or are in tables."""

import math
import random

import pytest

from ovms_scaler.bench.statistics import (
    contrast_interval,
    describe,
    mean_interval,
    paired_ratio,
    percentile,
    ratio_of_means,
    student_quantile,
)


@pytest.mark.parametrize(
    ("percent", "value"),
    # Of 10, 20, 30, 40: the place is 3 * percent / 100, counted from 0.
    [(0, 10.0), (50, 25.0), (75, 32.5), (95, 38.5), (99, 39.7), (100, 40.0)],
)
def test_percentiles_interpolate_as_numpy_does(percent: float, value: float) -> None:
    assert percentile([10.0, 20.0, 30.0, 40.0], percent) == pytest.approx(value)


def test_percentiles_of_one_figure_are_that_figure() -> None:
    assert [percentile([7.0], percent) for percent in (0, 50, 99, 100)] == [7.0] * 4


def test_a_spread() -> None:
    spread = describe([4.0, 1.0, 3.0, 2.0])
    assert spread is not None
    assert (spread.count, spread.mean, spread.median, spread.max) == (4, 2.5, 2.5, 4.0)
    assert spread.std == pytest.approx(math.sqrt(5 / 3))
    assert spread.p95 == pytest.approx(3.85)
    assert describe([]) is None


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # Two-sided, 95 %, from any table of Student's distribution.
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_students_quantile(freedom: int, quantile: float) -> None:
    assert student_quantile(freedom) == pytest.approx(quantile, abs=0.0006)


def test_the_interval_of_a_mean() -> None:
    found = mean_interval([9.0, 10.0, 11.0])
    assert found.low is not None
    assert found.high is not None
    # 4.303 * 1 / sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((10.0, 7.516, 12.484), abs=0.001)
    one = mean_interval([9.0])
    assert (one.mean, one.low, one.high) == (9.0, None, None)


def test_a_ratio_of_pairs_does_not_see_what_changed_both() -> None:
    # The machine became twice as slow between rounds; B is 10 % better in each.
    found = paired_ratio([100.0, 50.0, 25.0], [110.0, 55.0, 27.5])
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1))


def test_a_ratio_that_changes_sides_is_not_sure() -> None:
    found = paired_ratio([100.0, 100.0, 100.0], [105.0, 96.0, 103.0])
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1 < found.high


@pytest.mark.parametrize(
    ("before", "after"), [([], []), ([1.0], []), ([0.0, 1.0], [1.0, 1.0]), ([1.0], [-1.0])]
)
def test_no_ratio_of_what_is_missing_or_nothing(before: list[float], after: list[float]) -> None:
    assert paired_ratio(before, after) is None


def test_a_contrast_of_two_means_is_welchs() -> None:
    """Three figures with a variance of 1 beside five with one of 10."""
    before, after = [9.0, 10.0, 11.0], [12.0, 20.0, 16.0, 18.0, 14.0]
    found = contrast_interval([(-1.0, before), (1.0, after)])
    # Errors are 1 / 3 and 10 / 5; (7 / 3)^2 / ((1 / 3)^2 / 2 + 2^2 / 4) is 5.16, of which 5 count.
    half = 2.571 * math.sqrt(7 / 3)
    assert (found.mean, found.low, found.high) == pytest.approx((6.0, 6.0 - half, 6.0 + half), abs=0.001)


def test_a_contrast_of_what_was_seen_once_has_no_ends() -> None:
    found = contrast_interval([(2.0, [1.0]), (1.0, [3.0, 5.0])])
    assert (found.mean, found.low, found.high) == (6.0, None, None)


def test_a_contrast_of_what_does_not_vary_is_sure() -> None:
    found = contrast_interval([(1.0, [3.0, 3.0]), (-1.0, [1.0, 1.0])])
    assert (found.mean, found.low, found.high) == (2.0, 2.0, 2.0)


def test_a_contrast_is_wrong_as_seldom_as_it_says() -> None:
    source = random.Random(1)

    def draw(count: int, deviation: float) -> list[float]:
        return [source.gauss(10.0, deviation) for _ in range(count)]

    intervals = [contrast_interval([(-1.0, draw(3, 1.0)), (1.0, draw(3, 3.0))]) for _ in range(1000)]
    missed = sum(not (one.low or 0.0) <= 0.0 <= (one.high or 0.0) for one in intervals)
    assert missed <= 50


def test_a_ratio_of_what_does_not_belong_together() -> None:
    found = ratio_of_means([100.0, 102.0, 98.0], [50.0, 51.0, 49.0])
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.mean == pytest.approx(2.0, rel=0.001)
    assert 1.9 < found.low < 2.0 < found.high < 2.1
    once = ratio_of_means([100.0], [50.0])
    assert once is not None
    assert once.mean == pytest.approx(2.0)
    assert (once.low, once.high) == (None, None)


@pytest.mark.parametrize(("first", "second"), [([], [1.0]), ([1.0], []), ([1.0], [0.0]), ([0.0], [1.0])])
def test_no_ratio_of_nothing(first: list[float], second: list[float]) -> None:
    assert ratio_of_means(first, second) is None
