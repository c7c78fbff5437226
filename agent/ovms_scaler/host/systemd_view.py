# SPDX-License-Identifier: Apache-2.0
"""Units as systemd told of them last: only what may have changed since is asked for again."""

import asyncio
import fnmatch
import glob
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.errors import DeadlineError, HostError
from ovms_scaler.host.unit_properties import parse_unit

# Should a signal have been lost, what it was about is read again after this time.
KEPT_SEC = 60.0
# Whoever looks decides by what it knows when systemd takes longer; PID 1 answers within milliseconds, or is
# held up by something that may last.
LOOK_SEC = 1.0
# Who knows nothing yet has nothing else to do.
FIRST_LOOK_SEC = 10.0
STATES = ("LoadState", "ActiveState", "SubState")

Properties = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """How systemd lists a unit; one that it has not loaded has no path and no states."""

    path: str = ""
    states: tuple[object, ...] = (None, None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What was read of a unit, and when, in seconds of CLOCK_MONOTONIC; one not loaded has the path ""."""

    path: str
    properties: Properties
    read_sec: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What units were doing at some time after ``since_sec`` (CLOCK_MONOTONIC)."""

    units: Mapping[str, UnitFacts]
    since_sec: float


class UnitView:
    """Keeps what was read of a unit until a signal speaks of it, or systemd lists it in another state.

    So a look costs systemd one answer when nothing has happened, however many units there are. Of
    NeedDaemonReload no signal tells: it is as it was when the unit was read.
    """

    def __init__(self, ask: Callable[..., Awaitable[object]], patterns: Collection[str]) -> None:
        """``ask`` calls the worker; signals tell of the units that match one of ``patterns``."""
        self._ask = ask
        self._patterns = patterns
        self._kept: dict[str, Kept] = {}
        self._reading: set[str] = set()  # those that no signal spoke of since they were asked for

    def note_change(self, unit: str) -> None:
        """Have a unit, or all for "", read anew by the next look."""
        if unit:
            self._kept.pop(unit, None)
            self._reading.discard(unit)
        else:
            self._kept.clear()
            self._reading.clear()

    def read_kept(self, unit: str) -> Properties | None:
        """What is kept of a unit, without asking."""
        kept = self._kept.get(unit)
        return kept.properties if kept is not None else None

    def read_path(self, unit: str) -> str:
        """Where systemd has a unit; "" if it has not loaded it, or may have dropped it since."""
        kept = self._kept.get(unit)
        return kept.path if kept is not None else ""

    async def look(self, units: Iterable[str], patterns: Collection[str]) -> dict[str, Properties]:
        """The properties of ``units``, and of all that are loaded and match one of ``patterns``.

        One look at a time; it asks for a part at a time, so that orders get their turn in between. Raises
        HostError; what was read before that need not be read again.
        """
        listed = await self._list((*map(glob.escape, units), *patterns))
        wanted = {*units, *(unit for unit in listed if _matches(unit, patterns))}
        found: dict[str, Properties] = {}
        for unit in wanted:
            kept = self._kept.get(unit)
            if kept is not None and _is_fresh(kept, listed.get(unit, Listed())):
                found[unit] = kept.properties
        while left := {unit: listed.get(unit, Listed()).path for unit in sorted(wanted - found.keys())}:
            found |= await self._read(left)
        return found

    async def _list(self, patterns: Collection[str]) -> dict[str, Listed]:
        rows = await self._ask("list_units", sorted(set(patterns)))
        if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 5 for row in rows):
            raise HostError(f"cannot read systemd's answer: expected a list of units, not {rows!r}")
        return {str(name): Listed(path=str(path), states=tuple(states)) for name, *states, path in rows}

    async def _read(self, units: Mapping[str, str]) -> dict[str, Properties]:
        """The first of ``units``, which are paths by name; at least one."""
        self._reading = {unit for unit in units if _matches(unit, self._patterns)}
        answer = await self._ask("read_units", dict(units))
        if not isinstance(answer, dict) or not answer or not answer.keys() <= units.keys():
            raise HostError(f"cannot read systemd's answer: expected units, not {answer!r}")
        now = time.monotonic()
        for unit in self._reading & answer.keys():
            self._kept[unit] = Kept(path=units[unit], properties=answer[unit], read_sec=now)
        return answer


class Looks:
    """Looks that nobody waits for longer than LOOK_SEC.

    One that takes longer goes on; ``ended`` is called at its end, and who looks then is answered with it.
    """

    def __init__(self, view: UnitView, ended: Callable[[], None], trouble: Callable[[], str]) -> None:
        """``trouble`` says why systemd cannot be reached now, "" for no reason."""
        self._view = view
        self._trouble = trouble
        self._ended = ended
        self._task: asyncio.Task[Seen] | None = None
        self._asked: tuple[Collection[str], ...] = ()
        self._began_sec = 0.0
        self._ended_sec = float("inf")
        self._patience_sec = FIRST_LOOK_SEC

    async def look(self, units: Collection[str], patterns: Collection[str]) -> Seen:
        """As UnitView.look(). Raises DeadlineError while a look takes too long, and HostError."""
        task = self._begin(units, patterns)
        due = self._began_sec + self._patience_sec
        await asyncio.wait({task}, timeout=max(0.0, due - time.monotonic()))
        if not task.done():
            why = self._trouble() or f"systemd did not answer in {self._patience_sec:g} s"
            raise DeadlineError(f"cannot read {', '.join(units)}: {why}")
        self._task = None
        seen = task.result()
        self._patience_sec = LOOK_SEC
        return seen

    def close(self) -> None:
        """Give up a look that is under way."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _begin(self, *asked: Collection[str]) -> asyncio.Task[Seen]:
        """The look that is under way or has just ended, if it is the same one; else a new one."""
        now = time.monotonic()
        if self._task is not None and asked == self._asked and now - self._ended_sec < LOOK_SEC:
            return self._task
        self.close()
        self._asked, self._began_sec, self._ended_sec = asked, now, float("inf")
        self._task = asyncio.create_task(self._look(*asked), name="look at units")
        self._task.add_done_callback(self._note_end)
        return self._task

    async def _look(self, units: Collection[str], patterns: Collection[str]) -> Seen:
        since = self._began_sec
        found = await self._view.look(units, patterns)
        return Seen(units={unit: parse_unit(unit, found[unit]) for unit in sorted(found)}, since_sec=since)

    def _note_end(self, task: asyncio.Task[Seen]) -> None:
        if task is not self._task or task.cancelled():
            return
        task.exception()  # whoever comes for it may come too late
        self._ended_sec = time.monotonic()
        if self._ended_sec - self._began_sec > self._patience_sec:
            self._ended()


def _is_fresh(kept: Kept, listed: Listed) -> bool:
    states = tuple(kept.properties.get(name) for name in STATES)
    return states == listed.states and time.monotonic() - kept.read_sec < KEPT_SEC


def _matches(unit: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(unit, pattern) for pattern in patterns)
