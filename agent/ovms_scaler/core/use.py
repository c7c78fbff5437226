# SPDX-License-Identifier: Apache-2.0
"""What instances, nodes and cards had used at one moment, and how much of them was in use between two.

Whatever cannot be read is None, and so is what is made of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

# Shares are of so long at most, when somebody asks all the time; and of nothing when the last to ask did
# longer ago than this.
SPAN_SEC = 10.0
MAX_SPAN_SEC = 60.0


class Timed(Protocol):
    """Something that was so at a moment of a clock that does not go back."""

    @property
    def at_sec(self) -> float: ...


T = TypeVar("T", bound=Timed)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Memory in use, and by node where that is known; without page cache that nobody has mapped."""

    memory_bytes: int
    by_node: Mapping[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceUse:
    """``cpu_sec`` is CPU time of all its threads since its unit was started."""

    cpu_sec: float | None = None
    memory: MemoryUse | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUse:
    """A NUMA node. ``busy`` and ``total`` are times of all its CPUs, in the kernel's unit."""

    id: int
    busy: int | None = None
    total: int | None = None
    memory_used_bytes: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUse:
    """The machine without its cards. ``connections`` are those of the proxy, by the instance's port."""

    at_sec: float
    instances: Mapping[str, InstanceUse] = field(default_factory=dict)
    nodes: tuple[NodeUse, ...] = ()
    connections: Mapping[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CardUse:
    """One card, as seen by one instance that has it.

    ``idle_sec`` is for how long each part of it has been idle, whoever used it. ``busy`` is for each kind of
    engine in it for how long it worked for that instance, and for how long there was one to work, both in
    one unit. A card that ``is_asleep`` does nothing, and tells nothing without being woken.
    """

    is_asleep: bool = False
    idle_sec: tuple[float, ...] | None = None
    busy: Mapping[str, tuple[float, float]] | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CardsUse:
    """The cards of one instance by PCI address."""

    at_sec: float
    cards: Mapping[str, CardUse] = field(default_factory=dict)


def choose_span(samples: Sequence[T]) -> tuple[T, T] | None:
    """The last of the samples and the one to compare it with; None when there is none that is fit."""
    if len(samples) < 2:
        return None
    last = samples[-1]
    before = next(one for one in samples if last.at_sec - one.at_sec <= SPAN_SEC)
    if before is last:
        before = samples[-2]
    return (before, last) if 0 < last.at_sec - before.at_sec <= MAX_SPAN_SEC else None


def cpu_cores(span: tuple[HostUse, HostUse] | None, instance: str) -> float | None:
    """How many CPUs' worth of time it used; None when it was started anew meanwhile, too."""
    if span is None:
        return None
    before, after = (one.instances.get(instance, InstanceUse()).cpu_sec for one in span)
    if before is None or after is None or after < before:
        return None
    return (after - before) / (span[1].at_sec - span[0].at_sec)


def cpu_share(span: tuple[HostUse, HostUse] | None, node: int) -> float | None:
    """How much of a node's CPUs' time was not idle."""
    if span is None:
        return None
    before, after = (next((own for own in one.nodes if own.id == node), None) for one in span)
    if before is None or after is None:
        return None
    if before.busy is None or before.total is None or after.busy is None or after.total is None:
        return None
    passed = after.total - before.total
    return _limit((after.busy - before.busy) / passed) if passed > 0 else None


def busy_share(span: tuple[CardsUse, CardsUse] | None, last: CardsUse | None, address: str) -> float | None:
    """How much of the time the busiest part of a card worked, for that instance where that is known.

    A part that is awake counts as working when only the time that it slept is known.
    """
    card = last.cards.get(address) if last is not None else None
    if card is not None and card.is_asleep:
        return 0.0
    if span is None or card is None or (before := span[0].cards.get(address)) is None:
        return None
    if before.busy is not None and card.busy is not None:
        return _worked_share(before.busy, card.busy)
    return _awake_share(before.idle_sec, card.idle_sec, span[1].at_sec - span[0].at_sec)


def _worked_share(
    before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]
) -> float | None:
    shares = [
        _limit((worked - before[kind][0]) / (passed - before[kind][1]))
        for kind, (worked, passed) in after.items()
        if kind in before and passed > before[kind][1]
    ]
    return max(shares, default=None)


def _awake_share(
    before: tuple[float, ...] | None, after: tuple[float, ...] | None, span_sec: float
) -> float | None:
    if before is None or after is None or len(before) != len(after) or not after:
        return None
    slept = (last - first for first, last in zip(before, after, strict=True))
    return max(_limit(1 - slept_sec / span_sec) for slept_sec in slept)


def used_bytes(used: int, *, cached: int, mapped: int, shared: int, reclaimable: int) -> int:
    """What is in use of ``used`` bytes: not the kernel's caches that it can drop at once.

    ``cached`` is the page cache with files that are ``mapped``, as weights are while an engine computes, and
    with ``shared`` memory, which cannot be dropped.
    """
    return max(0, used - max(0, cached - mapped - shared) - reclaimable)


def _limit(share: float) -> float:
    return min(1.0, max(0.0, share))


def add_known(values: Iterable[int | None]) -> int | None:
    """The sum; None when one of them is unknown, or there is none."""
    total: int | None = None
    for value in values:
        if value is None:
            return None
        total = (total or 0) + value
    return total
