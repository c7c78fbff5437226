# SPDX-License-Identifier: Apache-2.0
"""Remembers until the next boot when processes ended: those killed to repair them, and crashes."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import structlog

from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.errors import HostError
from ovms_scaler.host.store import Store

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

NOTE = "ends"
# More are never asked for (repair_attempts, CRASHES).
_KEPT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ends:
    """Of one unit; times are CLOCK_MONOTONIC seconds. ``invocation`` and ``restarts`` as seen last.

    ``killed`` is the invocation that was killed last: its end is no crash.
    """

    repairs: tuple[float, ...] = ()
    crashes: tuple[float, ...] = ()
    invocation: str = ""
    restarts: int = 0
    killed: str = ""


class Ends:
    """Of all units; noted on disk at once, as an agent in a loop of restarts would repair for ever."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known = _parse(store.read_note(NOTE))
        self._error = ""

    def repairs(self, unit: str) -> tuple[float, ...]:
        return self._known.get(unit, _Ends()).repairs

    def crashes(self, unit: str) -> tuple[float, ...]:
        return self._known.get(unit, _Ends()).crashes

    def note_repair(self, unit: str, invocation: str, *, now_sec: float) -> None:
        """A process is killed, or was to be."""
        own = self._known.get(unit, _Ends())
        self._set(unit, replace(own, repairs=_with(own.repairs, [now_sec]), killed=invocation))

    def look(self, units: Iterable[UnitFacts], *, now_sec: float) -> None:
        """Find out who has crashed since the last look, by how often systemd has restarted it.

        systemd counts from the start that somebody asked for (NRestarts, org.freedesktop.systemd1(5)), which
        forgives. What the agent has missed is taken to have happened now.
        """
        for unit in units:
            own = self._known.get(unit.unit, _Ends())
            if not unit.invocation_id:
                continue  # it does not run
            crashes = own.crashes
            if unit.restarts < own.restarts:
                crashes = ()
            elif own.invocation:
                ended = unit.restarts - own.restarts
                if ended and own.killed == own.invocation:
                    ended -= 1
                crashes = _with(crashes, [now_sec] * ended)
            now = replace(own, crashes=crashes, invocation=unit.invocation_id, restarts=unit.restarts)
            self._set(unit.unit, now)

    def forget(self, unit: str | None = None) -> None:
        """As if it had never ended; all of them without a unit."""
        for one in list(self._known) if unit is None else [unit]:
            if one in self._known:
                self._set(one, replace(self._known[one], repairs=(), crashes=()))

    def _set(self, unit: str, ends: _Ends) -> None:
        """What cannot be written down is known as long as the agent lives."""
        if self._known.get(unit) == ends:
            return
        self._known[unit] = ends
        document = {
            name: {key: getattr(one, key) for key in _Ends.__slots__} for name, one in self._known.items()
        }
        error = ""
        try:
            self._store.write_note(NOTE, document)
        except HostError as failure:
            error = failure.message
            if error != self._error:
                log.warning("state not written", error=error, hint=failure.hint)
        self._error = error


def _with(times: tuple[float, ...], more: Iterable[float]) -> tuple[float, ...]:
    return (*times, *more)[-_KEPT:]


def _parse(document: object) -> dict[str, _Ends]:
    """What was noted; a note that makes no sense is about nobody."""
    if not isinstance(document, dict):
        return {}
    found = {str(name): _parse_one(one) for name, one in document.items()}
    return {name: one for name, one in found.items() if one is not None}


def _parse_one(document: object) -> _Ends | None:
    if not isinstance(document, dict) or document.keys() != set(_Ends.__slots__):
        return None
    repairs, crashes = _parse_times(document["repairs"]), _parse_times(document["crashes"])
    invocation, killed, restarts = document["invocation"], document["killed"], document["restarts"]
    if not isinstance(invocation, str) or not isinstance(killed, str) or not isinstance(restarts, int):
        return None
    return _Ends(repairs=repairs, crashes=crashes, invocation=invocation, restarts=restarts, killed=killed)


def _parse_times(value: object) -> tuple[float, ...]:
    listed, now = value if isinstance(value, list) else [], time.monotonic()
    return tuple(
        min(float(one), now) for one in listed if isinstance(one, int | float) and math.isfinite(one)
    )
