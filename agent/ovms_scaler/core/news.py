# SPDX-License-Identifier: Apache-2.0
"""Reads the agent's status document, and says whether it is good news."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One instance of the document; what an agent of another version leaves out is empty."""

    id: str
    state: str
    reason: str
    hint: str
    since: float | None
    in_rotation: bool
    wanted: bool
    pool: str
    upstream: str
    outdated: bool
    port: object
    node: object
    gpus: tuple[str, ...]


def is_good(document: Mapping[str, Any]) -> bool:
    """Whether every wanted instance serves through the proxy, and nothing hinders the agent.

    One that is drained is out of use because the administrator wants it so.
    """
    rows, proxy = parse_rows(document), table(document, "proxy")
    if not all(
        row.in_rotation for row in rows if row.wanted and row.state != "drained"
    ) or parse_empty_pools(document):
        return False
    if table(document, "config").get("error"):
        return False
    if document.get("problems") or proxy.get("error"):
        return False
    # Where clients are to connect, somebody must answer; right after its start the agent knows nobody yet.
    return not proxy.get("listen") or (bool(proxy.get("generation")) and bool(rows))


def parse_rows(document: Mapping[str, Any]) -> tuple[Row, ...]:
    """The instances of a status document."""
    return tuple(
        Row(
            id=str(entry.get("id", "?")),
            state=str(entry.get("state", "?")),
            reason=str(entry.get("reason") or ""),
            hint=str(entry.get("hint") or ""),
            since=float(since) if isinstance(since := entry.get("since"), int | float) else None,
            in_rotation=entry.get("in_rotation") is True,
            wanted=entry.get("pool") is not None,
            pool=str(entry.get("pool") or ""),
            upstream=str(entry.get("upstream") or entry.get("pool") or ""),
            outdated=entry.get("outdated") is True,
            port=entry.get("port"),
            node=entry.get("node"),
            gpus=tuple(map(str, gpus)) if isinstance(gpus := entry.get("gpus"), list) else (),
        )
        for entry in entries(document, "instances")
    )


def parse_empty_pools(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Pools of a status document that have no instance at all."""
    return tuple(
        str(entry.get("name", "?")) for entry in entries(document, "pools") if entry.get("instances") == 0
    )


def table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of the document; empty when it is missing."""
    value = document.get(name)
    return value if isinstance(value, Mapping) else {}


def entries(document: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The tables of a list in the document; empty when it is missing."""
    listed = document.get(name)
    return [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
