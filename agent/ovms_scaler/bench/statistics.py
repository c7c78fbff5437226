# SPDX-License-Identifier: Apache-2.0
"""What a set of figures says, and what it does not."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A set of figures in short; percentiles as in ``percentile``."""

    count: int
    mean: float
    std: float
    median: float
    p95: float
    p99: float
    max: float

    def document(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and where it lies, usually with 95 % confidence; without ends when there is one figure only."""

    mean: float
    low: float | None
    high: float | None

    def document(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in self.__slots__}


def describe(values: Iterable[float]) -> Spread | None:
    """None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return Spread(
        count=len(ordered),
        mean=statistics.fmean(ordered),
        std=statistics.stdev(ordered) if len(ordered) > 1 else 0.0,
        median=percentile(ordered, 50),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
        max=ordered[-1],
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of figures in ascending order, with linear interpolation between the two next to it.

    This is definition 7 of Hyndman and Fan (1996), the usual one of numpy, by which vLLM's benchmark counts.
    """
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Student's interval of the mean of independent figures."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean=mean, low=None, high=None)
    half = student_quantile(len(values) - 1, confidence) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean=mean, low=mean - half, high=mean + half)


def paired_ratio(
    before: Sequence[float], after: Sequence[float], confidence: float = CONFIDENCE
) -> Interval | None:
    """How many times ``before`` is ``after``, from figures that belong together pair by pair.

    The geometric mean of the pairs' ratios, with Student's interval of their logarithms: what changes both
    of a pair alike, as a warm afternoon does, leaves the ratio as it is. None when a figure is missing or
    not above 0.
    """
    if not before or len(before) != len(after) or min(*before, *after) <= 0:
        return None
    ratios = [math.log(two / one) for one, two in zip(before, after, strict=True)]
    return _from_logarithm(mean_interval(ratios, confidence))


def contrast_interval(
    terms: Sequence[tuple[float, Sequence[float]]], confidence: float = CONFIDENCE
) -> Interval:
    """The sum of means, each times its weight, with Student's interval; all figures are independent.

    They need not vary alike: freedom is that of Welch and Satterthwaite (Satterthwaite 1946), rounded down.
    Without ends when there is but one figure of a mean.
    """
    mean = sum(weight * statistics.fmean(values) for weight, values in terms)
    if any(len(values) < 2 for _, values in terms):
        return Interval(mean=mean, low=None, high=None)
    errors = [weight**2 * statistics.variance(values) / len(values) for weight, values in terms]
    total = sum(errors)
    if total <= 0:
        return Interval(mean=mean, low=mean, high=mean)
    parts = (error**2 / (len(values) - 1) for error, (_, values) in zip(errors, terms, strict=True))
    freedom = max(1, int(total**2 / sum(parts) + 1e-9))
    half = student_quantile(freedom, confidence) * math.sqrt(total)
    return Interval(mean=mean, low=mean - half, high=mean + half)


def ratio_of_means(
    first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE
) -> Interval | None:
    """How many times ``second`` is ``first``, from figures that do not belong together in pairs.

    The ratio of the geometric means, with Welch's interval of its logarithm. None when there is no figure of
    one of them, or one is not above 0.
    """
    if not first or not second or min(*first, *second) <= 0:
        return None
    terms = [(1.0, [math.log(one) for one in first]), (-1.0, [math.log(one) for one in second])]
    return _from_logarithm(contrast_interval(terms, confidence))


def _from_logarithm(logs: Interval) -> Interval:
    if logs.low is None or logs.high is None:
        return Interval(mean=math.exp(logs.mean), low=None, high=None)
    return Interval(mean=math.exp(logs.mean), low=math.exp(logs.low), high=math.exp(logs.high))


def student_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t beyond which 1 - ``confidence`` of Student's distribution lies, both sides together."""
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        if _two_sided(middle, freedom) > 1 - confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _two_sided(t: float, freedom: int) -> float:
    """The probability of more than ``t`` on either side (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        term, total = cosine, cosine if freedom > 1 else 0.0
        for index in range(3, freedom - 1, 2):
            term *= cosine * cosine * (index - 1) / index
            total += term
        return 1 - 2 / math.pi * (angle + sine * total)
    term = total = 1.0
    for index in range(2, freedom - 1, 2):
        term *= cosine * cosine * (index - 1) / index
        total += term
    return 1 - sine * total
