# SPDX-License-Identifier: Apache-2.0
"""What a run says: the figures of the report, what failed and how, and what to know of both."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ovms_scaler.bench.outcome import Kind, Outcome, group_failed
from ovms_scaler.bench.own_load import ClientLoad, Measured, judge_client
from ovms_scaler.bench.run import Run
from ovms_scaler.bench.statistics import Spread, describe

_ENOUGH_FOR_P99 = 100
# So many answers in one piece may be chance, with short ones.
_AT_ONCE_SHARE = 0.05
# So much of an answer's time, and so much in any case, until its connection ends is nothing to speak of.
_TAIL_SHARE, _TAIL_SEC = 0.05, 0.01


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
class Summary:
    """The figures of one run. Failed requests are in ``errors`` and nowhere else.

    Times are in seconds. ``itl_sec`` is the time between two events with text, of which each holds
    ``tokens_per_event`` tokens on average; ``tpot_sec`` counts tokens. ``tail_sec`` is the time from the end
    of an answer to that of its connection. Of the successful requests ``mute_answers`` had no text,
    ``at_once_answers`` had several tokens in one moment, and ``short_answers`` fewer tokens than asked for
    where their length was fixed.
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
    tail_sec: Spread | None
    mute_answers: int
    at_once_answers: int
    short_answers: int
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
    measured = Measured(
        ttft_sec=describe(one.ttft_sec for one in good if one.ttft_sec is not None),
        itl_sec=describe(gap / 1e6 for one in good for gap in one.gaps_us),
        tpot_sec=describe(one.tpot_sec for one in good if one.tpot_sec is not None),
    )
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
        ttft_sec=measured.ttft_sec,
        tpot_sec=measured.tpot_sec,
        itl_sec=measured.itl_sec,
        latency_sec=describe(one.latency_sec for one in good),
        tokens_per_event=_tokens_per_event(good),
        tail_sec=describe(one.tail_sec for one in good),
        mute_answers=sum(one.first_sec is None for one in good),
        at_once_answers=sum(one.is_at_once for one in good),
        short_answers=sum(one.is_short for one in good),
        input_len=describe(one.input_tokens or 0 for one in good),
        output_len=describe(one.generated_tokens or 0 for one in good),
        errors=list_errors(run.outcomes),
        instances=dict(sorted(Counter(one.instance for one in good if one.instance).items())),
        client=judge_client(run, measured),
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


def list_notes(summary: Summary) -> list[str]:
    """What somebody who reads the figures has to know about them, with what weighs most first.

    Each begins with what it is of, in capitals, and a colon: by that notes of several runs are put together.
    """
    return [*_note_client(summary), *_note_count(summary), *_note_answers(summary)]


def _note_client(summary: Summary) -> Iterator[str]:
    client = summary.client
    if client.limit:
        yield (
            f"THE CLIENT WAS THE LIMIT: {client.limit}. The server may be better than these "
            f"figures: {client.way_out}."
        )


def _note_count(summary: Summary) -> Iterator[str]:
    if summary.is_interrupted:
        yield (
            f"INTERRUPTED: {summary.unfinished_requests} requests are missing, after "
            f"{summary.duration_sec:.1f} s."
        )
    count = summary.successful_requests
    if 0 < count < _ENOUGH_FOR_P99:
        yield (
            f"FEW REQUESTS: P99 is hardly more than the slowest of {count}; it takes "
            f"--num-prompts {_ENOUGH_FOR_P99} or more."
        )


def _note_answers(summary: Summary) -> Iterator[str]:
    count = summary.successful_requests
    if summary.short_answers:
        yield (
            f"SHORT ANSWERS: {summary.short_answers} of {count} answers were shorter than asked. Does the "
            "server know ignore_eos, and has the model room for so many tokens?"
        )
    tail, latency = summary.tail_sec, summary.latency_sec
    if tail is not None and latency is not None and tail.mean > max(_TAIL_SEC, _TAIL_SHARE * latency.mean):
        yield (
            f"CONNECTIONS STAY OPEN: for {tail.mean * 1000:.0f} ms on average after the end of an answer. "
            "It is in no latency, but clients that wait for answers ask again so much later."
        )
    if summary.mute_answers:
        yield (
            f"NO TEXT: {summary.mute_answers} of {count} answers had tokens, but no text. They are in no "
            "TTFT, TPOT and ITL."
        )
    if summary.at_once_answers > _AT_ONCE_SHARE * count:
        yield (
            f"ALL AT ONCE: {summary.at_once_answers} of {count} answers came in one piece, so TPOT and ITL "
            "say nothing of them. Does something on the way collect the stream?"
        )
    if summary.tokens_per_event is not None and not 0.95 <= summary.tokens_per_event <= 1.05:
        yield (
            f"SEVERAL TOKENS IN ONE EVENT: {summary.tokens_per_event:.2f} on average. ITL is the time "
            "between events, TPOT that of a token."
        )


def _tokens_per_event(good: Sequence[Outcome]) -> float | None:
    spoken = [one for one in good if one.first_sec is not None]
    events = sum(1 + len(one.gaps_us) for one in spoken)
    return sum(one.generated_tokens or 0 for one in spoken) / events if events else None
