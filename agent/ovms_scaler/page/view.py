# SPDX-License-Identifier: Apache-2.0
"""Everything that the page shows, taken from an overview and put in words."""

import time
from dataclasses import dataclass

from ovms_scaler.core.event_text import render_event, render_hint
from ovms_scaler.core.next_steps import Piece, split_hint
from ovms_scaler.core.quantities import format_latency
from ovms_scaler.page.machine import Machine, read_machine
from ovms_scaler.page.marks import assign_marks
from ovms_scaler.page.outlook import Outlook, read_outlook
from ovms_scaler.page.reading import Document, read_list, read_number, read_table, read_text, read_texts
from ovms_scaler.page.rows import InstanceRow, format_count, format_known, read_rows

# More events than these are folded away.
EVENTS = 8
_BAD_LEVELS = ("error", "critical")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of the front; ``value`` None is unknown."""

    name: str
    value: str | None
    more: str = ""
    is_bad: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a client on this host gets what."""

    url: str
    serves: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One event."""

    key: str
    at: str
    iso: str
    level: str
    text: str
    steps: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The page, section by section."""

    title: str
    host: str
    version: str
    at: str
    iso: str
    outlook: Outlook
    machine: Machine
    rows: tuple[InstanceRow, ...]
    listen: str
    endpoints: tuple[Endpoint, ...]
    figures: tuple[Figure, ...]
    proxy: str
    window: str
    events: tuple[Happening, ...]
    older_events: tuple[Happening, ...]
    warnings: tuple[str, ...]
    warnings_steps: tuple[Piece, ...]
    config_file: str


def read_view(overview: Document) -> View:
    """The view of an overview, of which any part may be missing."""
    status, measures = read_table(overview, "status"), read_table(overview, "measures")
    topology, now = read_table(overview, "topology"), read_number(overview, "at")
    instances = read_list(status, "instances")
    marks = assign_marks(instances)
    rows = read_rows(instances, measures, marks, now=now)
    outlook = read_outlook(status, rows, now=now)
    host = read_text(overview, "host") or "this host"
    at, iso = format_time(now, zone=True)
    events = _read_events(read_list(read_table(overview, "events"), "events"), now)
    proxy = read_table(status, "proxy")
    window = read_number(measures, "window_sec")
    return View(
        title=f"{outlook.headline} \N{EN DASH} {host}",
        host=host,
        version=read_text(overview, "version"),
        at=at,
        iso=iso,
        outlook=outlook,
        machine=read_machine(topology, measures, marks),
        rows=rows,
        listen=", ".join(read_texts(proxy, "listen")),
        endpoints=tuple(
            Endpoint(url=read_text(one, "url"), serves=read_text(one, "serves"))
            for one in read_list(proxy, "endpoints")
        ),
        figures=_read_figures(read_table(measures, "front"), proxy),
        proxy=_describe_proxy(proxy),
        window="" if window is None else f"{window:.0f} s",
        events=events[:EVENTS],
        older_events=events[EVENTS:],
        warnings_steps=split_hint(read_text(status, "warnings_hint")),
        warnings=tuple(dict.fromkeys((*read_texts(status, "warnings"), *read_texts(topology, "warnings")))),
        config_file=read_text(read_table(status, "config"), "file"),
    )


def format_time(at: float | None, *, now: float | None = None, zone: bool = False) -> tuple[str, str]:
    """A time in the server's zone, as its journal shows it, and one for programs; "" of an unknown one.

    The day is told of times that are not of the day of ``now``.
    """
    if at is None:
        return "", ""
    try:
        local, today = time.localtime(at), time.localtime(at if now is None else now)
        form = "%H:%M:%S" if local[:3] == today[:3] else "%d %b %H:%M:%S"
        text = time.strftime(f"{form} %Z" if zone else form, local)
        return text, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    except (OverflowError, OSError, ValueError):
        return "", ""


def _read_figures(front: Document, proxy: Document) -> tuple[Figure, ...]:
    """What clients see of it."""
    latencies = read_table(front, "ttfb_sec")
    median, p99 = (read_number(latencies, name) for name in ("median", "p99"))
    return (
        _rate(front, "Requests/s", "requests"),
        Figure(name="In flight", value=format_count(read_number(front, "in_flight"))),
        Figure(
            name="Time to first byte",
            value=None if median is None else format_latency(median),
            more="median" if p99 is None else f"median; p99 {format_latency(p99)}",
        ),
        _rate(front, "Errors/s", "errors", is_bad=True),
        _rate(front, "Rejected/s", "rejected", is_bad=True),
        Figure(name="Retried", value=format_count(read_number(front, "retried_total")), more="in all"),
        Figure(
            name="Cut", value=format_count(read_number(proxy, "cut_requests")), more="by reloads, in all"
        ),
    )


def _rate(front: Document, name: str, key: str, *, is_bad: bool = False) -> Figure:
    rate = read_number(front, f"{key}_per_sec")
    return Figure(
        name=name, value=format_known(rate), more=_total(front, f"{key}_total"), is_bad=is_bad and bool(rate)
    )


def _total(front: Document, name: str) -> str:
    total = read_number(front, name)
    return "" if total is None else f"{total:,.0f} in all"


def _describe_proxy(proxy: Document) -> str:
    """As ``ovms-scalerctl status`` says it."""
    if not proxy:
        return ""
    generation = read_text(proxy, "generation")
    answers = f"generation {generation}" if generation else "does not answer"
    return f"{read_text(proxy, 'state') or 'unknown to systemd'}, {answers}"


def _read_events(events: list[Document], now: float | None) -> tuple[Happening, ...]:
    """The newest first."""
    found = []
    for event in reversed(events):
        at, iso = format_time(read_number(event, "at"), now=now)
        level = read_text(event, "level")
        found.append(
            Happening(
                key=f"{event.get('at')} {event.get('event')} {event.get('instance', '')}",
                at=at,
                iso=iso,
                level="error" if level in _BAD_LEVELS else level if level == "warning" else "",
                text=render_event(event),
                steps=split_hint(render_hint(event)),
            )
        )
    return tuple(found)
