# SPDX-License-Identifier: Apache-2.0
"""Counts what the agent did since it has started."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# From a look at an idle host to the longest that a pass waits for systemd.
PASS_BOUNDS_SEC = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
# Phrases of the log that are counted by what they are about.
KILLING = "killing instance"
PROXY_CHANGED = "proxy changed"
HANGS = frozenset({"gpu wedged", "gpu coredump"})


@dataclass(slots=True)
class Durations:
    """Times by ``PASS_BOUNDS_SEC``; the last count is of those beyond all bounds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(PASS_BOUNDS_SEC) + 1))
    sum_sec: float = 0.0

    def note(self, duration_sec: float) -> None:
        self.counts[bisect_left(PASS_BOUNDS_SEC, duration_sec)] += 1
        self.sum_sec += duration_sec

    def cumulative(self) -> Iterator[tuple[str, int]]:
        """How many took at most so long, by bound."""
        total = 0
        for bound, count in zip((*map(str, PASS_BOUNDS_SEC), "+Inf"), self.counts, strict=True):
            total += count
            yield bound, total


@dataclass(slots=True)
class Tally:
    """``events`` by level, ``kills`` by instance, ``hangs`` by the address of the GPU."""

    passes: Durations = field(default_factory=Durations)
    events: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    hangs: Counter[str] = field(default_factory=Counter)
    proxy_changes: int = 0

    def note_event(self, entry: Mapping[str, object]) -> None:
        """Count an entry of the log."""
        self.events[str(entry.get("level"))] += 1
        phrase = entry.get("event")
        if phrase == KILLING:
            self.kills[str(entry.get("instance"))] += 1
        elif phrase == PROXY_CHANGED:
            self.proxy_changes += 1
        elif phrase in HANGS:
            self.hangs[str(entry.get("address"))] += 1
