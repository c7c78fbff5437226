# SPDX-License-Identifier: Apache-2.0
"""The worker process that speaks D-Bus: started, given one call at a time with a deadline, and replaced."""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ovms_scaler.errors import HostError, SilenceError

# sd-bus gives up on a call by itself after this long: beyond every deadline of ours, so that one place
# decides.
BUS_TIMEOUT_SEC = 600
LINE_BYTES = 1 << 22  # the longest answer: every unit of a large host, by name
BACKOFF_SEC = (0.05, 0.2, 1.0, 5.0)
CLOSE_SEC = 1.0
WITHOUT_BUS = "is there D-Bus? systemctl start dbus.socket"

# Errors whose D-Bus name (systemd's bus-common-errors.h) says it best; all others speak in systemd's words.
REASONS = {
    "org.freedesktop.systemd1.UnitMasked": ("unit is masked", "systemctl unmask {unit}"),
    "DBusNoSuchUnitError": ("unit is not installed or not loaded", "systemctl status {unit}"),
    "org.freedesktop.systemd1.LoadFailed": ("its unit file cannot be loaded", "systemctl status {unit}"),
    "org.freedesktop.systemd1.BadUnitSetting": ("its unit file has an error", "systemctl status {unit}"),
    "DBusAccessDeniedError": ("permission denied", "the agent must run as root"),
}

Event = Mapping[str, object]


class RefusedError(HostError):
    """systemd answered with an error: its D-Bus name, and its own words."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(slots=True, kw_only=True)
class Pending:
    """The one call that is under way; ``due`` is on the event loop's clock."""

    id: int
    reply: asyncio.Future[object]
    due: float
    called: float
    killer: asyncio.TimerHandle


