# SPDX-License-Identifier: Apache-2.0
"""What each further instance brings: the curve, its efficiency, and its knee."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ovms_scaler.bench.statistics import Interval, mean_interval
from ovms_scaler.errors import InputError

# An instance that brings less than half of what one alone does is not worth its place.
KNEE_SHARE = 0.5
# From here on an open loop was served as fast as it asked, whoever served it.
_SERVED_SHARE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """So many instances in rotation, and the output tokens per second of each run with them."""

    instances: int
    names: tuple[str, ...]
    output_tokens_per_sec: tuple[float, ...]
    requests_per_sec: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of the curve.

    ``speedup`` is how many times the throughput of one instance, ``efficiency`` what of a whole instance
    each of them brings on average, ``marginal`` what each of those did that came since the point before. One
    instance is that of the first point, which stands for itself where it is not one.
    """

    instances: int
    names: tuple[str, ...]
    throughput: Interval
    speedup: float | None
    efficiency: float | None
    marginal: float | None

    def document(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in self.__slots__}
        return shown | {"output_tokens_per_sec": self.throughput.document(), "throughput": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The points by number of instances.

    ``knee`` is the number after which more bring little, None while they do not.
    """

    points: tuple[Point, ...]
    knee: int | None
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        return {
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
    points: list[Point] = []
    for index, (one, throughput) in enumerate(zip(ordered, throughputs, strict=True)):
        marginal = None
        if index and single:
            before = ordered[index - 1]
            gained = throughput.mean - throughputs[index - 1].mean
            marginal = gained / (one.instances - before.instances) / single
        points.append(
            Point(
                instances=one.instances,
                names=one.names,
                throughput=throughput,
                speedup=throughput.mean / single if single else None,
                efficiency=throughput.mean / single / one.instances if single else None,
                marginal=marginal,
            )
        )
    return Curve(points=tuple(points), knee=find_knee(points), notes=_notes(ordered, request_rate))


def find_knee(points: Sequence[Point]) -> int | None:
    """The number of instances before the first step of which each brings less than half of one alone."""
    for before, point in pairwise(points):
        if point.marginal is not None and point.marginal < KNEE_SHARE:
            return before.instances
    return None


def _notes(ordered: Sequence[Measured], request_rate: float | None) -> tuple[str, ...]:
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
