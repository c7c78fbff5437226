# SPDX-License-Identifier: Apache-2.0
"""The figures of one row of the table, from the record of a load. Pure; times are seconds of one clock."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from faults.answers import Outcome

ODD = frozenset({"poison", "bad"})  # sent beside the load, and not counted with it
STILL_SEC = 1.0  # so close to the end of the load a request is one of those that never ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as its client saw it; ``kind``: unary, stream, poison, bad."""

    kind: str
    began: float
    ended: float
    outcome: Outcome
    status: int = 0
    instance: str = ""
    is_json: bool = False
    trouble: str = ""

    @property
    def took_sec(self) -> float:
        return self.ended - self.began


@dataclass(slots=True, kw_only=True)
class Record:
    """What a load saw: its requests, which port got one when, when a port became ready or ceased to be.

    ``ended`` is when no more requests were begun.
    """

    requests: list[Request]
    posts: list[tuple[float, int]]
    changes: list[tuple[float, int, bool]]
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """Answers with one status other than 200: how many, and milliseconds until their clients had them."""

    count: int
    median_ms: float
    slowest_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One row. Seconds are after the fault; None: it does not apply, infinity: not before the load's end.

    ``last_request_sec`` is when an engine that the fault is about got its last request before it was itself
    again, ``full_strength_sec`` when all of these got one afterwards. ``posts``: requests that each port was
    given.
    """

    sent: int
    answered: int
    cut: int
    lost_unary: int
    lost_streamed: int
    wrong: int
    timed_out: int
    slowest_sec: float
    statuses: Mapping[str, Refusals]
    cut_by: Mapping[str, int]
    not_json: int
    posts: Mapping[str, int]
    last_request_sec: float | None
    full_strength_sec: float | None
    odd: Mapping[str, int] = field(default_factory=dict)


def parse_record(document: Mapping[str, Any]) -> Record:
    """The record that clients.py printed."""
    return Record(
        requests=[Request(**{**one, "outcome": Outcome(one["outcome"])}) for one in document["requests"]],
        posts=[(float(when), int(port)) for when, port in document["posts"]],
        changes=[(float(when), int(port), bool(ready)) for when, port, ready in document["changes"]],
        ended=float(document["ended"]),
    )


def compute(record: Record, *, fault_at: float, victims: Collection[int]) -> Figures:
    """The figures of a fault that began at ``fault_at``."""
    load = [one for one in record.requests if one.kind not in ODD]
    counts = Counter(one.outcome for one in load)
    lost = Counter(one.kind for one in load if one.outcome is Outcome.lost)
    wrong = [one for one in load if one.outcome is Outcome.wrong]
    odd = (f"{one.kind} {one.status or one.outcome}" for one in record.requests if one.kind in ODD)
    return Figures(
        sent=len(load),
        answered=counts[Outcome.answered],
        cut=counts[Outcome.cut],
        lost_unary=lost["unary"],
        lost_streamed=lost["stream"],
        wrong=counts[Outcome.wrong],
        timed_out=sum(one.trouble == "TimeoutError" for one in load),
        slowest_sec=max((one.took_sec for one in load), default=0.0),
        statuses=_refusals(wrong),
        cut_by=dict(Counter(one.instance for one in load if one.outcome is Outcome.cut)),
        not_json=sum(not one.is_json for one in wrong),
        posts={str(port): count for port, count in sorted(Counter(to for _, to in record.posts).items())},
        last_request_sec=_latest(_last_request(record, fault_at, port) for port in victims),
        full_strength_sec=_latest(_strength(record, fault_at, port) for port in victims),
        odd=dict(Counter(odd)),
    )


def _refusals(wrong: Iterable[Request]) -> dict[str, Refusals]:
    times: dict[str, list[float]] = {}
    for one in wrong:
        times.setdefault(str(one.status), []).append(one.took_sec * 1000)
    return {
        status: Refusals(count=len(found), median_ms=median(found), slowest_ms=max(found))
        for status, found in sorted(times.items())
    }


def recovery(record: Record, fault_at: float, port: int) -> float:
    """When an engine was first ready again after it had not been, infinity for never."""
    changes = sorted(one for one in record.changes if one[1] == port)
    is_down = next((ready for when, _, ready in reversed(changes) if when <= fault_at), True) is False
    for when, _, ready in changes:
        if when <= fault_at:
            continue
        if ready and is_down:
            return when
        is_down = not ready
    return float("inf")


def posts_while_not_ready(record: Record, fault_at: float, port: int, *, after: float = 0.0) -> int:
    """Requests that went to the engine between the fault (or ``after``) and its recovery."""
    begin, end = max(fault_at, after), recovery(record, fault_at, port)
    return sum(begin < when < end for when, where in record.posts if where == port)


def _last_request(record: Record, fault_at: float, port: int) -> float | None:
    until = recovery(record, fault_at, port)
    last = max(
        (when for when, where in record.posts if where == port and fault_at < when < until), default=0.0
    )
    if not last:
        return 0.0
    return float("inf") if last > record.ended - STILL_SEC and until > record.ended else last - fault_at


def _strength(record: Record, fault_at: float, port: int) -> float:
    begin = recovery(record, fault_at, port)
    after = (when for when, where in record.posts if where == port and when >= begin)
    return min(after, default=float("inf")) - fault_at


def _latest(times: Iterable[float | None]) -> float | None:
    return max((one for one in times if one is not None), default=None)
