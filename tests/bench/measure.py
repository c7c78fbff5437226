# SPDX-License-Identifier: Apache-2.0
"""One measured thing: its samples, its budget, and how a line about it reads."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

COLUMNS = f"{'':42} {'min':>9} {'median':>9} {'max':>9} {'unit':6} {'budget':>8}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """``samples`` in ``unit``; ``budget`` is what the median may be, None where none was set."""

    name: str
    samples: Sequence[float]
    unit: str
    budget: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def is_over(self) -> bool:
        return self.budget is not None and self.median > self.budget

    def __str__(self) -> str:
        low, high = min(self.samples), max(self.samples)
        budget = "" if self.budget is None else f"{self.budget:g}"
        line = f"{self.name:42} {low:9.2f} {self.median:9.2f} {high:9.2f} {self.unit:6} {budget:>8}"
        return line + ("  OVER BUDGET" if self.is_over else "")


def time_calls(call: Callable[[], object], *, times: int) -> list[float]:
    """Milliseconds that each of ``times`` calls took, after one that is not counted."""
    call()
    samples = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        samples.append((time.perf_counter() - began) * 1000)
    return samples
