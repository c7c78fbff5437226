# SPDX-License-Identifier: Apache-2.0
"""Which of two configurations is better, by how much, and whether that is more than chance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovms_scaler.bench.statistics import Interval, paired_ratio
from ovms_scaler.bench.summary import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of a comparison: how to get it from a summary, and whether more of it is better."""

    name: str
    title: str
    more_is_better: bool
    read: Callable[[Summary], float | None]


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
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One figure of both sides: ``ratio`` is B's in A's, with its interval.

    ``better`` is "A", "B" or "" for neither.
    """

    figure: Figure
    before: float | None
    after: float | None
    ratio: Interval | None
    better: str

    def document(self) -> dict[str, Any]:
        return {
            "name": self.figure.name,
            "title": self.figure.title,
            "a": self.before,
            "b": self.after,
            "ratio": self.ratio.document() if self.ratio else None,
            "better": self.better,
        }

    def describe(self, names: Mapping[str, str]) -> str:
        """The finding in a sentence."""
        if self.ratio is None:
            return f"{self.figure.title}: not measured in every round"
        change = f"{names['B']} has {_percent(self.ratio.mean)}"
        if self.ratio.low is None or self.ratio.high is None:
            return f"{self.figure.title}: {change}; one round cannot tell whether that is chance"
        ends = f"95 % interval {_percent(self.ratio.low)} to {_percent(self.ratio.high)}"
        if not self.better:
            return f"{self.figure.title}: no difference beyond the noise ({change}, {ends})"
        return f"{self.figure.title}: {names[self.better]} is better; {change} ({ends})"


def compare(before: Sequence[Summary], after: Sequence[Summary]) -> tuple[Verdict, ...]:
    """Each figure of A and B from rounds that took turns: the first of A belongs to the first of B.

    A side is better where the interval of the ratio does not contain 1.
    """
    return tuple(_judge(figure, before, after) for figure in FIGURES)


def _judge(figure: Figure, before: Sequence[Summary], after: Sequence[Summary]) -> Verdict:
    ones = [figure.read(summary) for summary in before]
    twos = [figure.read(summary) for summary in after]
    first, second = [one for one in ones if one is not None], [two for two in twos if two is not None]
    whole = len(first) == len(ones) and len(second) == len(twos)
    ratio = paired_ratio(first, second) if whole else None
    better = ""
    if ratio is not None and ratio.low is not None and ratio.high is not None:
        is_more, is_less = ratio.low > 1, ratio.high < 1
        if is_more or is_less:
            better = "B" if is_more is figure.more_is_better else "A"
    return Verdict(
        figure=figure,
        before=sum(first) / len(first) if first else None,
        after=sum(second) / len(second) if second else None,
        ratio=ratio,
        better=better,
    )


def _percent(ratio: float) -> str:
    change = (ratio - 1) * 100
    return f"{abs(change):.1f} % {'more' if change >= 0 else 'less'}"


def verdict_row(verdict: Verdict, names: Mapping[str, str]) -> dict[str, str]:
    """The same as a row of a table."""
    ratio = verdict.ratio
    interval = "one round"
    if ratio is not None and ratio.low is not None and ratio.high is not None:
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
    return {
        "title": verdict.figure.title,
        "a_text": _figure(verdict.figure, verdict.before),
        "b_text": _figure(verdict.figure, verdict.after),
        "ratio_text": "-" if ratio is None else f"{ratio.mean:.3f}",
        "interval_text": interval,
        "finding": f"{names[verdict.better]} is better"
        if verdict.better
        else "no difference beyond the noise",
    }


def _figure(figure: Figure, value: float | None) -> str:
    if value is None:
        return "not measured"
    return (
        f"{value * 1000:,.1f} ms"
        if figure.name.endswith("_sec") and "per" not in figure.name
        else f"{value:,.2f} /s"
    )
