# SPDX-License-Identifier: Apache-2.0
"""What is known of a GPU that hung, and how often it did so in a row."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

# The context of a process is lost, the device works again (gpu/drm-uapi.rst, "Device Wedging"): the engine
# must be started anew, and that is all. A coredump names no method, an unknown one cannot be carried out.
RESTART = "restart"
# What the package's recovery helper can do; the names are the kernel's.
HELPER_METHODS = ("rebind", "bus-reset", "cold-reset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wedge:
    """The last time that a GPU hung.

    ``methods`` are the kernel's, the gentlest first, empty when it names none. ``attempt`` counts from 1 the
    recoveries in a row, the one to come included. ``at_sec`` is when the hang or the last failed attempt was
    noted, in seconds of CLOCK_MONOTONIC. ``error`` is why that attempt failed.
    """

    methods: tuple[str, ...]
    detail: str
    at_sec: float
    attempt: int = 1
    is_recovered: bool = False
    error: str = ""

    @property
    def method(self) -> str:
        """What to do in this attempt: each attempt goes one step further than the one before."""
        named = tuple(RESTART if name in ("none", "unknown") else name for name in self.methods)
        return named[min(self.attempt, len(named)) - 1] if named else RESTART


def note_hang(
    known: Wedge | None, *, methods: tuple[str, ...], detail: str, now_sec: float, window_sec: float
) -> Wedge:
    """The wedge after one more report of a hang.

    While the GPU is not recovered, further reports are about the same hang: the kernel's word on the way out
    counts more than a coredump, which has none.
    """
    if known is None or (known.is_recovered and now_sec - known.at_sec > window_sec):
        return Wedge(methods=methods, detail=detail, at_sec=now_sec)
    if not known.is_recovered:
        return replace(known, methods=methods or known.methods, detail=detail if methods else known.detail)
    return Wedge(methods=methods, detail=detail, at_sec=now_sec, attempt=known.attempt + 1)


def note_recovered(known: Wedge) -> Wedge:
    """The wedge when its attempt has succeeded; it is remembered, as it may hang again."""
    return replace(known, is_recovered=True, error="")


def note_failed(known: Wedge, error: str, *, now_sec: float) -> Wedge:
    """The wedge when its attempt has failed."""
    return replace(known, attempt=known.attempt + 1, error=error, at_sec=now_sec)


def start_over(known: Wedge) -> Wedge | None:
    """The wedge when somebody wants it tried again; None when it need not or cannot be recovered here.

    What its GPU needs has not changed: started without being recovered, an engine would hang at once.
    """
    again = replace(known, attempt=1, error="")
    return None if known.is_recovered or again.method not in (RESTART, *HELPER_METHODS) else again


def wedges_document(wedges: Mapping[str, Wedge]) -> dict[str, object]:
    """Wedges by PCI address as JSON."""
    return {
        address: {
            "methods": list(one.methods),
            "detail": one.detail,
            "at_sec": one.at_sec,
            "attempt": one.attempt,
            "is_recovered": one.is_recovered,
            "error": one.error,
        }
        for address, one in wedges.items()
    }


def parse_wedges(document: object) -> dict[str, Wedge]:
    """Wedges of ``wedges_document``; entries that make no sense are left out, as they only delay."""
    if not isinstance(document, dict):
        return {}
    found: dict[str, Wedge] = {}
    for address, one in document.items():
        if (
            isinstance(one, dict)
            and isinstance(methods := one.get("methods"), list)
            and isinstance(at_sec := one.get("at_sec"), int | float)
            and math.isfinite(at_sec)
            and isinstance(attempt := one.get("attempt"), int)
        ):
            found[address] = Wedge(
                methods=tuple(map(str, methods)),
                detail=str(one.get("detail", "")),
                at_sec=float(at_sec),
                attempt=max(1, attempt),
                is_recovered=one.get("is_recovered") is True,
                error=str(one.get("error", "")),
            )
    return found
