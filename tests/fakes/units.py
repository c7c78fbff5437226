# SPDX-License-Identifier: Apache-2.0
"""A systemd in memory that starts, stops, restarts and loses units as the real one was seen to do."""

import asyncio
import fnmatch
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import systemd_syntax

from ovms_scaler.core.facts import ExecFacts, UnitFacts
from ovms_scaler.errors import HostError, SilenceError
from ovms_scaler.host.systemd_view import LOOK_SEC, Seen

STOPPED = {"active_state": "inactive", "sub_state": "dead", "main_pid": 0}


@dataclass(slots=True, kw_only=True)
class FakeUnit:
    """A loaded unit: its facts, and the drop-in text that it was loaded with."""

    facts: UnitFacts
    text: str


@dataclass(slots=True, kw_only=True)
class FakeUnits:
    """Units of a host whose files are under ``root``.

    ``installed`` are the patterns of units that have a file. Units that match ``placed`` refuse to start
    without their placement, as the ovms@ template does, and restart when they die (restart_elapsed() is
    the end of RestartSec=). ``answering`` cleared is a PID 1 that is stuck. ``next_results`` gives the
    result that the next job of a unit ends with instead of "done". ``calls`` records every order.
    ``kill_process`` is a kill that goes past systemd.
    """

    root: Path
    installed: tuple[str, ...] = ("ovms@*.service", "ovms.target", "ovms-scaler-proxy.service")
    placed: str = "ovms@*.service"
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    masked: set[str] = field(default_factory=set)
    next_results: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    loaded: dict[str, FakeUnit] = field(default_factory=dict)
    listeners: list[Callable[[str], None]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1000))
    overdue: int = 0
    kill_process: Callable[[int, str], bool] = lambda _pid, _unit: False

    def __post_init__(self) -> None:
        self.answering.set()

    # What the adapter offers

    @property
    def trouble(self) -> str:
        return "systemd has not answered an earlier call" if self.overdue else ""

    def subscribe(self, changed: Callable[[str], None]) -> None:
        self.listeners.append(changed)

    async def read_units(self, units: Iterable[str]) -> dict[str, UnitFacts]:
        wanted = sorted(set(units))
        await self._answer(f"read {', '.join(wanted)}", 10)
        return {unit: self.read_unit(unit) for unit in wanted}

    async def look(self, units: Iterable[str], patterns: Iterable[str]) -> Seen:
        wanted, listed = set(units), tuple(patterns)
        since = time.monotonic()
        await self._answer(f"read {', '.join(sorted(wanted))}", LOOK_SEC, is_read=True)
        wanted |= {unit for unit in self.loaded if matches(unit, listed)}
        return Seen(units={unit: self.read_unit(unit) for unit in sorted(wanted)}, since_sec=since)

    async def read_exec(self, unit: str) -> ExecFacts:
        await self._answer(f"read {unit}", 10)
        if not unit.endswith(".service"):
            raise HostError("cannot read how systemd runs it: it is not a service")
        text = self.loaded[unit].text if unit in self.loaded else self._read_text(unit)
        return parse_drop_in(text, path=str(drop_in_path(unit)))

    async def start(self, unit: str, *, wait: bool = True, deadline_sec: float = 100) -> str:
        return await self._order("start", unit, wait=wait, deadline_sec=deadline_sec)

    async def stop(self, unit: str, *, wait: bool = True, deadline_sec: float = 100) -> str:
        return await self._order("stop", unit, wait=wait, deadline_sec=deadline_sec)

    async def restart(self, unit: str, *, wait: bool = True, deadline_sec: float = 100) -> str:
        return await self._order("restart", unit, wait=wait, deadline_sec=deadline_sec)

    async def try_restart(self, unit: str, *, wait: bool = True, deadline_sec: float = 100) -> str:
        return await self._order("try-restart", unit, wait=wait, deadline_sec=deadline_sec)

    async def reload(
        self,
        unit: str,
        *,
        wait: bool = True,
        deadline_sec: float = 100,
        queued: Callable[[], None] = lambda: None,
    ) -> str:
        return await self._order("reload", unit, wait=wait, deadline_sec=deadline_sec, queued=queued)

    async def reset_failed(self, unit: str) -> None:
        await self._answer(f"reset {unit}", 10)
        self.calls.append(("reset-failed", unit))
        if unit in self.loaded and self.loaded[unit].facts.active_state == "failed":
            self._forget(unit)

    async def kill(self, unit: str) -> None:
        await self._answer(f"kill {unit}", 10)
        self.calls.append(("kill", unit))
        if not self.read_unit(unit).main_pid:
            raise HostError(f"cannot kill {unit}: no main process to kill")
        self.die(unit)

    async def daemon_reload(self) -> None:
        await self._answer("reload systemd's unit files", 60)
        self.calls.append(("daemon-reload", ""))
        for unit, entry in self.loaded.items():
            entry.text = self._read_text(unit)
            entry.facts = replace(entry.facts, load_state="masked" if unit in self.masked else "loaded")
        self._report("")

    # What a test does to it

    def read_unit(self, unit: str) -> UnitFacts:
        """The facts, without asking."""
        if unit in self.loaded:
            entry = self.loaded[unit]
            return replace(entry.facts, need_daemon_reload=entry.text != self._read_text(unit))
        state = "masked" if unit in self.masked else "loaded" if self._has_file(unit) else "not-found"
        return UnitFacts(unit=unit, load_state=state, active_state="inactive", sub_state="dead")

    def die(self, unit: str, *, code: int = 2, status: int = 9) -> None:
        """The main process dies: by signal ``status`` (code 2, CLD_KILLED), or with exit code 1.

        Restart=always: the unit waits for restart_elapsed().
        """
        result = "signal" if code == 2 else "exit-code" if status else "success"
        self._change(
            unit, active_state="activating", sub_state="auto-restart", main_pid=0, result=result,
            exec_main_code=code, exec_main_status=status,
        )  # fmt: skip

    def restart_elapsed(self, unit: str) -> None:
        """RestartSec= is over: the unit that died runs again, under a new invocation."""
        restarts = self.loaded[unit].facts.restarts + 1
        self._run(unit)
        self._change(unit, restarts=restarts)

    def fail(self, unit: str, *, result: str = "start-limit-hit") -> None:
        """The unit is given up: systemd will not restart it any more."""
        self._change(unit, active_state="failed", sub_state="failed", main_pid=0, result=result)

    def stop_by_admin(self, unit: str) -> None:
        """Somebody else stops it; not recorded in ``calls``."""
        self._forget(unit)

    def start_by_admin(self, unit: str) -> None:
        """Somebody else starts it; not recorded in ``calls``."""
        self._run(unit)

    def mask(self, unit: str) -> None:
        """systemctl mask --runtime."""
        self.masked.add(unit)
        self._report("")

    def unmask(self, unit: str) -> None:
        """systemctl unmask --runtime."""
        self.masked.discard(unit)
        self._report("")

    # How it works

    async def _answer(self, what: str, deadline_sec: float, *, is_read: bool = False) -> None:
        """As the real one: a stuck PID 1 costs one deadline, and all others fail at once meanwhile.

        A look does not: who wants something of it goes first.
        """
        if self.overdue:
            raise SilenceError(f"cannot {what}: {self.trouble}")
        try:
            # Not wait_for(): before Python 3.12 it loses a cancellation that meets with the event.
            async with asyncio.timeout(deadline_sec):
                await self.answering.wait()
        except TimeoutError:
            self.overdue += not is_read
            raise SilenceError(f"cannot {what}: systemd did not answer in {deadline_sec:g} s") from None

    def thaw(self) -> None:
        """PID 1 answers again."""
        self.answering.set()
        self.overdue = 0
        self._report("")

    async def _order(
        self,
        verb: str,
        unit: str,
        *,
        wait: bool,
        deadline_sec: float,
        queued: Callable[[], None] = lambda: None,
    ) -> str:
        await self._answer(f"{verb} {unit}", min(10, deadline_sec))
        self.calls.append((verb, unit))
        queued()
        if unit in self.masked and verb != "stop":
            hint = f"systemctl unmask {unit}"
            raise HostError(f"cannot {verb} {unit}: unit is masked", hint=hint)
        if not self._has_file(unit):
            if verb == "stop":
                return "done"
            raise HostError(
                f"cannot {verb} {unit}: unit is not installed or not loaded", hint=f"systemctl status {unit}"
            )
        if verb == "reload" and matches(unit, (self.placed,)):
            raise HostError(f"cannot reload {unit}: Job type reload is not applicable for unit {unit}")
        await asyncio.sleep(0)
        result = self._finish(verb, unit)
        return result if wait else "queued"

    def _finish(self, verb: str, unit: str) -> str:
        if unit in self.next_results:
            result = self.next_results.pop(unit)
            if result != "done":
                self._report(unit)
                return result
        running = unit in self.loaded and self.loaded[unit].facts.is_running
        if verb == "stop":
            self._forget(unit)
        elif (
            (verb == "start" and not (running and self._has_process(unit)))
            or verb == "restart"
            or (verb == "try-restart" and running)
        ):
            if matches(unit, (self.placed,)) and not (self.root / drop_in_path(unit)).exists():
                self._report(unit)
                return "assert"
            self._run(unit)
        else:
            self._report(unit)
        return "done"

    def _has_process(self, unit: str) -> bool:
        return self.loaded[unit].facts.main_pid != 0

    def _run(self, unit: str) -> None:
        number = next(self.numbers)
        facts = UnitFacts(
            unit=unit, load_state="loaded", active_state="active", sub_state="running", main_pid=number,
            invocation_id=f"{number:032x}", active_enter_usec=number, state_change_usec=number,
        )  # fmt: skip
        self.loaded[unit] = FakeUnit(facts=facts, text=self._read_text(unit))
        self._report(unit)

    def _change(self, unit: str, **changes: object) -> None:
        entry = self.loaded[unit]
        values = {name: getattr(entry.facts, name) for name in UnitFacts.__slots__}
        entry.facts = UnitFacts(**{**values, "state_change_usec": next(self.numbers), **changes})
        self._report(unit)

    def _forget(self, unit: str) -> None:
        if self.loaded.pop(unit, None):
            self._report(unit)

    def _has_file(self, unit: str) -> bool:
        return matches(unit, self.installed)

    def _read_text(self, unit: str) -> str:
        path = self.root / drop_in_path(unit)
        return path.read_text() if path.exists() else ""

    def _report(self, unit: str) -> None:
        for listener in self.listeners:
            asyncio.get_running_loop().call_soon(listener, unit)


def drop_in_path(unit: str) -> Path:
    """The placement of an instance, from the root."""
    return Path(f"run/systemd/system/{unit}.d/50-placement.conf")


def matches(unit: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(unit, pattern) for pattern in patterns)


def parse_drop_in(text: str, *, path: str) -> ExecFacts:
    """The placement that a drop-in states; "$$" stays as systemd keeps it until it runs the command."""

    def read(name: str) -> str:
        return (systemd_syntax.values(text, name) or [""])[-1]

    words = systemd_syntax.parse_words(read("ExecStart"))
    return ExecFacts(
        cpu_affinity=parse_list(read("CPUAffinity")),
        numa_policy=read("NUMAPolicy"),
        numa_mask=parse_list(read("NUMAMask")),
        allowed_cpus=parse_list(read("AllowedCPUs")),
        allowed_memory_nodes=parse_list(read("AllowedMemoryNodes")),
        argv=tuple(map(systemd_syntax.parse_specifiers, words)),
        drop_in_paths=(f"/{path}",) if text else (),
    )


def parse_list(text: str) -> frozenset[int]:
    numbers: set[int] = set()
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)
