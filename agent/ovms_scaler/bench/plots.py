# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG within a page: lines over axes whose numbers are round. Colours are the page's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 46
# From which ratio of the largest to the middle of all values on most of a plot would be empty.
_LONG_TAIL = 12.0
_NARROW = 0.6
_TICKS = 5

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a plot; ``kind`` is "line", "steps", "dashed" or "dots"."""

    title: str
    points: Points
    kind: str = "line"
    colour: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A vertical line with a word at a value of the axis below."""

    at: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What is drawn. ``spans`` are (x, low, high), where each value lies with some confidence."""

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...] = ()
    spans: tuple[tuple[float, float, float], ...] = ()
    x_is_log: bool = False
    y_max: float | None = None
    x_ticks: tuple[float, ...] = ()
    y_is_share: bool = False


def is_long_tailed(values: Sequence[float]) -> bool:
    """Whether values in ascending order are better seen on a logarithmic axis."""
    middle = values[len(values) // 2] if values else 0.0
    return middle > 0 and values[0] > 0 and values[-1] / middle > _LONG_TAIL


def round_ticks(low: float, high: float, about: int = _TICKS) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, in equal steps."""
    span = max(high - low, 1e-12)
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= span / about * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten around both."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = [size * 10.0**power for power in range(first, last + 1) for size in (1, 2, 5)]
    inside = [tick for tick in every if low <= tick <= high]
    below = max((tick for tick in every if tick <= low), default=every[0])
    above = min((tick for tick in every if tick >= high), default=every[-1])
    return sorted({below, *inside, above})


def format_tick(value: float) -> str:
    """Short, and without a needless point."""
    if value and abs(value) < 0.001:
        return f"{value:.0e}"
    return f"{value:,.4f}".rstrip("0").rstrip(".")


class _Axis:
    """From values to places on the page; ticks beyond its ends are left out."""

    def __init__(
        self, ticks: Sequence[float], ends: tuple[float, float], place: tuple[float, float], *, is_log: bool
    ) -> None:
        low, high = ends
        self._is_log = is_log
        self._low, self._high = self._scale(low), self._scale(high)
        self._begin, self._end = place
        self.ticks = [tick for tick in ticks if low * 0.999999 <= tick <= high * 1.000001]

    def place(self, value: float) -> float:
        share = (self._scale(value) - self._low) / (self._high - self._low)
        return round(self._begin + (self._end - self._begin) * min(1.0, max(0.0, share)), 1)

    def _scale(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self._is_log else value


def draw(plot: Plot) -> str:
    """The plot as SVG, "" when there is nothing to draw."""
    points = [point for line in plot.lines for point in line.points]
    if not points:
        return ""
    across, up = _axes(plot, points)
    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(plot.title)}">',
        *_grid(plot, across, up),
        *_marks(plot, across),
        *(_span(across, up, span) for span in plot.spans),
        *(_line(line, across, up) for line in plot.lines),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


def _axes(plot: Plot, points: Sequence[tuple[float, float]]) -> tuple[_Axis, _Axis]:
    xs = [x for x, _ in points]
    tops = [y for _, y in points] + [high for _, _, high in plot.spans]
    highest = max(*xs, 1e-9)
    is_log = plot.x_is_log and 0 < min(xs) < highest
    # An axis need not begin at 0 where nothing would be but empty space.
    lowest = min(xs) if is_log or highest > min(xs) > highest * _NARROW else 0.0
    ticks: Sequence[float] = plot.x_ticks
    if not ticks:
        ticks = log_ticks(lowest, highest) if is_log else round_ticks(lowest, highest)
    if not is_log and lowest:
        lowest = ticks[0]
    top = plot.y_max if plot.y_max is not None else max(*tops, 1e-9)
    up = round_ticks(0.0, top)
    return (
        _Axis(ticks, (lowest, highest), (_LEFT, WIDTH - _RIGHT), is_log=is_log),
        _Axis(up, (0.0, up[-1]), (HEIGHT - _BOTTOM, _TOP), is_log=False),
    )


def _grid(plot: Plot, across: _Axis, up: _Axis) -> list[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for tick in up.ticks:
        y = up.place(tick)
        text = f"{tick:.0%}".replace("%", " %") if plot.y_is_share else format_tick(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{right}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{text}</text>')
    for tick in across.ticks:
        x = across.place(tick)
        parts.append(f'<line class="grid" x1="{x}" y1="{_TOP}" x2="{x}" y2="{bottom}"/>')
        text = format_tick(tick)
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 18}" text-anchor="middle">{text}</text>')
    middle = (_TOP + bottom) / 2
    parts += [
        f'<line class="axis" x1="{_LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>',
        f'<text class="title" x="{(_LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(plot.x_title)}</text>",
        f'<text class="title" x="14" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 14 {middle})">{escape(plot.y_title)}</text>',
    ]
    return parts


def _marks(plot: Plot, across: _Axis) -> list[str]:
    parts = []
    for index, mark in enumerate(plot.marks):
        x = across.place(mark.at)
        near_end = x > WIDTH - 90
        side, anchor = (-5, "end") if near_end else (5, "start")
        parts += [
            f'<line class="mark" x1="{x}" y1="{_TOP}" x2="{x}" y2="{HEIGHT - _BOTTOM}"/>',
            f'<text class="mark" x="{x + side}" y="{HEIGHT - _BOTTOM - 12 - 18 * index}" '
            f'text-anchor="{anchor}">{escape(mark.title)}</text>',
        ]
    return parts


def _span(across: _Axis, up: _Axis, span: tuple[float, float, float]) -> str:
    x, low, high = across.place(span[0]), up.place(span[1]), up.place(span[2])
    ends = "".join(f"M{x - 5} {y}H{x + 5}" for y in (low, high))
    return f'<path class="span" d="M{x} {low}V{high}{ends}"/>'


def _line(line: Line, across: _Axis, up: _Axis) -> str:
    placed = [(across.place(x), up.place(y)) for x, y in line.points]
    if not placed:
        return ""
    if line.kind == "dots" or len(placed) == 1:
        return "".join(f'<circle class="c{line.colour}" cx="{x}" cy="{y}" r="4.5"/>' for x, y in placed)
    path = [f"M{placed[0][0]} {placed[0][1]}"]
    for x, y in placed[1:]:
        path.append(f"H{x}V{y}" if line.kind == "steps" else f"L{x} {y}")
    dashed = " dashed" if line.kind == "dashed" else ""
    return f'<path class="c{line.colour}{dashed}" d="{"".join(path)}"/>'
