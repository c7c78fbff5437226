# SPDX-License-Identifier: Apache-2.0
"""Whether the figures are the server's, or rather those of a client that could not keep up."""

from dataclasses import dataclass

from ovms_scaler.bench.outcome import Kind, Outcome
from ovms_scaler.bench.run import Run
from ovms_scaler.bench.statistics import Spread, percentile

_BUSY_SHARE = 0.85
# How late a client may be: 5 % of the same figure of the time to the first token, and this in any case.
_LATE_SHARE, _LATE_SEC = 0.05, 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLoad:
    """How busy and how late the client itself was; None where there was nothing to see.

    ``own_share`` is the share of a core of the process that handed out requests, ``limit`` is "" when it was
    good enough, else why it was not.
    """

    workers: int
    cores: float
    busiest_share: float | None
    own_share: float | None
    lag_p99_sec: float | None
    late_p99_sec: float | None
    limit: str


def judge_client(run: Run, ttft: Spread | None) -> ClientLoad:
    """Whether the figures are the server's, or rather those of a client that could not keep up."""
    workers, outcomes, own_share = run.workers, run.outcomes, run.own_cpu_share
    lags = sorted(lag for one in workers for lag in one.lags)
    delays = sorted(one.late_sec for one in outcomes if not _is_lost(one))
    lag = percentile(lags, 99) if lags else None
    late = percentile(delays, 99) if delays else None
    busiest = max((one.cpu_share for one in workers), default=None)
    mean_late = sum(delays) / len(delays) if delays else 0.0
    limit = ""
    if any(_is_lost(one) for one in outcomes):
        limit = "one of its processes died"
    elif is_busy(busiest):
        limit = f"its busiest process used {busiest:.0%} of a core"
    elif is_busy(own_share):
        limit = f"the process that hands out its requests used {own_share:.0%} of a core"
    elif mean_late > _allowed(ttft.mean if ttft else 0.0):
        limit = f"requests were sent {mean_late * 1000:.0f} ms late on average"
    elif late is not None and late > _allowed(ttft.p99 if ttft else 0.0):
        limit = f"1 % of the requests were sent {late * 1000:.0f} ms late or more"
    elif lag is not None and lag > _allowed(ttft.p99 if ttft else 0.0):
        limit = f"it read answers {lag * 1000:.0f} ms late or more for 1 % of the time"
    return ClientLoad(
        workers=len(workers),
        cores=sum(one.cpu_share for one in workers) + (own_share or 0.0),
        busiest_share=busiest,
        own_share=own_share,
        lag_p99_sec=lag,
        late_p99_sec=late,
        limit=limit,
    )


def is_busy(share: float | None) -> bool:
    """Whether a process with this share of a core has no time left for its own clock."""
    return share is not None and share > _BUSY_SHARE


def _allowed(measured_sec: float) -> float:
    return max(_LATE_SEC, _LATE_SHARE * measured_sec)


def _is_lost(outcome: Outcome) -> bool:
    return outcome.failure is not None and outcome.failure.kind is Kind.client
