# SPDX-License-Identifier: Apache-2.0
"""Units of this host's systemd: what they are doing, orders to them, and word of every change."""

import asyncio
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from ovms_scaler.core.facts import ExecFacts, UnitFacts
from ovms_scaler.errors import DeadlineError, HostError
from ovms_scaler.host import systemd_link, unit_properties
from ovms_scaler.host.systemd_view import Looks, Seen, UnitView

OUR_UNITS = ("ovms@*.service", "ovms.target", "ovms-scaler-proxy*.service")
CALL_SEC = 10.0
RELOAD_SEC = 60.0  # a reload reads every unit file of the host again
JOB_SEC = 100.0  # beyond systemd's own DefaultTimeoutStartSec=90s
STUCK_SEC = 30.0
ENDED_JOBS = 64  # results kept for who has yet to ask; those that nobody asks for fall out


class Systemd:
    """The system manager over D-Bus, never waited for longer than a deadline.

    Every method raises DeadlineError when systemd does not answer in time and HostError when it refuses;
    the message names the unit, the verb and the reason. While one call is overdue all others fail at once.
    """

    def __init__(
        self,
        *,
        argv: Sequence[str],
        patterns: Sequence[str],
        environment: Mapping[str, str],
        stuck_sec: float,
    ) -> None:
        self._link = systemd_link.Link(
            argv, deliver=self._note_event, environment=environment, stuck_sec=stuck_sec
        )
        self._view = UnitView(self._look_up, patterns)
        self._looks = Looks(self._view, lambda: self._report(""), lambda: self.trouble)
        self._listeners: list[Callable[[str], None]] = []
        self._jobs: dict[int, asyncio.Future[str]] = {}
        self._ended: dict[int, str] = {}
        self._losses = 0  # how often word of a job's end may have been missed
        self._checks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls,
        *,
        patterns: Sequence[str] = OUR_UNITS,
        bus_address: str | None = None,
        argv: Sequence[str] | None = None,
        stuck_sec: float = STUCK_SEC,
        deadline_sec: float = CALL_SEC,
    ) -> Self:
        """Connect; changes of units that match one of ``patterns`` (fnmatch) are reported.

        ``bus_address`` is a D-Bus address in place of the system bus, ``argv`` another worker.
        """
        environment = dict(os.environ)
        if bus_address is not None:
            environment["DBUS_SYSTEM_BUS_ADDRESS"] = bus_address
        argv = argv or systemd_link.worker_argv(sys.executable, patterns)
        systemd = cls(argv=argv, patterns=patterns, environment=environment, stuck_sec=stuck_sec)
        systemd._link.start()
        try:
            async with asyncio.timeout(deadline_sec):
                await systemd._link.wait_until_ready()
        except TimeoutError:
            why = systemd.trouble or f"no answer in {deadline_sec:g} s"
            raise DeadlineError(f"cannot connect to systemd: {why}") from None
        finally:
            if systemd.trouble:
                await systemd.close()
        return systemd

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the worker process; jobs that were queued go on."""
        self._looks.close()
        for check in self._checks:
            check.cancel()
        await self._link.close()

    @property
    def trouble(self) -> str:
        """Why systemd cannot be reached now; empty when it can."""
        return self._link.trouble

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id; None while there is none."""
        return self._link.worker_pid

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Call ``changed`` in the event loop with the name of each unit that may have changed.

        "" means that any may have: after a reload, a new connection, or a time in which systemd was silent.
        """
        self._listeners.append(changed)

    async def look(self, units: Iterable[str], patterns: Iterable[str]) -> Seen:
        """What ``units`` are doing, and all that are loaded and match one of ``patterns``. Loads nothing.

        Raises DeadlineError when that takes long; it goes on, its end is reported as a change of any unit,
        and whoever looks then is answered with it. Of ``need_daemon_reload`` only read_units() is sure.
        """
        return await self._looks.look(tuple(sorted(set(units))), tuple(sorted(set(patterns))))

    async def read_units(self, units: Iterable[str]) -> dict[str, UnitFacts]:
        """What each unit is doing now. Loads nothing: of a unit not loaded only the file is looked at."""
        left = {unit: self._view.read_path(unit) for unit in sorted(set(units))}
        found: dict[str, UnitFacts] = {}
        while left:
            answer = await self._ask("read_units", left, verb="read", unit=", ".join(left))
            for unit in left.keys() & answer.keys():
                found[unit] = unit_properties.parse_unit(unit, as_mapping(answer[unit]))
                del left[unit]
        return found

    async def read_exec(self, unit: str) -> ExecFacts:
        """How systemd understood a service's files. Loads the unit if it is not loaded.

        Raises HostError when the unit is not a service.
        """
        properties = self._view.read_kept(unit)
        if properties is None or "UnitFileState" in properties:
            properties = await self._ask("read_exec", unit, verb="read", unit=unit)
        return unit_properties.parse_exec(properties)

    async def start(self, unit: str, *, wait: bool = True, deadline_sec: float = JOB_SEC) -> str:
        """Queue the job, in mode "replace", and return its result when systemd removes it.

        The results are those of JobRemoved in org.freedesktop.systemd1(5): "done", "failed", "canceled",
        "timeout", "dependency", "skipped", "assert", ...; "queued" without ``wait``. A job that outlasts the
        deadline goes on in systemd.
        """
        return await self._run_job("start", unit, wait=wait, deadline_sec=deadline_sec)

    async def stop(self, unit: str, *, wait: bool = True, deadline_sec: float = JOB_SEC) -> str:
        """As start(). A unit that is not loaded is stopped: "done"."""
        return await self._run_job("stop", unit, wait=wait, deadline_sec=deadline_sec)

    async def restart(self, unit: str, *, wait: bool = True, deadline_sec: float = JOB_SEC) -> str:
        """As start(); a unit that does not run is started."""
        return await self._run_job("restart", unit, wait=wait, deadline_sec=deadline_sec)

    async def try_restart(self, unit: str, *, wait: bool = True, deadline_sec: float = JOB_SEC) -> str:
        """As restart(), but a unit that does not run is left alone."""
        return await self._run_job("try-restart", unit, wait=wait, deadline_sec=deadline_sec)

    async def reload(
        self,
        unit: str,
        *,
        wait: bool = True,
        deadline_sec: float = JOB_SEC,
        queued: Callable[[], None] = lambda: None,
    ) -> str:
        """Run ExecReload=, as start() otherwise; HostError when the unit has none.

        ``queued`` is called when systemd has taken the job.
        """
        return await self._run_job("reload", unit, wait=wait, deadline_sec=deadline_sec, queued=queued)

    async def reset_failed(self, unit: str) -> None:
        """Forget a failure and the count of restarts. A unit that is not loaded has nothing to forget."""
        try:
            await self._link.call("reset_failed", unit, what=f"reset {unit}", deadline_sec=CALL_SEC)
        except systemd_link.RefusedError as error:
            if error.name != "DBusNoSuchUnitError":
                raise systemd_link.explain(error, verb="reset", unit=unit) from error

    async def kill(self, unit: str) -> None:
        """SIGKILL for the main process (KillUnit in org.freedesktop.systemd1(5)); Restart= applies."""
        await self._call("kill", unit, verb="kill", unit=unit)

    async def daemon_reload(self) -> None:
        """Let systemd read all unit files again."""
        await self._call("reload", verb="reload", unit="systemd's unit files", deadline_sec=RELOAD_SEC)

    async def _run_job(
        self,
        verb: str,
        unit: str,
        *,
        wait: bool,
        deadline_sec: float,
        queued: Callable[[], None] = lambda: None,
    ) -> str:
        loop = asyncio.get_running_loop()
        due = loop.time() + deadline_sec
        losses = self._losses
        method = "".join(word.capitalize() for word in verb.split("-")) + "Unit"
        try:
            job = await self._link.call(
                "queue_job", method, unit, what=f"{verb} {unit}", deadline_sec=min(CALL_SEC, deadline_sec)
            )
        except systemd_link.RefusedError as error:
            if verb == "stop" and error.name == "DBusNoSuchUnitError":
                return "done"
            raise systemd_link.explain(error, verb=verb, unit=unit) from error
        queued()
        if not wait:
            return "queued"
        result = await self._wait_for_job(unit_properties.parse_count(job), due=due, losses=losses)
        if result is None:
            raise DeadlineError(
                f"cannot {verb} {unit}: its job {job} was not finished in {deadline_sec:g} s",
                hint=f"systemctl list-jobs; systemctl status {unit}",
            )
        if not result:
            raise HostError(f"cannot {verb} {unit}: its job {job} ended while systemd was out of sight")
        return result

    async def _wait_for_job(self, job: int, *, due: float, losses: int) -> str | None:
        # The answer and what followed can arrive in one block: then it was noted before we came here.
        if job in self._ended:
            return self._ended.pop(job)
        loop = asyncio.get_running_loop()
        future = self._jobs.setdefault(job, loop.create_future())
        if losses != self._losses:
            self._check_jobs()
        await asyncio.wait({future}, timeout=max(0.0, due - loop.time()))
        return future.result() if future.done() else None

    async def _look_up(self, name: str, question: Collection[str]) -> object:
        return await self._call(name, question, verb="read", unit=", ".join(question))

    async def _ask(self, name: str, *args: object, verb: str, unit: str) -> Mapping[str, object]:
        return as_mapping(await self._call(name, *args, verb=verb, unit=unit))

    async def _call(
        self, name: str, *args: object, verb: str, unit: str, deadline_sec: float = CALL_SEC
    ) -> object:
        try:
            return await self._link.call(name, *args, what=f"{verb} {unit}", deadline_sec=deadline_sec)
        except systemd_link.RefusedError as error:
            raise systemd_link.explain(error, verb=verb, unit=unit) from error

    def _note_event(self, event: systemd_link.Event) -> None:
        match event:
            case {"event": "job", "job": int(job), "result": str(result)}:
                self._finish_job(job, result)
            case {"event": "changed", "unit": str(unit)}:
                self._view.note_change(unit)
                if not unit:
                    self._check_jobs()
                self._report(unit)
            case {"event": "ready"}:
                self._view.note_change("")
                self._check_jobs()
                self._report("")

    def _report(self, unit: str) -> None:
        for listener in self._listeners:
            # Not called from here: what a listener raises is not the connection's trouble.
            asyncio.get_running_loop().call_soon(listener, unit)

    def _finish_job(self, job: int, result: str) -> None:
        if waiting := self._jobs.pop(job, None):
            waiting.set_result(result)
            return
        self._ended[job] = result
        if len(self._ended) > ENDED_JOBS:
            del self._ended[next(iter(self._ended))]

    def _check_jobs(self) -> None:
        """The word of a job's end may have been missed: ask for each that is waited for."""
        self._losses += 1
        if self._jobs:
            check = asyncio.get_running_loop().create_task(self._finish_lost_jobs())
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def _finish_lost_jobs(self) -> None:
        for job in tuple(self._jobs):
            try:
                known = await self._link.call("has_job", job, what="look for a job", deadline_sec=CALL_SEC)
            except HostError:
                return  # whatever it is ends in another "ready", or in the deadline of who waits
            if not known:
                self._finish_job(job, "")


def as_mapping(value: object) -> Mapping[str, object]:
    """Raises HostError unless the worker answered with an object."""
    if not isinstance(value, dict):
        raise HostError(f"cannot read systemd's answer: expected an object, not {value!r}")
    return value
