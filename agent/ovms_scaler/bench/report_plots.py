# SPDX-License-Identifier: Apache-2.0
"""Which plots a report has."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ovms_scaler.bench.plots import Line, Mark, Plot, is_long_tailed

Document = Mapping[str, Any]
# As many lines as can be told apart.
COLOURS = 8
_DISTRIBUTIONS = (
    ("ttft_sec", "Time to first token", "time to first token (ms)"),
    ("tpot_sec", "Time per output token", "time per output token, without the first (ms)"),
    ("itl_sec", "Inter-token latency", "time between events with text (ms)"),
    ("latency_sec", "End-to-end latency", "latency (ms)"),
)


def list_plots(document: Document) -> list[Plot]:
    """Distributions, then what happened when; without those that have nothing to show."""
    measurements = document["measurements"]
    plots = [_distribution(measurements, *one) for one in _DISTRIBUTIONS]
    plots += [
        _over_time(
            measurements, "output_tokens_per_sec", "Output throughput over time", "tokens per second"
        ),
        _over_time(measurements, "in_flight", "Requests in flight over time", "requests in flight"),
    ]
    if len(measurements) == 1:
        plots.append(_errors(measurements[0]))
    return [plot for plot in plots if any(line.points for line in plot.lines)]


def curve_plot(document: Document) -> Plot | None:
    """Throughput by number of instances, beside what it would be if each did as much as one alone."""
    curve = document["curve"]
    if curve is None or not curve["points"]:
        return None
    points = [(float(one["instances"]), one["output_tokens_per_sec"]) for one in curve["points"]]
    seen = [(count, figure["mean"]) for count, figure in points]
    single = seen[0][1] / seen[0][0]
    most = seen[-1][0]
    spans = [(count, one["low"], one["high"]) for count, one in points if one["low"] is not None]
    lines = [
        Line(title="ideal", points=[(0.0, 0.0), (most, single * most)], kind="dashed", colour=7),
        Line(title="measured", points=seen, colour=0),
        Line(title="", points=seen, kind="dots", colour=0),
    ]
    if (ratio := document["whole_ratio"]) is not None:
        whole = seen[-1][1] / ratio["mean"]
        line = Line(
            title='placement = "whole"', points=[(0.0, whole), (most, whole)], kind="dashed", colour=1
        )
        lines.append(line)
    knee = curve["knee"]
    return Plot(
        title="Output throughput by number of instances",
        x_title="instances in rotation",
        y_title="output tokens per second",
        lines=tuple(lines),
        marks=(Mark(at=float(knee), title=f"knee at {knee}"),) if knee is not None else (),
        spans=tuple(spans),
        x_ticks=tuple(float(one) for one in sorted({0, *(int(count) for count, _ in seen)})),
    )


def _coloured(measurements: Sequence[Document]) -> Iterator[tuple[str, int, Document]]:
    """Each with its colour, which all rounds of the same share, and a title for the first of these."""
    colours: dict[str, int] = {}
    for one in measurements:
        title = "" if one["group"] in colours else one["group"]
        colour = colours.setdefault(one["group"], len(colours))
        if colour < COLOURS:
            yield title, colour, one


def _distribution(measurements: Sequence[Document], key: str, title: str, x_title: str) -> Plot:
    lines = []
    for title_of_line, colour, one in _coloured(measurements):
        points = [(seconds * 1000, share) for seconds, share in one["series"][key]]
        lines.append(Line(title=title_of_line, points=points, colour=colour))
    marks: list[Mark] = []
    if len(measurements) == 1 and (spread := measurements[0]["summary"][key]) is not None:
        marks = [
            Mark(at=spread[name] * 1000, title=f"{word} {_short(spread[name] * 1000)}")
            for name, word in (("median", "P50"), ("p99", "P99"))
        ]
    values = sorted(value for line in lines for value, _ in line.points)
    return Plot(
        title=title,
        x_title=x_title,
        y_title="share of all up to it",
        lines=tuple(lines),
        marks=tuple(marks),
        x_is_log=is_long_tailed(values),
        y_max=1.0,
        y_is_share=True,
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _over_time(measurements: Sequence[Document], key: str, title: str, y_title: str) -> Plot:
    lines = []
    for title_of_line, colour, one in _coloured(measurements):
        over_time = one["series"]["over_time"]
        points = _steps(over_time[key], over_time["bucket_sec"], one["summary"]["duration_sec"])
        lines.append(Line(title=title_of_line, points=points, kind="steps", colour=colour))
    return Plot(
        title=title, x_title="seconds since the first request was due", y_title=y_title, lines=tuple(lines)
    )


def _errors(measurement: Document) -> Plot:
    over_time = measurement["series"]["over_time"]
    lines = []
    for index, (label, counts) in enumerate(sorted(over_time["errors"].items())):
        points = _steps(counts, over_time["bucket_sec"], measurement["summary"]["duration_sec"])
        lines.append(Line(title=label, points=points, kind="steps", colour=(index + 5) % COLOURS))
    return Plot(
        title="Failed requests over time",
        x_title="seconds since the first request was due",
        y_title=f"failed in {over_time['bucket_sec']:g} s",
        lines=tuple(lines[:COLOURS]),
    )


def _steps(figures: Sequence[float], width_sec: float, duration_sec: float) -> list[tuple[float, float]]:
    """Corners of steps: each figure from the beginning of its bucket on, and the last one to the end."""
    points = [(index * width_sec, float(figure)) for index, figure in enumerate(figures)]
    return [*points, (duration_sec, points[-1][1])] if points else []
