# SPDX-License-Identifier: Apache-2.0
"""Which of two configurations is better, by how much, and whether that is more than chance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovms_scaler.bench.scaling import FAILED_APART
from ovms_scaler.bench.statistics import Interval, mean_interval, paired_ratio
from ovms_scaler.bench.summary import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of a comparison: how to get it from a summary, and whether more of it is better.

    Shares are compared by their difference, all others by their ratio: a share may be 0.
    """

    name: str
    title: str
    more_is_better: bool
    read: Callable[[Summary], float | None]
    is_share: bool = False

    @property
    def is_time(self) -> bool:
        return self.name.endswith("_sec") and not self.name.endswith("_per_sec")


FIGURES = (
    Figure(
        name="output_tokens_per_sec",
        title="Output token throughput",
        more_is_better=True,
        read=lambda one: one.output_tokens_per_sec,
    ),
    Figure(
        name="requests_per_sec",
        title="Request throughput",
        more_is_better=True,
        read=lambda one: one.requests_per_sec,
    ),
    Figure(
        name="ttft_median_sec",
        title="Median TTFT",
        more_is_better=False,
        read=lambda one: one.ttft_sec.median if one.ttft_sec else None,
    ),
    Figure(
        name="ttft_p99_sec",
        title="P99 TTFT",
        more_is_better=False,
        read=lambda one: one.ttft_sec.p99 if one.ttft_sec else None,
    ),
    Figure(
        name="tpot_median_sec",
        title="Median TPOT",
        more_is_better=False,
        read=lambda one: one.tpot_sec.median if one.tpot_sec else None,
    ),
    Figure(
        name="latency_p99_sec",
        title="P99 latency",
        more_is_better=False,
        read=lambda one: one.latency_sec.p99 if one.latency_sec else None,
    ),
    Figure(
        name="failed_share",
        title="Failed requests",
        more_is_better=False,
        read=lambda one: one.failed_share,
        is_share=True,
    ),
)
# Of each row, so that all of them together are wrong about equal sides in 5 % of comparisons at most.
CONFIDENCE = 1 - 0.05 / len(FIGURES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One figure of both sides: ``ratio`` is B's in A's, with its interval.

    ``better`` is "A", "B" or "" for neither, and ``why_not`` why nothing can be said, "" if it can.
    """

    figure: Figure
    before: float | None
    after: float | None
    ratio: Interval | None
    better: str
    why_not: str

    def document(self) -> dict[str, Any]:
        return {
            "name": self.figure.name,
            "title": self.figure.title,
            "a": self.before,
            "b": self.after,
            "ratio": self.ratio.document() if self.ratio else None,
            "better": self.better,
            "why_not": self.why_not,
        }

    def describe(self, names: Mapping[str, str]) -> str:
        """The finding in a sentence."""
        title, change = self.figure.title, self.change(names)
        if self.figure.is_share and not self.before and not self.after:
            return f"{title}: none"
        if self.why_not:
            return f"{title}: {change}; {self.why_not}" if change else f"{title}: {self.why_not}"
        ends = ""
        if self.ratio is not None and self.ratio.low is not None and self.ratio.high is not None:
            between = f"{_percent(self.ratio.low)} to {_percent(self.ratio.high)}"
            ends = f"{CONFIDENCE * 100:.1f} % interval {between}"
        if not self.better:
            return f"{title}: no difference beyond the noise ({', '.join(filter(None, (change, ends)))})"
        return f"{title}: {names[self.better]} is better; {change}" + (f" ({ends})" if ends else "")

    def change(self, names: Mapping[str, str]) -> str:
        """How far B is from A, "" where that is not known."""
        if self.figure.is_share:
            before, after = (_figure(self.figure, value) for value in (self.before, self.after))
            return f"{before} with {names['A']}, {after} with {names['B']}"
        return f"{names['B']} has {_percent(self.ratio.mean)}" if self.ratio is not None else ""


def compare(before: Sequence[Summary], after: Sequence[Summary]) -> tuple[Verdict, ...]:
    """Each figure of A and B from rounds that took turns: the first of A belongs to the first of B.

    A side is better where the interval of the ratio does not contain 1. Times are of requests that were
    answered; they are not compared where that was not the same share of them.
    """
    shares = [sum(one.failed_share for one in side) / max(len(side), 1) for side in (before, after)]
    is_apart = abs(shares[0] - shares[1]) > FAILED_APART
    return tuple(_judge(figure, before, after, is_apart=is_apart) for figure in FIGURES)


def note_failures(verdicts: Sequence[Verdict], names: Mapping[str, str]) -> list[str]:
    """What to know of the comparison because of requests that failed."""
    return [
        f"REQUESTS FAILED, and not alike: {one.change(names)}. Times are of those that were answered, so "
        "they are not compared."
        for one in verdicts
        if one.figure.is_share and abs((one.before or 0.0) - (one.after or 0.0)) > FAILED_APART
    ]


def _judge(
    figure: Figure, before: Sequence[Summary], after: Sequence[Summary], *, is_apart: bool
) -> Verdict:
    ones = [figure.read(summary) for summary in before]
    twos = [figure.read(summary) for summary in after]
    first, second = [one for one in ones if one is not None], [two for two in twos if two is not None]
    whole = bool(first) and len(first) == len(ones) and len(second) == len(twos)
    ratio = paired_ratio(first, second, CONFIDENCE) if whole and not figure.is_share else None
    interval, even = ratio, 1.0
    if whole and figure.is_share:
        gaps = [two - one for one, two in zip(first, second, strict=True)]
        interval, even = mean_interval(gaps, CONFIDENCE), 0.0
    better = why_not = ""
    if interval is None:
        why_not = "not measured in every round"
    elif interval.low is None or interval.high is None:
        why_not = "one round cannot tell whether that is chance"
    elif is_apart and figure.is_time:
        why_not = "not compared, as requests failed and not alike"
    elif interval.low > even or interval.high < even:
        better = "B" if (interval.low > even) is figure.more_is_better else "A"
    return Verdict(
        figure=figure,
        before=sum(first) / len(first) if first else None,
        after=sum(second) / len(second) if second else None,
        ratio=ratio,
        better=better,
        why_not=why_not,
    )


def _percent(ratio: float) -> str:
    change = (ratio - 1) * 100
    return f"{abs(change):.1f} % {'more' if change >= 0 else 'less'}"


def verdict_row(verdict: Verdict, names: Mapping[str, str]) -> dict[str, str]:
    """The same as a row of a table."""
    ratio = verdict.ratio
    interval = "-"
    if ratio is not None:
        known = ratio.low is not None and ratio.high is not None
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}" if known else "one round"
    finding = verdict.why_not or "no difference beyond the noise"
    return {
        "title": verdict.figure.title,
        "a_text": _figure(verdict.figure, verdict.before),
        "b_text": _figure(verdict.figure, verdict.after),
        "ratio_text": "-" if ratio is None else f"{ratio.mean:.3f}",
        "interval_text": interval,
        "finding": f"{names[verdict.better]} is better" if verdict.better else finding,
    }


def _figure(figure: Figure, value: float | None) -> str:
    if value is None:
        return "not measured"
    if figure.is_share:
        return f"{value * 100:.1f} %"
    return f"{value * 1000:,.1f} ms" if figure.is_time else f"{value:,.2f} /s"
