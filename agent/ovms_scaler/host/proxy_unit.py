# SPDX-License-Identifier: Apache-2.0
"""The unit that the proxy runs in: started and reloaded."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.errors import HostError
from ovms_scaler.host import emerg_log, files

PROXY_UNIT = "ovms-scaler-proxy.service"
# Before nginx is told without systemd, which has not even taken the job.
_PATIENCE_SEC = 0.5


class Jobs(Protocol):
    """What is needed of systemd. Both wait for the job; its result is "done", "failed", "timeout" ..."""

    async def start(self, unit: str) -> str: ...

    async def reload(self, unit: str, *, queued: Callable[[], None]) -> str:
        """``queued`` is called when systemd has taken the job."""

    async def read_units(self, units: Iterable[str]) -> dict[str, UnitFacts]: ...


class ProxyUnit:
    """``work`` is the directory that nginx writes to; ``hang_up`` sends SIGHUP to a process of a unit."""

    def __init__(self, work: Path, jobs: Jobs, *, hang_up: Callable[[int, str], bool]) -> None:
        self._work = work
        self._jobs = jobs
        self._hang_up = hang_up

    async def start(self, *, seen: int) -> None:
        """Raises HostError, with what nginx says past ``seen`` bytes of its log."""
        self._judge("start", await self._jobs.start(PROXY_UNIT), seen=seen)

    async def reload(self, *, seen: int) -> None:
        """By systemd, which keeps it in order with reloads of others; by a signal when systemd is slow.

        A job that it takes after all reloads once more, which changes nothing. Raises HostError as start().
        """
        queued = asyncio.Event()
        taken = asyncio.create_task(queued.wait())
        job = asyncio.create_task(self._jobs.reload(PROXY_UNIT, queued=queued.set))
        try:
            await asyncio.wait((job, taken), timeout=_PATIENCE_SEC, return_when=asyncio.FIRST_COMPLETED)
            if job.done() or queued.is_set() or not self._hang_up(self._read_pid(), PROXY_UNIT):
                self._judge("reload", await job, seen=seen)
        finally:
            taken.cancel()
            job.cancel()
            await asyncio.gather(taken, job, return_exceptions=True)

    def _judge(self, verb: str, result: str, *, seen: int) -> None:
        if result != "done":
            why = (
                emerg_log.read_tail(self._work / "emerg.log", since=seen)
                or f"the job's result is {result!r}"
            )
            raise HostError(f"cannot {verb} the proxy: {why}", hint=f"journalctl -u {PROXY_UNIT}")

    def _read_pid(self) -> int:
        """As the proxy's own user wrote it, so not to be trusted; 0 for nonsense."""
        text = (files.read_text(self._work / "nginx.pid") or "").strip()
        return int(text) if text.isascii() and text.isdigit() else 0
