# SPDX-License-Identifier: Apache-2.0
"""What instances do and use, for people: as large as it is, or cut to a screen."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.text import Text

from ovms_scaler.core.news import Row, is_good, table
from ovms_scaler.core.quantities import format_duration
from ovms_scaler.ctl.tables import cell, indented, stack
from ovms_scaler.ctl.top_tables import (
    HEADER_LINES,
    Document,
    Line,
    join_documents,
    read_entries,
    read_number,
    render_instances,
    render_machine,
    show_count,
    show_latency,
    show_rate,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is shown, and of how many pages it is one."""

    shown: RenderableType
    pages: int = 1


def render_top(measures: Document, status: Document, console: Console) -> RenderableType:
    """All of it."""
    lines = join_documents(measures, status)
    has_nodes = bool(read_entries(measures, "nodes") or read_entries(measures, "gpus"))
    return stack(
        *_render_front(measures, lines),
        "",
        render_instances(lines, console.width),
        *_render_notes(status, lines, None, at=read_number(measures.get("at"))),
        *(("", render_machine(measures, None)) if has_nodes else ()),
    )


def render_screen(
    measures: Document, status: Document, console: Console, *, page: int, error: str = ""
) -> View:
    """As much of it as there is room for. ``error`` is why it is not newer."""
    lines = join_documents(measures, status)
    front = _render_front(measures, lines)
    machine = max(len(read_entries(measures, "nodes")), len(read_entries(measures, "gpus")))
    # Of what stands below the instances as much as leaves room for some of these.
    height = console.height - len(front) - 1 - HEADER_LINES - 1
    notes = _render_notes(status, lines, max(1, height // 8), at=read_number(measures.get("at")))
    room = height - len(notes)
    beneath = min(machine, max(1, room // 3)) if machine and room > 6 else 0
    rows = max(1, room - (beneath + 2 if beneath else 0))
    pages = max(1, -(-len(lines) // rows))
    first = min(page, pages - 1) * rows
    some = lines[first : first + rows]
    parts: list[RenderableType] = [*front, "", render_instances(lines, console.width, some), *notes]
    if beneath:
        parts += ["", render_machine(measures, beneath)]
    footer = _line(error, "bold red") if error else _render_footer(first, len(some), len(lines))
    return View(shown=stack(*parts, footer), pages=pages)


def _render_footer(first: int, count: int, total: int) -> Text:
    if count == total:
        return cell("q: quit", "dim")
    more = total - count
    return cell(f"{first + 1} to {first + count} of {total}, {more} more: space, b   q: quit", "dim")


def _find_bad(lines: Sequence[Line]) -> list[Row]:
    return [one.row for one in lines if one.row.state != "ready" or not one.row.in_rotation]


def _render_front(measures: Document, lines: Sequence[Line]) -> list[Text]:
    front = table(measures, "front")
    at = read_number(measures.get("at"))
    wanted = [one.row for one in lines if one.row.wanted]
    routed = sum(row.in_rotation for row in wanted)
    rates = ", ".join(
        f"{show_rate(front.get(key))} {words}/s"
        for key, words in (
            ("requests_per_sec", "requests"),
            ("errors_per_sec", "errors"),
            ("rejected_per_sec", "rejected"),
        )
    )
    ttfb = table(front, "ttfb_sec")
    first_byte = f"{show_latency(ttfb.get('median'))}, p99 {show_latency(ttfb.get('p99'))}"
    when = time.strftime("%H:%M:%S  ", time.localtime(at)) if at is not None else ""
    return [
        _line(f"{when}{routed} of {len(wanted)} instances in rotation", "bold"),
        _line(f"{rates}, {show_count(front.get('in_flight'))} in flight"),
        _line(f"time to first byte: median {first_byte}"),
    ]


def _render_notes(
    status: Document, lines: Sequence[Line], limit: int | None, *, at: float | None
) -> list[RenderableType]:
    """Why each that is not ready is not, with the next command; with a ``limit`` one line for each thing."""
    bad = _find_bad(lines)
    parts: list[RenderableType] = []
    for row in bad[:limit]:
        age = f" for {format_duration(at - row.since)}" if at is not None and row.since is not None else ""
        said = f"{row.id} ({row.state}{age}): {row.reason or 'it is about to be put in rotation'}"
        parts.append(cell(said) if limit is None else _line(said))
        if row.hint:
            parts.append(_render_next(row.hint, limit))
    if limit is not None and len(bad) > limit:
        parts.append(_line(f"  and {len(bad) - limit} more: ovms-scalerctl status", "bold"))
    if not bad and not is_good(status):
        said, command = _find_other(status)
        parts += [cell(said, "red"), _render_next(command, limit)]
    return ["", *parts] if parts else []


def _find_other(status: Document) -> tuple[str, str]:
    """What is wrong beside the instances, and the next command."""
    for said, hint in (
        ("The configuration file is not accepted.", table(status, "config").get("hint")),
        ("Something hinders the agent.", status.get("problems_hint")),
        ("The proxy is not as it should be.", table(status, "proxy").get("hint")),
    ):
        if hint:
            return said, str(hint)
    return "Something else is wrong.", "ovms-scalerctl status"


def _render_next(command: str, limit: int | None) -> RenderableType:
    text = f"next: {command}"
    return indented(text, "bold") if limit is None else _line(f"  {text}", "bold")


def _line(text: str, style: str = "") -> Text:
    """One line, however narrow the screen is."""
    line = cell(" ".join(text.split("\n")), style)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
