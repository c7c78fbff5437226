# SPDX-License-Identifier: Apache-2.0
"""The agent's status, for people: who serves, and why the others do not."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from ovms_scaler.core.news import Row, parse_empty_pools, parse_rows, table
from ovms_scaler.core.next_steps import EMPTY_POOL, PAUSED
from ovms_scaler.core.quantities import format_duration
from ovms_scaler.ctl import tables
from ovms_scaler.ctl.tables import cell, indented, make_table, stack

# By name, as ovms_scaler.core.lifecycle would bring half the package along, at a cost that people notice.
STYLES = {
    "ready": "green",
    "failed": "red",
    "quarantined": "red",
    "ejected": "red",
    "suspect": "yellow",
    "waiting": "yellow",
    "drained": "cyan",
}


def show_status(document: Mapping[str, Any]) -> None:
    """Print it to standard output."""
    tables.show(render_status(document, now=time.time()))


def render_status(document: Mapping[str, Any], *, now: float) -> RenderableType:
    """Everything in the document that people ask for; ``now`` in seconds since the epoch."""
    rows = parse_rows(document)
    parts: list[RenderableType] = []
    if rows:
        parts += [_render_table(rows, now), ""]
    elif not table(document, "proxy").get("listen"):
        parts += [cell(f"No instance is wanted: {_config_file(document)} has no pool.")]
        parts += [indented("next: ovms-scalerctl init"), ""]
    elif not parse_empty_pools(document):
        parts += [cell("The agent has not looked at the instances yet."), ""]
    parts += _render_explanations(rows, now)
    parts += _render_empty_pools(parse_empty_pools(document))
    parts += _render_proxy(table(document, "proxy"))
    parts += _render_config(document)
    parts += _render_pause(document, now)
    parts += _render_sentences("Problems", "bold red", document.get("problems"))
    parts += _render_next(document.get("problems_hint"))
    parts += _render_sentences("Warnings", "bold yellow", document.get("warnings"))
    parts += _render_next(document.get("warnings_hint"))
    return stack(*parts)


def _render_table(rows: Sequence[Row], now: float) -> Table:
    shown = make_table("Instance", "State", "Rotation", "Port", "Where", "For", right=("Port", "For"))
    for row in rows:
        shown.add_row(
            cell(row.id),
            cell(row.state, STYLES.get(row.state, "")),
            cell("in" if row.in_rotation else "out", "" if row.in_rotation or not row.wanted else "yellow"),
            cell(row.port),
            cell(_place(row)),
            cell(_age(row, now)),
        )
    return shown


def _place(row: Row) -> str | None:
    """What of the machine is its own; its CPUs are in the plan."""
    if row.gpus:
        return ", ".join(row.gpus)
    return f"node {row.node}" if row.node is not None else "unbound" if row.wanted else None


def _age(row: Row, now: float) -> str | None:
    return None if row.since is None else format_duration(now - row.since)


def _render_explanations(rows: Sequence[Row], now: float) -> list[RenderableType]:
    """Each instance that does not serve, or of which there is something to say, with the next command."""
    parts: list[RenderableType] = []
    for row in rows:
        if row.in_rotation and not row.reason:
            continue
        age = _age(row, now)
        state = f"{row.state} for {age}" if age else row.state
        parts.append(cell(f"{row.id} ({state}): {row.reason or 'it is about to be put in rotation'}"))
        parts += _render_next(row.hint)
    return [*parts, ""] if parts else []


def _render_empty_pools(names: Sequence[str]) -> list[RenderableType]:
    if not names:
        return []
    sentences = [cell(f"pool {name} has no instance; the warnings below tell why", "red") for name in names]
    return [*sentences, *_render_next(EMPTY_POOL), ""]


def _render_proxy(proxy: Mapping[str, Any]) -> list[RenderableType]:
    listen = proxy.get("listen")
    where = ", ".join(map(str, listen)) if isinstance(listen, list) else ""
    answers = f"generation {proxy['generation']}" if proxy.get("generation") else "does not answer"
    line = f"Proxy: {proxy.get('state') or 'unknown to systemd'}, {answers}"
    parts: list[RenderableType] = [cell(f"{line}, clients connect to {where}" if where else line)]
    if proxy.get("error"):
        parts.append(indented(str(proxy["error"]), "red"))
    if proxy.get("waits"):
        parts.append(indented(f"{proxy['waits']}: {proxy.get('old_workers')} are still there", "yellow"))
    if proxy.get("cut_requests"):
        cut = f"requests cut {proxy['cut_requests']}, as they outlasted proxy.shutdown_timeout_sec"
        parts.append(indented(cut, "yellow"))
    return [*parts, *_render_next(proxy.get("hint"))]


def _render_next(hint: object) -> list[RenderableType]:
    return [indented(f"next: {hint}", "bold")] if hint else []


def _render_config(document: Mapping[str, Any]) -> list[RenderableType]:
    error = table(document, "config").get("error")
    if not error:
        return []
    return [
        "",
        cell(
            f"{_config_file(document)} is not accepted; the configuration before it stays in force",
            "bold red",
        ),
        *(indented(line) for line in str(error).splitlines()),
        *_render_next(table(document, "config").get("hint")),
    ]


def _render_pause(document: Mapping[str, Any], now: float) -> list[RenderableType]:
    since = table(document, "orders").get("paused_since")
    if not isinstance(since, int | float):
        return []
    deferred = _render_sentences("It would now:", "", document.get("deferred"))
    return [
        "",
        cell(
            f"The agent is paused for {format_duration(now - since)}: it observes and does nothing",
            "bold cyan",
        ),
        *_render_next(PAUSED),
        *deferred[1:],
    ]


def _render_sentences(title: str, style: str, sentences: object) -> list[RenderableType]:
    if not isinstance(sentences, list) or not sentences:
        return []
    return ["", cell(title, style), *(indented(str(text)) for text in sentences)]


def _config_file(document: Mapping[str, Any]) -> str:
    return str(table(document, "config").get("file") or "the configuration")
