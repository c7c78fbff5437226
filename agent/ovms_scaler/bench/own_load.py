# SPDX-License-Identifier: Apache-2.0
"""Whether the figures are the server's, or rather those of a client that could not keep up."""

from collections.abc import Sequence
from dataclasses import dataclass

from ovms_scaler.bench.outcome import Kind, Outcome
from ovms_scaler.bench.run import Run
from ovms_scaler.bench.statistics import Spread, percentile

# A process with more of a core than this has no time left for its own clock; with less than half of one that
# is late it waits for others.
_BUSY_SHARE, _IDLE_SHARE = 0.85, 0.5
# How late a client may be: 5 % of the same figure of the time to the first token, and this in any case.
_LATE_SHARE, _LATE_SEC = 0.05, 0.01
# How late 1 % of the answers may be read: by so much P99 of ITL is too high, when it is near the median.
_SPOILT_SHARE, _SPOILT_SEC = 0.25, 0.005
_USUAL_WAY_OUT = "give more processes (--workers, now {}), or use another machine (--url)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLoad:
    """How busy and how late the client itself was; None where there was nothing to see.

    ``own_share`` is the share of a core of the process that handed out requests, ``limit`` is "" when it was
    good enough, else why it was not, and ``way_out`` what to do about it.
    """

    workers: int
    cores: float
    busiest_share: float | None
    own_share: float | None
    lag_p99_sec: float | None
    late_p99_sec: float | None
    limit: str
    way_out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured with it."""

    ttft_sec: Spread | None
    itl_sec: Spread | None
    tpot_sec: Spread | None

    @property
    def between_events_sec(self) -> float | None:
        """The usual time between two events with text.

        What is read late comes in one piece, so that the median of ITL is 0; that of TPOT stays.
        """
        medians = [one.median for one in (self.itl_sec, self.tpot_sec) if one is not None]
        return max(medians, default=None)


def judge_client(run: Run, measured: Measured) -> ClientLoad:
    """Whether the client was good enough for these figures."""
    workers, outcomes, own_share = run.workers, run.outcomes, run.own_cpu_share
    lags = sorted(lag for one in workers for lag in one.lags)
    delays = sorted(one.late_sec for one in outcomes if not _is_own(one))
    lag = percentile(lags, 99) if lags else None
    late = percentile(delays, 99) if delays else None
    busiest = max((one.cpu_share for one in workers), default=None)
    limit = way_out = ""
    if limit := _find_failed(outcomes):
        way_out = _USUAL_WAY_OUT.format(len(workers))
    elif _is_busy(busiest):
        limit = f"its busiest process used {busiest:.0%} of a core"
        way_out = _USUAL_WAY_OUT.format(len(workers))
    elif _is_busy(own_share):
        limit = f"the process that hands out its requests used {own_share:.0%} of a core"
        way_out = "there is one such process only; use another machine (--url), or several at once"
    elif limit := _find_late(delays, late, measured) or _find_lag(lag, measured):
        way_out = _USUAL_WAY_OUT.format(len(workers))
        if max(busiest or 0.0, own_share or 0.0) < _IDLE_SHARE:
            way_out = "it waited for CPUs that others used; leave it some, or use another machine (--url)"
    return ClientLoad(
        workers=len(workers),
        cores=sum(one.cpu_share for one in workers) + (own_share or 0.0),
        busiest_share=busiest,
        own_share=own_share,
        lag_p99_sec=lag,
        late_p99_sec=late,
        limit=limit,
        way_out=way_out,
    )


def _find_failed(outcomes: Sequence[Outcome]) -> str:
    kinds = [one.failure.kind for one in outcomes if one.failure is not None]
    if Kind.client in kinds:
        return "one of its processes died"
    lacking = [one.failure for one in outcomes if one.failure and one.failure.kind is Kind.own_limit]
    return f"{len(lacking)} requests could not be sent: {lacking[0].message}" if lacking else ""


def _find_late(delays: Sequence[float], late: float | None, measured: Measured) -> str:
    ttft = measured.ttft_sec
    mean = sum(delays) / len(delays) if delays else 0.0
    if mean > _allowed(ttft.mean if ttft else 0.0):
        return f"requests were sent {mean * 1000:.0f} ms late on average"
    if late is not None and late > _allowed(ttft.p99 if ttft else 0.0):
        return f"1 % of the requests were sent {late * 1000:.0f} ms late or more"
    return ""


def _find_lag(lag: float | None, measured: Measured) -> str:
    if lag is None:
        return ""
    said = f"it read answers {lag * 1000:.0f} ms late or more for 1 % of the time"
    if lag > _allowed(measured.ttft_sec.p99 if measured.ttft_sec else 0.0):
        return said
    usual = measured.between_events_sec
    if usual is not None and lag > max(_SPOILT_SEC, _SPOILT_SHARE * usual):
        return f"{said}, and events with text came each {usual * 1000:.0f} ms"
    return ""


def _is_busy(share: float | None) -> bool:
    return share is not None and share > _BUSY_SHARE


def _allowed(measured_sec: float) -> float:
    return max(_LATE_SEC, _LATE_SHARE * measured_sec)


def _is_own(outcome: Outcome) -> bool:
    """Whether it failed by the client itself."""
    return outcome.failure is not None and outcome.failure.kind in (Kind.client, Kind.own_limit)
