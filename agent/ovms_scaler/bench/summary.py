# SPDX-License-Identifier: Apache-2.0
"""What a run says: the rows of the report, what failed and how, and whether the client was the limit."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ovms_scaler.bench.outcome import Kind, Outcome, group_failed
from ovms_scaler.bench.run import Run
from ovms_scaler.bench.statistics import Spread, describe, percentile

_BUSY_SHARE = 0.85
# How late a client may be: 5 % of the same figure of the time to the first token, and this in any case.
_LATE_SHARE, _LATE_SEC = 0.05, 0.01
_ENOUGH_FOR_P99 = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRow:
    """Requests that failed in one way; ``instances`` counts them by who was to answer."""

    label: str
    kind: Kind
    count: int
    first_sec: float
    message: str
    instances: dict[str, int]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The figures of one run. Failed requests are in ``errors`` and nowhere else.

    Times are in seconds. ``itl_sec`` is the time between two events with text, of which each holds
    ``tokens_per_event`` tokens on average; ``tpot_sec`` counts tokens.
    """

    successful_requests: int
    failed_requests: int
    unfinished_requests: int
    duration_sec: float
    input_tokens: int
    generated_tokens: int
    requests_per_sec: float
    output_tokens_per_sec: float
    total_tokens_per_sec: float
    ttft_sec: Spread | None
    tpot_sec: Spread | None
    itl_sec: Spread | None
    latency_sec: Spread | None
    tokens_per_event: float | None
    input_len: Spread | None
    output_len: Spread | None
    errors: tuple[ErrorRow, ...]
    instances: dict[str, int]
    client: ClientLoad
    is_interrupted: bool

    @property
    def failed_share(self) -> float:
        """Of the requests that ended."""
        ended = self.successful_requests + self.failed_requests
        return self.failed_requests / ended if ended else 0.0

    def document(self) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            shown[name] = value.document() if isinstance(value, Spread) else value
        shown["errors"] = [{name: getattr(row, name) for name in row.__slots__} for row in self.errors]
        shown["client"] = {name: getattr(self.client, name) for name in self.client.__slots__}
        return shown


def summarise(run: Run) -> Summary:
    """The figures of a run."""
    good = [one for one in run.outcomes if one.is_good]
    duration_sec = max(run.duration_sec, 1e-9)
    asked = sum(one.input_tokens or 0 for one in good)
    generated = sum(one.generated_tokens or 0 for one in good)
    ttft = describe(one.ttft_sec for one in good if one.ttft_sec is not None)
    return Summary(
        successful_requests=len(good),
        failed_requests=len(run.outcomes) - len(good),
        unfinished_requests=run.unfinished,
        duration_sec=run.duration_sec,
        input_tokens=asked,
        generated_tokens=generated,
        requests_per_sec=len(good) / duration_sec,
        output_tokens_per_sec=generated / duration_sec,
        total_tokens_per_sec=(asked + generated) / duration_sec,
        ttft_sec=ttft,
        tpot_sec=describe(one.tpot_sec for one in good if one.tpot_sec is not None),
        itl_sec=describe(gap / 1e6 for one in good for gap in one.gaps_us),
        latency_sec=describe(one.latency_sec for one in good),
        tokens_per_event=_tokens_per_event(good),
        input_len=describe(one.input_tokens or 0 for one in good),
        output_len=describe(one.generated_tokens or 0 for one in good),
        errors=list_errors(run.outcomes),
        instances=dict(sorted(Counter(one.instance for one in good if one.instance).items())),
        client=judge_client(run, ttft),
        is_interrupted=run.is_interrupted,
    )


def list_errors(outcomes: Iterable[Outcome]) -> tuple[ErrorRow, ...]:
    """What failed, the most frequent first."""
    rows = []
    for label, several in group_failed(outcomes).items():
        first = min(several, key=lambda one: one.end_sec)
        assert first.failure is not None
        row = ErrorRow(
            label=label,
            kind=first.failure.kind,
            count=len(several),
            first_sec=first.end_sec,
            message=first.failure.message,
            instances=dict(sorted(Counter(one.instance for one in several if one.instance).items())),
        )
        rows.append(row)
    return tuple(sorted(rows, key=lambda row: (-row.count, row.label)))


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


def list_notes(summary: Summary) -> list[str]:
    """What somebody who reads the figures has to know about them."""
    notes = []
    client = summary.client
    if client.limit:
        way_out = f"give more processes (--workers, now {client.workers}), or use another machine (--url)"
        if is_busy(client.own_share):
            way_out = "there is one such process only; use another machine (--url), or several at once"
        notes.append(
            f"THE CLIENT WAS THE LIMIT: {client.limit}. The server may be better than these "
            f"figures: {way_out}."
        )
    if summary.is_interrupted:
        notes.append(
            f"INTERRUPTED: {summary.unfinished_requests} requests are missing, after "
            f"{summary.duration_sec:.1f} s."
        )
    count = summary.successful_requests
    if 0 < count < _ENOUGH_FOR_P99:
        notes.append(
            f"FEW REQUESTS: P99 is hardly more than the slowest of {count}; it takes "
            f"--num-prompts {_ENOUGH_FOR_P99} or more."
        )
    if summary.tokens_per_event is not None and not 0.95 <= summary.tokens_per_event <= 1.05:
        notes.append(
            f"SEVERAL TOKENS IN ONE EVENT: {summary.tokens_per_event:.2f} on average. ITL is the time "
            "between events, TPOT that of a token."
        )
    return notes


def _is_lost(outcome: Outcome) -> bool:
    return outcome.failure is not None and outcome.failure.kind is Kind.client


def _tokens_per_event(good: Sequence[Outcome]) -> float | None:
    spoken = [one for one in good if one.first_sec is not None]
    events = sum(1 + len(one.gaps_us) for one in spoken)
    return sum(one.generated_tokens or 0 for one in spoken) / events if events else None
