# SPDX-License-Identifier: Apache-2.0
"""The tables of ``top``: instances, and beneath them nodes and cards."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ovms_scaler.core.news import Row, parse_rows, table
from ovms_scaler.core.quantities import (
    GIB,
    format_bytes,
    format_latency,
    format_number,
    format_share,
    format_used,
)
from ovms_scaler.ctl.status_view import STYLES
from ovms_scaler.ctl.tables import cell, indented, make_table, stack

Document = Mapping[str, Any]

# Each column with the width that its numbers seldom exceed, so that columns stay where they are.
_COLUMNS = {
    "Instance": 16, "State": 5, "Req\n/s": 5, "In\nflight": 6, "First\nbyte": 6, "p99": 6, "Errors\n/s": 6,
    "CPU\ncores": 5, "Memory\nGiB": 6, "GPU": 5,
}  # fmt: skip
HEADER_LINES = 2
# What is left out first where a screen is narrow.
_LESS = ("p99", "Memory\nGiB", "CPU\ncores", "Errors\n/s")
# The name of an instance on a GPU, of a pool with four letters; less than the other tells nothing.
_ENOUGH = 21
_MIN_NAME = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One instance; ``measured`` is empty where nothing is measured, as of one that is to go."""

    row: Row
    measured: Document


def join_documents(measures: Document, status: Document) -> list[Line]:
    """Each instance of both documents, by name, numbers in names as numbers."""
    measured = {str(one.get("id")): one for one in read_entries(measures, "instances")}
    rows = sorted(parse_rows(status), key=lambda row: _natural(row.id))
    return [Line(row=row, measured=measured.get(row.id, {})) for row in rows]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def render_instances(
    lines: Sequence[Line], width: int, some: Sequence[Line] | None = None
) -> RenderableType:
    """``some`` of the lines, in columns that do not move when others are shown."""
    if not lines:
        return stack(cell("There is no instance."), indented("next: ovms-scalerctl status", "bold"))
    cells = [_cells(one) for one in lines]
    widths = {
        name: max(least, *(len(row[name]) for row in cells))
        for name, least in _COLUMNS.items()
        if name != "GPU" or any(_gpus(one) for one in lines)
    }
    gap, name = 2, widths["Instance"]
    if _add_up(widths, gap) > width:
        gap = 1
    for less in _LESS:
        # A number that is cut would be another; a name may be.
        if _add_up(widths | {"Instance": min(name, _ENOUGH)}, gap) > width:
            del widths[less]
    widths["Instance"] = max(_MIN_NAME, name - max(0, _add_up(widths, gap) - width))
    shown = make_table(*widths, right=tuple(name for name in widths if name not in ("Instance", "State")))
    shown.padding = (0, gap, 0, 0)
    for column, column_width in zip(shown.columns, widths.values(), strict=True):
        column.width, column.vertical, column.no_wrap = column_width, "bottom", True
    for one in lines if some is None else some:
        row = _cells(one) | {"Instance": cell(_shorten(one.row.id, widths["Instance"]))}
        shown.add_row(*(row[name] for name in widths))
    return shown


def _add_up(widths: Mapping[str, int], gap: int) -> int:
    return sum(widths.values()) + gap * (len(widths) - 1)


def _gpus(line: Line) -> list[Document]:
    return read_entries(line.measured, "gpus")


def _cells(line: Line) -> dict[str, Text]:
    one, ttfb = line.measured, table(line.measured, "ttfb_sec")
    errors, memory = read_number(one.get("errors_per_sec")), read_number(one.get("memory_bytes"))
    values = (
        cell(line.row.id),
        cell(line.row.state, STYLES.get(line.row.state, "")),
        cell(show_rate(one.get("requests_per_sec"))),
        cell(show_count(one.get("in_flight"))),
        cell(show_latency(ttfb.get("median"))),
        cell(show_latency(ttfb.get("p99"))),
        cell(show_rate(errors), "red" if errors else ""),
        cell(show_rate(one.get("cpu_cores"))),
        cell(show_rate(memory / GIB) if memory is not None else None),
        cell(_share(_busiest(_gpus(line)))),
    )
    return dict(zip(_COLUMNS, values, strict=True))


def _busiest(gpus: Sequence[Document]) -> float | None:
    """None when one of them is unknown."""
    shares = [read_number(gpu.get("busy_share")) for gpu in gpus]
    known = [share for share in shares if share is not None]
    return max(known) if known and len(known) == len(shares) else None


def _shorten(name: str, room: int) -> str:
    """Cut in the middle: names differ at their ends."""
    if len(name) <= room:
        return name
    tail = (room - 1) * 2 // 3
    return f"{name[: room - 1 - tail]}~{name[-tail:]}"


def render_machine(measures: Document, limit: int | None) -> Table:
    """Nodes and cards beside each other."""
    grid = Table.grid(padding=(0, 4))
    nodes, gpus = read_entries(measures, "nodes"), read_entries(measures, "gpus")
    parts: list[RenderableType] = []
    if nodes:
        shown = make_table("Node", "CPU", "Memory", right=("Node", "CPU", "Memory"))
        for node in _limit(nodes, limit):
            shown.add_row(
                cell(node.get("id")), cell(_share(read_number(node.get("cpu_share")))), cell(_memory(node))
            )
        if limit is not None and len(nodes) > limit:
            shown.add_row(cell("..."), cell(f"{len(nodes) - limit + 1} more"))
        parts.append(shown)
    if gpus:
        parts.append(_render_gpus(gpus, limit))
    grid.add_row(*parts)
    return grid


def _render_gpus(gpus: list[Document], limit: int | None) -> Table:
    """Their memory where it is known of any."""
    used = {str(gpu.get("address")): read_number(gpu.get("memory_used_bytes")) for gpu in gpus}
    columns = ("GPU", "Busy", *(["Memory"] if any(size is not None for size in used.values()) else []))
    shown = make_table(*columns, right=columns[1:])
    for gpu in _limit(gpus, limit):
        size = used[str(gpu.get("address"))]
        row = (
            cell(gpu.get("address")),
            cell(_share(read_number(gpu.get("busy_share")))),
            cell(format_bytes(size) if size is not None else None),
        )
        shown.add_row(*row[: len(columns)])
    if limit is not None and len(gpus) > limit:
        shown.add_row(cell(f"... {len(gpus) - limit + 1} more"))
    return shown


def _limit(entries: list[Document], limit: int | None) -> list[Document]:
    """The last line is for how many more there are."""
    return entries if limit is None or len(entries) <= limit else entries[: limit - 1]


def _memory(node: Document) -> str | None:
    used, size = read_number(node.get("memory_used_bytes")), read_number(node.get("memory_bytes"))
    return format_used(used, size) if used is not None and size is not None else None


def show_rate(value: object) -> str:
    number = read_number(value)
    return "-" if number is None else format_number(number)


def show_count(value: object) -> str:
    number = read_number(value)
    return "-" if number is None else f"{number:,.0f}"


def show_latency(value: object) -> str:
    number = read_number(value)
    return "-" if number is None else format_latency(number)


def _share(value: float | None) -> str | None:
    return None if value is None else format_share(value)


def read_number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_entries(document: Document, name: str) -> list[Document]:
    listed = document.get(name)
    return [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
