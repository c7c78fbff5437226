# SPDX-License-Identifier: Apache-2.0
"""Carries out a plan; what fails is logged once and found again by the next pass."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Coroutine
from typing import assert_never

import structlog

from ovms_scaler.core import actions
from ovms_scaler.core.instance import unit_name
from ovms_scaler.core.plan import Plan
from ovms_scaler.core.wedge import HELPER_METHODS
from ovms_scaler.daemon.ends import Ends
from ovms_scaler.daemon.observe import Memory
from ovms_scaler.daemon.ports import ProxyPort, Units
from ovms_scaler.daemon.started import PROXY_UNIT, TARGET_UNIT
from ovms_scaler.daemon.wedges import Wedges
from ovms_scaler.errors import HostError, SilenceError
from ovms_scaler.host.store import Store

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Applier:
    """Applies actions one by one; starts and stops go on in the background and hold up nothing."""

    def __init__(
        self,
        *,
        units: Units,
        proxy: ProxyPort,
        store: Store,
        memory: Memory,
        wedges: Wedges,
        ends: Ends,
        settled: Callable[[], None] = lambda: None,
        kill: Callable[[int, str], bool] = lambda _pid, _unit: False,
    ) -> None:
        """``settled`` is called when a job in the background has ended.

        ``kill`` sends SIGKILL to a process of a unit without systemd; False when it could not.
        """
        self._units = units
        self._proxy = proxy
        self._store = store
        self._memory = memory
        self._wedges = wedges
        self._ends = ends
        self._settled = settled
        self._kill_process = kill
        self._jobs: set[asyncio.Task[None]] = set()
        # systemd is asked one thing after the other, and a question's deadline runs while it waits for its
        # turn: if hundreds of starts asked at once, the last ones' questions would never be put.
        self._asking = asyncio.Lock()
        self._failures: tuple[str, ...] = ()

    async def apply(self, plan: Plan) -> tuple[str, ...]:
        """Every action of the plan; after one that fails, its instance's others wait for the next pass.

        What went wrong, as sentences for people; empty when nothing did.
        """
        failed: set[str] = set()
        failures: list[str] = []
        for action in plan.actions:
            instance = getattr(action, "instance", "")
            if instance and instance in failed:
                continue
            try:
                await self._apply(action)
            except HostError as error:
                failed.add(instance)
                failures.append(error.message)
                self._tell(action, error)
        self._failures = tuple(failures)
        return self._failures

    def _tell(self, action: actions.Action, error: HostError) -> None:
        """Log it once, not at every attempt: status says it all along."""
        if error.message not in self._failures:
            log.error("action failed", action=action.describe(), error=error.message, hint=error.hint)

    def forget_refusals(self) -> None:
        """Have what was refused tried again at once, as the administrator may have removed the cause."""
        self._memory.refused_at = float("-inf")
        self._memory.start_errors.clear()
        self._ends.forget()
        self._wedges.start_over()

    async def reset(self, instance: str, addresses: Collection[str]) -> None:
        """Forget what keeps an instance, which is on the GPUs ``addresses``, from being started."""
        self._memory.start_errors.pop(instance, None)
        self._ends.forget(unit_name(instance))
        self._wedges.start_over(addresses)
        await self._forgive(unit_name(instance))

    async def close(self) -> None:
        """Stop waiting for jobs; systemd carries them out all the same."""
        for task in self._jobs:
            task.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    async def _apply(self, action: actions.Action) -> None:
        match action:
            case actions.StartTarget():
                log.info("starting target", unit=TARGET_UNIT)
                await self._units.start(TARGET_UNIT)
            case actions.Write():
                changed = self._store.write_instance(action.files)
                log.info("files written", instance=action.instance, files=list(changed))
            case actions.Remove():
                self._store.remove_instance(action.instance)
                log.info("files removed", instance=action.instance)
            case actions.Start():
                self._spawn(action.instance, self._start(action))
            case actions.Stop():
                self._spawn(action.instance, self._stop(action))
            case actions.Kill():
                await self._kill(action)
            case actions.Recover():
                self._spawn(action.instance, self._recover(action))
            case actions.InstallProxy():
                await self._install(action)
            case _:
                assert_never(action)

    def _spawn(self, instance: str, job: Coroutine[None, None, None]) -> None:
        self._memory.jobs.add(instance)
        task = asyncio.create_task(job, name=f"job for {instance}")
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        task.add_done_callback(lambda _: self._end_job(instance))

    def _end_job(self, instance: str) -> None:
        self._memory.jobs.discard(instance)
        self._settled()

    async def _start(self, action: actions.Start) -> None:
        unit = unit_name(action.instance)
        log.info("starting instance", instance=action.instance, unit=unit)
        try:
            async with self._asking:
                await self._prepare(unit)
            result = await self._units.start(unit)
            why = "" if result == "done" else f"systemd did not start it: {result}"
        except HostError as error:
            why = error.message
        if not why:
            self._memory.start_errors.pop(action.instance, None)
            return
        self._memory.start_errors[action.instance] = (why, time.monotonic())
        log.error("instance not started", instance=action.instance, unit=unit, error=why)

    async def _prepare(self, unit: str) -> None:
        # Planned starts must not count towards the limit that is there for crash loops.
        with contextlib.suppress(HostError):
            await self._units.reset_failed(unit)
        # A unit that is still loaded has the old files in memory; one that is not reads the new ones.
        if (await self._units.read_units([unit]))[unit].need_daemon_reload:
            await self._units.daemon_reload()

    async def _stop(self, action: actions.Stop) -> None:
        """After SIGKILL the unit fails in place of stopping: that is forgotten, as it was meant."""
        unit = unit_name(action.instance)
        log.info("stopping instance", instance=action.instance, unit=unit, at_once=action.at_once)
        try:
            self._store.forget_started(unit)
            if action.at_once:
                with contextlib.suppress(HostError):  # it may have no process at the moment
                    await self._units.kill(unit)
            await self._units.stop(unit)
            if action.at_once:
                await self._units.reset_failed(unit)
        except HostError as error:
            log.error("instance not stopped", instance=action.instance, unit=unit, error=error.message)

    async def _kill(self, action: actions.Kill) -> None:
        """Raises HostError; the attempt counts all the same, unless another process runs by now.

        Without systemd where possible: clients wait for what hangs, and PID 1 may be slow.
        """
        unit = unit_name(action.instance)
        if self._kill_process(action.pid, unit):
            log.warning("killing instance", instance=action.instance, unit=unit, reason=action.reason)
            self._ends.note_repair(unit, action.invocation_id, now_sec=time.monotonic())
            return
        now = (await self._units.read_units([unit]))[unit]
        if now.invocation_id != action.invocation_id:
            log.info("not killed, as it has ended", instance=action.instance, unit=unit)
            return
        log.warning("killing instance", instance=action.instance, unit=unit, reason=action.reason)
        self._ends.note_repair(unit, action.invocation_id, now_sec=time.monotonic())
        await self._units.kill(unit)

    async def _recover(self, action: actions.Recover) -> None:
        """Through a unit, as the agent's own sandbox keeps it from touching devices."""
        keys = {"instance": action.instance, "address": action.address, "method": action.method}
        log.info("recovering GPU", **keys)
        error = ""
        try:
            if action.method in HELPER_METHODS:
                error = await self._help(action)
            if not error:
                await self._forgive(unit_name(action.instance))
        except HostError as failure:
            error = failure.message
        if error:
            self._wedges.note_failed(action.address, error)
            log.error("GPU not recovered", error=error, **keys)
        else:
            self._wedges.note_recovered(action.address)
            log.info("GPU recovered", **keys)

    async def _help(self, action: actions.Recover) -> str:
        """Run the helper; why it did not help, "" when it did. Raises HostError."""
        unit = f"ovms-scaler-gpu-recovery@{action.method}-{action.address}.service"
        with contextlib.suppress(HostError):
            await self._units.reset_failed(unit)
        result = await self._units.start(unit)
        return "" if result == "done" else f"{action.method} did not help (journalctl -u {unit})"

    async def _forgive(self, unit: str) -> None:
        """An engine that kept failing on a GPU that hung is to be started anew. Raises HostError."""
        with contextlib.suppress(HostError):
            await self._units.reset_failed(unit)
        self._store.forget_started(unit)

    async def _install(self, action: actions.InstallProxy) -> None:
        memory = self._memory
        try:
            outcome = await self._proxy.install(action.files)
        except SilenceError:
            raise  # nobody refused it: it is tried again as soon as systemd answers
        except HostError as error:
            memory.proxy_error = error.message
            memory.proxy_refused = action.files.generation
            memory.refused_at = time.monotonic()
            raise
        memory.proxy_error = memory.proxy_refused = ""
        if not outcome.is_written and not outcome.is_reloaded:
            return  # the unit of an instance that stopped did it
        memory.reloaded_at = time.monotonic()
        log.info(
            "proxy changed",
            unit=PROXY_UNIT,
            generation=action.files.generation,
            added=list(action.added),
            removed=list(action.removed),
        )
