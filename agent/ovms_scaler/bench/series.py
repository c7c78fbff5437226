# SPDX-License-Identifier: Apache-2.0
"""What is drawn of a run: distributions, and what happened when."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ovms_scaler.bench.outcome import Outcome, group_failed
from ovms_scaler.bench.run import Run
from ovms_scaler.bench.statistics import percentile

_POINTS = 200
_BUCKETS = 80
_WIDTHS_SEC = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)


def draw_series(run: Run) -> dict[str, Any]:
    """All of them, as JSON; times in seconds, the distributions as [value, share of all up to it]."""
    good = [one for one in run.outcomes if one.is_good]
    return {
        "ttft_sec": ecdf(one.ttft_sec for one in good if one.ttft_sec is not None),
        "tpot_sec": ecdf(one.tpot_sec for one in good if one.tpot_sec is not None),
        "itl_sec": ecdf(gap / 1e6 for one in good for gap in one.gaps_us),
        "latency_sec": ecdf(one.latency_sec for one in good),
        "over_time": over_time(run),
    }


def ecdf(values: Iterable[float]) -> list[tuple[float, float]]:
    """The empirical distribution at evenly spread shares, the smallest and the largest figure included."""
    ordered = sorted(values)
    if not ordered:
        return []
    count = min(_POINTS, len(ordered))
    if count == 1:
        return [(ordered[0], 1.0)]
    shares = [index / (count - 1) for index in range(count)]
    return [(round(percentile(ordered, share * 100), 6), round(share, 4)) for share in shares]


def over_time(run: Run) -> dict[str, Any]:
    """Rates and counts in buckets of equal width.

    The last has what is left, half of a width at least, and counts over its own time: of a moment that is
    left over at the end a rate would be a peak that there never was.
    """
    duration_sec = max(run.duration_sec, 1e-3)
    width_sec = next(
        (width for width in _WIDTHS_SEC if duration_sec / width <= _BUCKETS), duration_sec / _BUCKETS
    )
    count = max(1, int(duration_sec / width_sec + 0.5))
    spans = [width_sec] * (count - 1) + [duration_sec - (count - 1) * width_sec]

    def place(at_sec: float) -> int:
        return min(count - 1, max(0, int(at_sec / width_sec)))

    tokens, ended = [0.0] * count, [0] * count
    errors: dict[str, list[int]] = {}
    for label, failed in group_failed(run.outcomes).items():
        counts = errors[label] = [0] * count
        for one in failed:
            counts[place(one.end_sec)] += 1
    for one in run.outcomes:
        if not one.is_good:
            continue
        ended[place(one.end_sec)] += 1
        for at_sec, share in _arrivals(one):
            tokens[place(at_sec)] += share
    return {
        "bucket_sec": width_sec,
        "output_tokens_per_sec": [round(each / span, 3) for each, span in zip(tokens, spans, strict=True)],
        "requests_per_sec": [round(each / span, 3) for each, span in zip(ended, spans, strict=True)],
        "in_flight": _in_flight(run, spans),
        "errors": errors,
    }


def _arrivals(outcome: Outcome) -> Iterator[tuple[float, float]]:
    """When how many tokens came: those of ``usage``, spread evenly over the events with text."""
    at_sec = outcome.end_sec if outcome.first_sec is None else outcome.first_sec
    share = (outcome.generated_tokens or 0) / (1 + len(outcome.gaps_us))
    yield at_sec, share
    for gap_us in outcome.gaps_us:
        at_sec += gap_us / 1e6
        yield at_sec, share


def _in_flight(run: Run, spans: Sequence[float]) -> list[float]:
    """How many requests were due and not yet answered, on average over each bucket.

    What was given up had no answer to the end.
    """
    count, width_sec, over_sec = len(spans), spans[0], sum(spans)
    total = [0.0] * count
    periods = [(one.due_sec, one.end_sec) for one in run.outcomes]
    periods += [(due_sec, over_sec) for due_sec in run.given_up]
    for due_sec, end_sec in periods:
        first, last = int(due_sec / width_sec), int(end_sec / width_sec)
        for index in range(max(0, min(count - 1, first)), min(count - 1, last) + 1):
            begin = index * width_sec
            end = begin + spans[index]
            total[index] += max(0.0, min(end, end_sec) - max(begin, due_sec))
    return [round(each / span, 3) for each, span in zip(total, spans, strict=True)]
