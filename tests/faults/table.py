# SPDX-License-Identifier: Apache-2.0
"""The table, as text that can stand in the documentation and as JSON."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from faults.catalogue import FAULTS
from faults.run import Result

COLUMNS = (
    "fault",
    "balancer",
    "sent",
    "answered",
    "cut",
    "lost, unary",
    "lost, streamed",
    "wrong",
    "slowest, s",
    "last request, s",
    "full strength, s",
    "notes",
)

Rows = Mapping[tuple[str, str], Result | str]
"""By fault and balancer: the result, or why there is none."""


def render_markdown(rows: Rows) -> str:
    """One line for each fault and balancer."""
    lines = [_line(COLUMNS), _line("---" if name in COLUMNS[:2] else "--:" for name in COLUMNS)]
    lines[1] = lines[1].removesuffix("--: |") + "--- |"
    for (fault, balancer), result in rows.items():
        if isinstance(result, str):
            cells = [fault, balancer, *[""] * (len(COLUMNS) - 3), result.splitlines()[0]]
        else:
            cells = [fault, balancer, *_cells(result)]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def render_json(rows: Rows) -> list[dict[str, Any]]:
    """The same with everything that was counted; times that do not come are null."""
    return [
        {"fault": fault, "about": FAULTS[fault].about, "balancer": balancer}
        | (
            {"problem": result}
            if isinstance(result, str)
            else {**_finite(dataclasses.asdict(result.figures)), "notes": list(result.notes)}
        )
        for (fault, balancer), result in rows.items()
    ]


def _cells(result: Result) -> list[str]:
    found = result.figures
    notes = list(result.notes)
    if found.wrong:
        notes[:0] = [
            f"{one.count} x {status} (median after {one.median_ms:.0f} ms, slowest {one.slowest_ms:.0f} ms)"
            for status, one in found.statuses.items()
        ]
        if found.not_json:
            notes.append(f"{found.not_json} of them not JSON")
    if found.timed_out:
        notes.append(f"{found.timed_out} timed out")
    if found.odd:
        notes.append(", ".join(f"{kind}: {count}" for kind, count in found.odd.items()))
    return [
        str(found.sent),
        str(found.answered),
        str(found.cut),
        str(found.lost_unary),
        str(found.lost_streamed),
        str(found.wrong),
        f"{found.slowest_sec:.1f}",
        _time(found.last_request_sec, never="to the end"),
        _time(found.full_strength_sec, never="not in time"),
        "; ".join(notes),
    ]


def _time(seconds: float | None, *, never: str) -> str:
    if seconds is None:
        return "-"
    return never if math.isinf(seconds) else f"{seconds:.1f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _finite(document: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isinf(value) else value
        for name, value in document.items()
    }