class Link:
    """One worker at a time, and the calls to it.

    Calls are sent one by one, in the order in which they were made. Each deadline runs from the moment of
    the call, and a call whose deadline passes while it waits is never sent. A call that systemd leaves
    unanswered past its deadline cannot be taken back (it may still take effect); until it is answered every
    further call fails at once. ``stuck_sec`` later the worker is killed and replaced. A worker that ended
    is replaced too, after a pause that grows to five seconds; calls wait for the new one.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        deliver: Callable[[Event], None],
        environment: Mapping[str, str],
        stuck_sec: float,
    ) -> None:
        self._argv = argv
        self._deliver = deliver
        self._environment = {**environment, "SYSTEMD_BUS_TIMEOUT": str(BUS_TIMEOUT_SEC)}
        self._stuck_sec = stuck_sec
        self._turn = asyncio.Lock()
        self._idle = asyncio.Event()
        self._pending: Pending | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._calls = 0
        self._keeper: asyncio.Task[None] | None = None
        self._trouble = "systemd has not answered yet"

    @property
    def trouble(self) -> str:
        """Why systemd cannot be reached now; empty when it can."""
        now = asyncio.get_running_loop().time()
        if self._pending and now >= self._pending.due:
            return f"systemd has not answered an earlier call for {now - self._pending.called:.0f} s"
        return self._trouble

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id; None while there is none."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Begin to keep a worker running."""
        self._keeper = asyncio.create_task(self._keep_worker(), name="systemd worker")

    async def wait_until_ready(self) -> None:
        """Return when a worker is connected and has nothing to do."""
        await self._idle.wait()

    async def close(self) -> None:
        """End the worker; calls under way fail."""
        if self._keeper:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper

    async def call(self, name: str, *args: object, what: str, deadline_sec: float) -> object:
        """The worker's answer. Raises RefusedError, and SilenceError ("cannot ``what``: ...")."""
        loop = asyncio.get_running_loop()
        if self._pending and loop.time() >= self._pending.due:
            # In the same words each time: it is said once.
            raise SilenceError(f"cannot {what}: systemd has not answered an earlier call")
        due = loop.time() + deadline_sec
        try:
            async with asyncio.timeout_at(due), self._turn:
                await self._idle.wait()
                return await asyncio.shield(self._send(name, args, due=due))
        except TimeoutError:
            why = self._trouble or f"systemd did not answer in {deadline_sec:g} s"
            raise SilenceError(f"cannot {what}: {why}") from None
        except ConnectionError as error:
            raise SilenceError(f"cannot {what}: {error}") from error

    def _send(self, name: str, args: Sequence[object], *, due: float) -> asyncio.Future[object]:
        loop = asyncio.get_running_loop()
        if self._process is None or self._process.stdin is None:
            raise ConnectionError("the worker has just ended")
        self._calls += 1
        self._idle.clear()
        self._pending = Pending(
            id=self._calls,
            reply=loop.create_future(),
            due=due,
            called=loop.time(),
            killer=loop.call_at(
                due + self._stuck_sec, self._kill, "systemd did not answer and the worker was replaced"
            ),
        )
        # When nobody waits any more, an error must not be reported as one that nobody fetched.
        self._pending.reply.add_done_callback(lambda reply: reply.cancelled() or reply.exception())
        line = json.dumps({"id": self._calls, "call": name, "args": args})
        self._process.stdin.write(line.encode() + b"\n")
        return self._pending.reply

    def _kill(self, why: str) -> None:
        if self._process and self._process.returncode is None:
            self._trouble = why
            self._process.kill()

    async def _keep_worker(self) -> None:
        failures = 0
        while True:
            was_ready = False
            try:
                was_ready = await self._run_worker()
            except (OSError, ValueError) as error:
                self._trouble = f"the D-Bus worker failed: {error}"
            failures = 0 if was_ready else failures + 1
            await asyncio.sleep(BACKOFF_SEC[min(failures, len(BACKOFF_SEC) - 1)])

    async def _run_worker(self) -> bool:
        """Start a worker and read from it until it ends; True if it had reached systemd."""
        self._process = process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            limit=LINE_BYTES,
        )
        ready = False
        # PID 1 may be stuck while the worker subscribes: that has a limit too.
        loop = asyncio.get_running_loop()
        limit = loop.call_later(self._stuck_sec, self._kill, "systemd did not answer, trying again")
        try:
            assert process.stdout is not None
            while line := await process.stdout.readline():
                message = json.loads(line)
                if message.get("event") == "ready":
                    ready = True
                    limit.cancel()
                self._take(message)
        finally:
            limit.cancel()
            await self._end(process)
        return ready

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        self._process = None
        self._idle.clear()
        self._trouble = self._trouble or "the connection to systemd was lost"
        if self._pending:
            self._pending.killer.cancel()
            self._pending.reply.set_exception(ConnectionError(self._trouble))
        self._pending = None
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), CLOSE_SEC)
        except TimeoutError:
            process.kill()
            await process.wait()

    def _take(self, message: dict[str, object]) -> None:
        match message:
            case {"event": "ready"}:
                self._trouble = ""
                self._idle.set()
                self._deliver(message)
            case {"event": "lost", "why": why}:
                self._trouble = f"the connection to systemd was lost: {why} ({WITHOUT_BUS})"
            case {"event": _}:
                self._deliver(message)
            case {"id": call} if self._pending and self._pending.id == call:
                self._answer(self._pending, message)

    def _answer(self, pending: Pending, message: dict[str, object]) -> None:
        pending.killer.cancel()
        late = asyncio.get_running_loop().time() >= pending.due
        self._pending = None
        self._idle.set()
        match message:
            case {"error": {"name": str(name), "message": str(words)}}:
                pending.reply.set_exception(RefusedError(name, words))
            case {"result": result}:
                pending.reply.set_result(result)
        if late:
            # Others failed while this one was stuck: they have something to look at again.
            self._deliver({"event": "changed", "unit": ""})


def explain(error: RefusedError, *, verb: str, unit: str) -> HostError:
    """systemd's refusal as a sentence for people, with the way out where there is one."""
    if error.name in REASONS:
        reason, hint = REASONS[error.name]
        return HostError(f"cannot {verb} {unit}: {reason}", hint=hint.format(unit=unit))
    return HostError(f"cannot {verb} {unit}: {error.message.rstrip('.') or error.name}")


def worker_argv(executable: str, patterns: Sequence[str]) -> tuple[str, ...]:
    """The worker's command line: by path, so that it needs no installation, and isolated from the caller's
    directory and environment (-I)."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "systemd_worker.py")
    return (executable, "-I", path, *patterns)
