# SPDX-License-Identifier: Apache-2.0
"""The proxy's files and reloads: tested before use, verified after, put back if they did not take."""

import asyncio
import contextlib
import fcntl
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ovms_scaler.core import route
from ovms_scaler.core.route import ProxyFiles
from ovms_scaler.errors import DeadlineError, HostError, SilenceError
from ovms_scaler.host import emerg_log, files
from ovms_scaler.host.proxy_unit import PROXY_UNIT, Jobs, ProxyUnit

CHECK_UNIT = "ovms-scaler-proxy-check.service"
_POLL_SEC = 0.01
_ANSWER_SEC = 1.0
_RELOAD_SEC = 40.0  # beyond the proxy's TimeoutStartSec=, which bounds a reload
# nginx's master lets old workers take clients for 100 ms beside the new ones before it tells them to leave
# (ngx_msleep(100) in ngx_process_cycle.c); after this long with new answers only, the old ones are out.
_SETTLED_SEC = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyOutcome:
    """What ``install`` did. ``withheld``: instances left out because their process has ended meanwhile."""

    generation: str
    is_written: bool
    is_reloaded: bool
    withheld: tuple[str, ...]


class Nginx:
    """Our own nginx instance, whose configuration is in ``directory``.

    Beside us only packaging/unroute writes there: it removes the route of an instance that stops, writes its
    invocation id to ended/INSTANCE and reloads. Both write under a lock on the file ``lock``.
    """

    def __init__(
        self,
        directory: Path,
        jobs: Jobs,
        *,
        hang_up: Callable[[int, str], bool] = lambda _pid, _unit: False,
        deadline_sec: float = 10.0,
    ) -> None:
        """``hang_up`` sends SIGHUP to a process of a unit; False when it could not."""
        self._directory = directory
        self._jobs = jobs
        self._unit = ProxyUnit(directory / "work", jobs, hang_up=hang_up)
        self._deadline_sec = deadline_sec
        self._one_at_a_time = asyncio.Lock()

    def read(self) -> ProxyFiles:
        """What is on disk, the generation as generation.conf says it ("" when there is none)."""
        paths = [self._directory / name for name in (*route.TESTED, route.GENERATION)]
        paths += self._directory.glob("routes/*/*.conf")
        texts = {str(path.relative_to(self._directory)): files.read_text(path) for path in sorted(paths)}
        # A route may go between listing and reading: its instance stopped.
        there = {name: text for name, text in texts.items() if text is not None}
        return ProxyFiles(files=there, generation=route.parse_generation(there.get(route.GENERATION, "")))

    def read_ended(self) -> Mapping[str, str]:
        """Instance -> invocation id of the process that stopped last."""
        texts = {path.name: files.read_text(path) for path in self._directory.glob("ended/[!.]*")}
        return {instance: text.strip() for instance, text in texts.items() if text is not None}

    async def read_generation(self) -> str | None:
        """The generation that the running proxy loaded; None when nobody answers."""
        try:
            async with asyncio.timeout(_ANSWER_SEC):
                reader, writer = await asyncio.open_unix_connection(
                    self._directory / "work" / "internal.sock"
                )
                try:
                    writer.write(b"GET /generation HTTP/1.0\r\n\r\n")
                    answer = (await reader.read(4096)).decode("ascii", "replace")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return None
        head, _, body = answer.partition("\r\n\r\n")
        return body.strip() if head.startswith(("HTTP/1.1 200", "HTTP/1.0 200")) else None

    async def install(self, wanted: ProxyFiles) -> ProxyOutcome:
        """Make the proxy run with ``wanted``; does nothing when it does already.

        Raises HostError when nginx refuses it; the previous configuration is then in place and runs, with
        the membership that was wanted (who had to leave must not stay because a port is busy).
        """
        async with self._one_at_a_time:
            previous, running = self.read(), await self.read_generation()
            new = self._without_ended(wanted.files)
            withheld = tuple(sorted(Path(name).stem for name in wanted.files.keys() - new.files.keys()))
            if previous.files == new.files and await self._has_settled(new.generation, running):
                return ProxyOutcome(
                    generation=new.generation, is_written=False, is_reloaded=False, withheld=withheld
                )
            try:
                if any(previous.files.get(name) != new.files.get(name) for name in route.TESTED):
                    await self._check(new)
                written = await self._write(wanted.files)
                await self._activate(written.generation, running=running)
            except SilenceError:
                raise  # no word against the files: whoever reloads next takes them
            except HostError as error:
                await self._go_back(previous, wanted, because=error)
                raise
            return ProxyOutcome(
                generation=written.generation,
                is_written=written.files != previous.files,
                is_reloaded=True,
                withheld=withheld,
            )

    def _without_ended(self, texts: Mapping[str, str]) -> ProxyFiles:
        return route.add_generation(route.without_ended(texts, self.read_ended()))

    async def _check(self, wanted: ProxyFiles) -> None:
        """Let nginx read a copy, as the proxy's user in its sandbox: as root it leaves files of root's."""
        candidate = self._directory / "candidate"
        with _explained():
            if candidate.exists():
                shutil.rmtree(candidate)
        for name, text in wanted.files.items():
            files.write_text(candidate / name, text)
        result = await self._jobs.start(CHECK_UNIT)
        if result != "done":
            why = emerg_log.read_tail(self._directory / "check.log") or f"{CHECK_UNIT}: {result}"
            raise HostError(
                f"cannot use the new proxy configuration: nginx refuses it: {why}",
                hint=f"it is in {candidate}; the proxy runs on with the previous one",
            )

    async def _write(self, wanted: Mapping[str, str]) -> ProxyFiles:
        """Write what differs and remove what is stale, in an order in which each step is a valid whole.

        No fsync: the directory is in memory.
        """
        with _explained():
            async with self._lock():
                return self._write_locked(wanted)

    def _write_locked(self, wanted: Mapping[str, str]) -> ProxyFiles:
        left, present = self._without_ended(wanted), self.read().files
        for name in sorted(left.files.keys() - {route.GENERATION}, key=_writing_order):
            files.write_text(self._directory / name, left.files[name])
        for name in present.keys() - left.files.keys():
            (self._directory / name).unlink(missing_ok=True)
            files.remove_empty((self._directory / name).parent)
        files.write_text(self._directory / route.GENERATION, left.files[route.GENERATION])
        return left

    async def _activate(self, generation: str, *, running: str | None) -> None:
        """Start or reload the proxy and wait until it answers with ``generation``."""
        # A start begins a new log, which can be as long as the one before: what it says is all of now.
        seen = 0 if running is None else emerg_log.read_size(self._emerg)
        await (self._unit.start(seen=seen) if running is None else self._unit.reload(seen=seen))
        if running is None and await self.read_generation() != generation:
            # It was active after all and only did not answer: a start changes nothing then.
            seen = emerg_log.read_size(self._emerg)
            await self._unit.reload(seen=seen)
        try:
            async with asyncio.timeout(self._deadline_sec):
                # Where nothing ran there are no old workers to wait for.
                settled_sec = 0.0 if running is None else _SETTLED_SEC
                await self._wait_until_settled(generation, seen=seen, settled_sec=settled_sec)
        except TimeoutError:
            why = emerg_log.read_tail(self._emerg, since=seen) or "it said nothing"
            raise DeadlineError(
                f"cannot reload the proxy: generation {generation} does not answer after "
                f"{self._deadline_sec:g} s: {why}",
                hint=f"journalctl -u {PROXY_UNIT}",
            ) from None

    async def _has_settled(self, generation: str, running: str | None) -> bool:
        """Whether ``generation`` runs or is about to: unroute may have asked for a reload a moment ago."""
        if running is None or running == generation:
            return running is not None
        patience_sec = _ANSWER_SEC
        with contextlib.suppress(TimeoutError, HostError):
            async with asyncio.timeout(_RELOAD_SEC):
                while True:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(patience_sec):
                            await self._wait_until_settled(generation, seen=emerg_log.read_size(self._emerg))
                            return True
                    # New workers come after systemd is done with a reload.
                    patience_sec = self._deadline_sec
                    proxy = (await self._jobs.read_units([PROXY_UNIT]))[PROXY_UNIT]
                    if proxy.active_state != "reloading":
                        patience_sec -= time.monotonic() - proxy.state_change_usec / 1e6
                        if patience_sec <= 0:
                            return False
        return False

    async def _wait_until_settled(
        self, generation: str, *, seen: int, settled_sec: float = _SETTLED_SEC
    ) -> None:
        """nginx tells nobody when a reload is complete, so it is asked until it answers as expected."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        while True:
            # Whoever stops meanwhile writes a newer generation, which is as good.
            if await self.read_generation() not in (generation, self.read().generation):
                since = loop.time()
                refusal = emerg_log.read_tail(self._emerg, since=seen)
                # A bind() is tried five times over 2.5 s and may yet succeed; anything else is final.
                if any(" bind() to " not in line for line in refusal.splitlines()):
                    raise HostError(f"cannot reload the proxy: nginx keeps its configuration: {refusal}")
            elif loop.time() - since >= settled_sec:
                return
            await asyncio.sleep(_POLL_SEC)

    async def _go_back(self, previous: ProxyFiles, wanted: ProxyFiles, *, because: HostError) -> None:
        """The configuration before, membership as wanted. With none before, the new files stay."""
        if route.CONFIGURATION not in previous.files:
            return
        try:
            left = await self._write(route.fall_back(previous.files, wanted.files))
            running = await self.read_generation()
            if running != left.generation:
                await self._activate(left.generation, running=running)
        except HostError as error:
            raise HostError(
                f"{because.message}; going back failed too: {error.message}", hint=error.hint
            ) from because

    @property
    def _emerg(self) -> Path:
        return self._directory / "work" / "emerg.log"

    @contextlib.asynccontextmanager
    async def _lock(self) -> AsyncIterator[None]:
        """Keep unroute out for the few milliseconds in which files are written."""
        with (self._directory / "lock").open("a") as file:
            try:
                async with asyncio.timeout(self._deadline_sec):
                    while True:
                        with contextlib.suppress(BlockingIOError):
                            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                            break
                        await asyncio.sleep(_POLL_SEC)
            except TimeoutError:
                raise DeadlineError(
                    f"cannot write the proxy's files: {file.name} is locked for {self._deadline_sec:g} s"
                ) from None
            yield


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What the kernel refuses (a read-only file system, say) as a sentence for people."""
    try:
        yield
    except OSError as error:
        why = f"{error.strerror or error}: {error.filename}"
        hint = "`mount` and `dmesg` say more"
        raise HostError(f"cannot write the proxy's files: {why}", hint=hint) from error


def _writing_order(name: str) -> tuple[bool, str]:
    # Routes and credentials.conf first: a configuration that is new finds what it includes.
    return (not name.startswith("routes/"), name)
