# SPDX-License-Identifier: Apache-2.0
"""Counts the requests that the proxy tells of: since the agent has started, and over the last seconds."""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from ovms_scaler.core.record import Answer

WINDOW_SEC = 10.0
# Ten for each decade from a millisecond to a thousand seconds (R10 of ISO 3), so that a median is known to
# some hundredths of it. Programs are shown fewer.
_R10 = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)
BOUNDS_SEC = (*(round(step * 10.0**power, 6) for power in range(-3, 3) for step in _R10), 1000.0)
SHOWN_SEC = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0)
# Ports that a datagram names; far more than there are instances, so that nonsense cannot fill the memory.
_MAX_PORTS = 4096


@dataclass(slots=True)
class Histogram:
    """Times by ``BOUNDS_SEC``, and what they add up to; the last count is of those beyond all bounds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_SEC) + 1))
    sum_sec: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def shown(self) -> list[tuple[float, int]]:
        """How many were at most as long, by the bounds that programs are shown; Prometheus' ``le``."""
        found, total = [], 0
        for bound, count in zip(BOUNDS_SEC, self.counts, strict=False):
            total += count
            if bound in SHOWN_SEC:
                found.append((bound, total))
        return found


def quantile(counts: list[int], share: float) -> float | None:
    """The time that ``share`` of all were below, as if those between two bounds were spread evenly."""
    total = sum(counts)
    if not total:
        return None
    rank, below = share * total, 0
    for number, count in enumerate(counts):
        if count and below + count >= rank:
            low = BOUNDS_SEC[number - 1] if number else 0.0
            high = BOUNDS_SEC[number] if number < len(BOUNDS_SEC) else low
            return low + (high - low) * (rank - below) / count
        below += count
    return BOUNDS_SEC[-1]


@dataclass(slots=True)
class _Second:
    """What ended within one second; times by the number of their bound."""

    number: int
    requests: int = 0
    errors: int = 0
    rejected: int = 0
    ttfb: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The last ``WINDOW_SEC``; of the time to first byte the median and the 99th percentile."""

    requests_per_sec: float
    errors_per_sec: float
    rejected_per_sec: float
    median_sec: float | None
    p99_sec: float | None


class Series:
    """What became of the requests to one instance, or to all of them together.

    ``rejected``, ``retried`` and ``incomplete`` stay 0 for an instance.
    """

    __slots__ = ("_seconds", "_since_sec", "errors", "incomplete", "rejected", "requests", "retried", "ttfb")

    def __init__(self, since_sec: float) -> None:
        """``since_sec`` is when counting began."""
        self.requests = self.errors = self.rejected = self.retried = self.incomplete = 0
        self.ttfb = Histogram()
        self._since_sec = since_sec
        self._seconds: deque[_Second] = deque(maxlen=int(WINDOW_SEC))

    def note(self, now_sec: float, *, error: bool, rejected: bool, ttfb_sec: float | None) -> None:
        """Count one request; ``ttfb_sec`` is None for one that was not answered well."""
        number = int(now_sec)
        if not self._seconds or self._seconds[-1].number != number:
            self._seconds.append(_Second(number))
        second = self._seconds[-1]
        self.requests += 1
        second.requests += 1
        if error:
            self.errors += 1
            second.errors += 1
        if rejected:
            self.rejected += 1
            second.rejected += 1
        if ttfb_sec is not None:
            bucket = bisect_left(BOUNDS_SEC, ttfb_sec)
            self.ttfb.counts[bucket] += 1
            self.ttfb.sum_sec += ttfb_sec
            second.ttfb[bucket] = second.ttfb.get(bucket, 0) + 1

    def window(self, now_sec: float) -> Window:
        """The last seconds; nine that are over, and the present one as far as it is."""
        first = int(now_sec) - int(WINDOW_SEC) + 1
        seconds = [one for one in self._seconds if one.number >= first]
        span_sec = max(1.0, now_sec - max(float(first), self._since_sec))
        counts = [0] * (len(BOUNDS_SEC) + 1)
        for second in seconds:
            for bucket, count in second.ttfb.items():
                counts[bucket] += count
        return Window(
            requests_per_sec=sum(one.requests for one in seconds) / span_sec,
            errors_per_sec=sum(one.errors for one in seconds) / span_sec,
            rejected_per_sec=sum(one.rejected for one in seconds) / span_sec,
            median_sec=quantile(counts, 0.5),
            p99_sec=quantile(counts, 0.99),
        )


class Traffic:
    """All requests, and those that each engine was given, by its port. Times are of one clock."""

    def __init__(self, since_sec: float) -> None:
        self._since_sec = since_sec
        self.front = Series(since_sec)
        self._ports: dict[int, Series] = {}

    def note(self, answer: Answer, *, now_sec: float) -> None:
        """Take one request in. It counts for each engine that was tried."""
        status = answer.status
        # 000 is what a client got whose request was cut before its answer began (core/cuts.py).
        is_error = status is not None and (status >= 500 or status == 0) and not answer.is_rejected
        self.front.note(
            now_sec,
            error=is_error,
            rejected=answer.is_rejected,
            ttfb_sec=answer.ttfb_sec if status is not None and 200 <= status < 400 else None,
        )
        self.front.retried += len(answer.tries) > 1
        self.front.incomplete += not answer.is_complete
        times = answer.header_sec or (None,) * len(answer.tries)
        for (port, code), header_sec in zip(answer.tries, times, strict=False):
            series = self._ports.get(port)
            if series is None:
                if len(self._ports) >= _MAX_PORTS:
                    continue
                series = self._ports[port] = Series(self._since_sec)
            is_good = 200 <= code < 400
            series.note(now_sec, error=code >= 500, rejected=False, ttfb_sec=header_sec if is_good else None)

    def of(self, port: int) -> Series:
        """What is known of an engine; it begins with nothing."""
        return self._ports.get(port) or Series(self._since_sec)
