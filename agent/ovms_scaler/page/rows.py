# SPDX-License-Identifier: Apache-2.0
"""The table of instances: in which state each is, what it does, and what to type."""

from collections.abc import Sequence
from dataclasses import dataclass

from ovms_scaler.core.next_steps import Piece, split_hint
from ovms_scaler.core.quantities import format_bytes, format_duration, format_latency, format_number
from ovms_scaler.page.marks import Mark
from ovms_scaler.page.reading import Document, read_id, read_list, read_number, read_table, read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRow:
    """One instance; figures that are None are unknown, ``steps`` are empty where nothing is to be typed."""

    mark: Mark
    is_wanted: bool
    place: str
    age: str | None
    requests: str | None
    in_flight: str | None
    first_byte: str | None
    errors: str | None
    has_errors: bool
    cpu: str | None
    memory: str | None
    reason: str
    steps: tuple[Piece, ...]


def read_rows(
    instances: Sequence[Document], measures: Document, marks: Sequence[Mark], *, now: float | None
) -> tuple[InstanceRow, ...]:
    """A row for each instance of the status document."""
    measured = {read_text(one, "id"): one for one in read_list(measures, "instances")}
    return tuple(
        _read_row(entry, measured.get(mark.name, {}), mark, now)
        for entry, mark in zip(instances, marks, strict=True)
    )


def age_of(since: float | None, now: float | None) -> str | None:
    return None if since is None or now is None else format_duration(now - since)


def format_first_byte(latencies: Document) -> str | None:
    """Median and 99th percentile; nothing is known of it while there are no requests."""
    known = [read_number(latencies, name) for name in ("median", "p99")]
    if all(one is None for one in known):
        return None
    return " / ".join("\N{EN DASH}" if one is None else format_latency(one) for one in known)


def format_known(value: float | None) -> str | None:
    return None if value is None else format_number(value)


def format_count(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"


def _read_row(entry: Document, measured: Document, mark: Mark, now: float | None) -> InstanceRow:
    reason, hint = read_text(entry, "reason"), read_text(entry, "hint")
    is_wanted = entry.get("pool") is not None
    is_missed = is_wanted and not mark.is_in
    is_about_to = is_missed and mark.state == "ready" and not reason
    memory = read_number(measured, "memory_bytes")
    errors = read_number(measured, "errors_per_sec")
    return InstanceRow(
        mark=mark,
        is_wanted=is_wanted,
        place=_place(entry, mark, is_wanted=is_wanted),
        age=age_of(read_number(entry, "since"), now),
        requests=format_known(read_number(measured, "requests_per_sec")),
        in_flight=format_count(read_number(measured, "in_flight")),
        first_byte=format_first_byte(read_table(measured, "ttfb_sec")),
        errors=format_known(errors),
        has_errors=bool(errors),
        cpu=format_known(read_number(measured, "cpu_cores")),
        memory=None if memory is None else format_bytes(memory),
        reason="it is about to be put in rotation" if is_about_to else reason,
        steps=split_hint(hint),
    )


def _place(entry: Document, mark: Mark, *, is_wanted: bool) -> str:
    if not is_wanted:
        return "no longer wanted"
    node, port = read_id(entry, "node"), read_id(entry, "port")
    where = f"GPU {', '.join(mark.gpus)}" if mark.gpus else "unbound" if node is None else f"node {node}"
    return f"{where}, port {port}" if port is not None else where
