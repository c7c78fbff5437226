# SPDX-License-Identifier: Apache-2.0
"""What came of one run, before anything is made of it."""

from dataclasses import dataclass

from ovms_scaler.bench.outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """How busy one process was: its share of a core, and how late its event loop was at each beat."""

    pid: int
    cpu_share: float
    lags: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run; ``began_at`` is seconds since the epoch.

    ``unfinished`` is how many requests were given up or never sent; of these those that were due had been so
    since the times in ``given_up``. ``own_cpu_share`` is the share of a core of the process that handed them
    out, None where it was not looked at.
    """

    outcomes: tuple[Outcome, ...]
    workers: tuple[WorkerReport, ...]
    began_at: float
    duration_sec: float
    unfinished: int = 0
    given_up: tuple[float, ...] = ()
    is_interrupted: bool = False
    own_cpu_share: float | None = None
