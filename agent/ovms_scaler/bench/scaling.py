# SPDX-License-Identifier: Apache-2.0
"""What each further instance brings: the curve, its efficiency, and its knee."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from ovms_scaler.bench.statistics import Interval, contrast_interval, mean_interval
from ovms_scaler.errors import InputError

# An instance that brings less than half of what one alone does is not worth its place.
KNEE_SHARE = 0.5
# With fewer clients for each instance engines wait for requests rather than the other way round.
_ENOUGH_CLIENTS = 16
# Of the intervals of all steps together: the knee is the first of several.
_WRONG_SHARE = 0.05
ENOUGH_ROUNDS = 3
# From here on an open loop was served as fast as it asked, whoever served it.
_SERVED_SHARE = 0.95
# Where shares of failed requests are further apart, what was answered is not the same load.
FAILED_APART = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """So many instances in rotation, and the output tokens per second of each run with them.

    ``clients`` asked at once at most, None where nothing bounds them.
    """

    instances: int
    names: tuple[str, ...]
    output_tokens_per_sec: tuple[float, ...]
    requests_per_sec: tuple[float, ...]
    clients: int | None = None
    failed_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of the curve.

    ``speedup`` is how many times the throughput of one instance, ``efficiency`` what of a whole instance
    each of them brings on average, ``marginal`` what each of those did that came since the point before.
    One instance is that of the first point, which stands for itself where it is not one.
    """

    instances: int
    names: tuple[str, ...]
    throughput: Interval
    speedup: float | None
    efficiency: float | None
    marginal: Interval | None
    clients: int | None
    failed_share: float

    def document(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in self.__slots__ if name != "throughput"}
        return shown | {
            "output_tokens_per_sec": self.throughput.document(),
            "marginal": self.marginal.document() if self.marginal is not None else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The points by number of instances.

    ``knee`` is the number after which more bring little, None while they do not. What is not
    ``is_conclusive`` has none, and ``notes`` say why: it shows the load, its failures or its noise rather
    than the instances.
    """

    points: tuple[Point, ...]
    knee: int | None
    notes: tuple[str, ...]
    is_conclusive: bool

    def document(self) -> dict[str, Any]:
        return {
            "is_conclusive": self.is_conclusive,
            "points": [point.document() for point in self.points],
            "knee": self.knee,
            "notes": list(self.notes),
        }


def parse_scale(text: str) -> tuple[int, ...]:
    """``"1,2,4,6"`` in ascending order. Raises InputError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 1024 for part in parts):
        raise InputError(f"numbers of instances must be like 1,2,4, not {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def draw_curve(measured: Sequence[Measured], *, request_rate: float | None) -> Curve:
    """The curve of what was measured, in any order; ``request_rate`` is that of an open loop."""
    ordered = sorted(measured, key=lambda one: one.instances)
    throughputs = [mean_interval(one.output_tokens_per_sec) for one in ordered]
    single = throughputs[0].mean / ordered[0].instances if ordered else 0.0
    points = tuple(
        Point(
            instances=one.instances,
            names=one.names,
            throughput=throughput,
            speedup=throughput.mean / single if single else None,
            efficiency=throughput.mean / single / one.instances if single else None,
            marginal=_find_marginal(ordered, index) if index else None,
            clients=one.clients,
            failed_share=one.failed_share,
        )
        for index, (one, throughput) in enumerate(zip(ordered, throughputs, strict=True))
    )
    notes = (*_note_served(ordered, request_rate), *_note_clients(ordered), *_note_failed(ordered))
    notes = notes or _note_noise(points)
    is_conclusive = not notes and all(point.marginal is not None for point in points[1:])
    return Curve(
        points=points,
        knee=find_knee(points) if is_conclusive else None,
        notes=notes,
        is_conclusive=is_conclusive,
    )


def find_knee(points: Sequence[Point]) -> int | None:
    """The number of instances before the first step of which each brings less than half of one alone.

    By the figures as they are, whether that is chance or not.
    """
    for before, point in pairwise(points):
        if point.marginal is not None and point.marginal.mean < KNEE_SHARE:
            return before.instances
    return None


def _find_marginal(ordered: Sequence[Measured], index: int) -> Interval | None:
    """What each instance that came with this point did, in what one alone does.

    The interval is that of the figure's slope in each mean (the delta method): those of one alone vary, too.
    Its confidence is such that all steps together are wrong in 5 % of curves at most (Bonferroni).
    """
    first, before, here = ordered[0], ordered[index - 1], ordered[index]
    single = fmean(first.output_tokens_per_sec) / first.instances
    if not single:
        return None
    span = (here.instances - before.instances) * single
    share = (fmean(here.output_tokens_per_sec) - fmean(before.output_tokens_per_sec)) / span
    weights = {index: 1 / span, index - 1: -1 / span}
    weights[0] = weights.get(0, 0.0) - share / (single * first.instances)
    terms = [(weight, ordered[place].output_tokens_per_sec) for place, weight in weights.items()]
    noise = contrast_interval(terms, 1 - _WRONG_SHARE / (len(ordered) - 1))
    if noise.low is None or noise.high is None:
        return Interval(mean=share, low=None, high=None)
    return Interval(mean=share, low=share + noise.low, high=share + noise.high)


def _note_noise(points: Sequence[Point]) -> tuple[str, ...]:
    """Why the knee may be elsewhere than the figures say; what comes after a knee does not matter."""
    for before, point in pairwise(points):
        found = point.marginal
        if found is None:
            return ()
        if found.low is None or found.high is None:
            knee = find_knee(points)
            seems = f"be at {knee}" if knee is not None else f"not come up to {points[-1].instances}"
            return (
                f"NO KNEE IS TOLD, as one round cannot tell it from chance: by these figures alone it would "
                f"{seems}. Give --rounds {ENOUGH_ROUNDS} or more.",
            )
        if found.low <= KNEE_SHARE <= found.high:
            return (
                f"NO KNEE IS TOLD, as it is within the noise: from {before.instances} to "
                f"{point.instances} instances each further one brought {_percent(found.low)} to "
                f"{_percent(found.high)} of what one alone does, and less than "
                f"{_percent(KNEE_SHARE)} would be the knee. Give more --rounds, or more --num-prompts.",
            )
        if found.high < KNEE_SHARE:
            return ()
    return ()


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _note_served(ordered: Sequence[Measured], request_rate: float | None) -> tuple[str, ...]:
    if request_rate is None or request_rate == float("inf"):
        return ()
    served = [
        one.instances
        for one in ordered
        if max(one.requests_per_sec, default=0.0) >= _SERVED_SHARE * request_rate
    ]
    if not served:
        return ()
    return (
        f"From {served[0]} instances on all of the {request_rate:g} requests per second were served: there "
        "the curve shows the load, not the instances. Use a higher --request-rate, or only "
        "--max-concurrency.",
    )


def _note_clients(ordered: Sequence[Measured]) -> tuple[str, ...]:
    """In a closed loop more instances than clients can keep busy bring nothing, whatever they can do."""
    few = [
        one for one in ordered if one.clients is not None and one.clients < _ENOUGH_CLIENTS * one.instances
    ]
    if not few or len(ordered) < 2:
        return ()
    worst = few[-1]
    clients = worst.clients or 0
    return (
        f"{clients} clients are {clients / worst.instances:.1f} for each of {worst.instances} instances, "
        "too few to keep them busy: the curve shows the clients, not the instances. Leave out "
        f"--max-concurrency and --num-prompts, or give {_ENOUGH_CLIENTS * worst.instances} or more.",
    )


def _note_failed(ordered: Sequence[Measured]) -> tuple[str, ...]:
    shares = [one.failed_share for one in ordered]
    if not shares or max(shares) - min(shares) <= FAILED_APART:
        return ()
    said = ", ".join(f"{one.failed_share * 100:.1f} % with {one.instances}" for one in ordered)
    return (
        f"REQUESTS FAILED, and not alike ({said}): the curve is of those that were answered, which were "
        "not as many everywhere.",
    )
