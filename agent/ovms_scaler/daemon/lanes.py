# SPDX-License-Identifier: Apache-2.0
"""Looks at things that may be slow to answer, in a thread, so that nothing waits for them that need not."""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Generic, TypeVar

from ovms_scaler.core.use import SPAN_SEC, T
from ovms_scaler.errors import DeadlineError, HostError

K = TypeVar("K")
V = TypeVar("V")

# Who asks more often is told what was seen last.
INTERVAL_SEC = 1.0
# The event loop stands still for as long, once each time that something hangs; a card wakes up within it.
GLANCE_SEC = 0.5
_KEPT = int(SPAN_SEC / INTERVAL_SEC) + 1


class Lane(Generic[T]):
    """One look at a time, and only when somebody asks; ``samples`` are the last ones, the oldest first."""

    def __init__(self, name: str, *, kept: int = _KEPT) -> None:
        self._name = name
        self._samples: deque[T] = deque(maxlen=kept)
        self._began_sec = float("-inf")
        self._done = asyncio.Event()
        self._done.set()

    @property
    def samples(self) -> Sequence[T]:
        return self._samples

    def look(self, read: Callable[[], T]) -> None:
        """Begin to look, unless that was done a moment ago or is still under way."""
        now_sec = time.monotonic()
        if not self._done.is_set() or now_sec - self._began_sec < INTERVAL_SEC:
            return
        self._began_sec = now_sec
        loop = asyncio.get_running_loop()
        # A daemon, which no exit waits for: a driver may keep it.
        thread = threading.Thread(target=self._run, args=(loop, read), name=self._name, daemon=True)
        with contextlib.suppress(
            RuntimeError
        ):  # no more threads may be had (TasksMax=): there is no news then
            thread.start()
            self._done.clear()  # what the thread says comes in a later turn of the loop

    async def wait(self) -> None:
        """Until the look is over that is under way, if one is."""
        await self._done.wait()

    def _run(self, loop: asyncio.AbstractEventLoop, read: Callable[[], T]) -> None:
        sample: T | None = None
        try:
            sample = read()
        finally:
            with contextlib.suppress(RuntimeError):  # the agent has ended meanwhile
                loop.call_soon_threadsafe(self._take, sample)

    def _take(self, sample: T | None) -> None:
        if sample is not None:
            self._samples.append(sample)
        self._done.set()


class Errand:
    """Does one thing at a time in a thread, however long it takes: a thread that hangs cannot be ended."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_under_way(self) -> bool:
        return not self._idle.is_set()

    async def idle(self) -> None:
        """Until what is under way is over, if anything is."""
        await self._idle.wait()

    def begin(self, do: Callable[[], V]) -> Future[V]:
        """To be called when nothing is under way; who waits no longer for what comes of it ends nothing."""
        self._idle.clear()
        loop = asyncio.get_running_loop()
        future = run_apart(self._name, do)

        def end(_: Future[V]) -> None:
            with contextlib.suppress(RuntimeError):  # the agent has ended meanwhile
                loop.call_soon_threadsafe(self._idle.set)

        future.add_done_callback(end)
        return future


class Source(Generic[V]):
    """Something that may never answer, for a thread that has to know it: ``ask``, and then ``answer``."""

    def __init__(self, what: str, *, hint: str, patience_sec: float) -> None:
        """``what`` and ``hint`` are for the error; nobody waits longer than that for one reading."""
        self.what = what
        self.last: V | None = None  # what it answered last, maybe when nobody waited any more
        self._hint = hint
        self._patience_sec = patience_sec
        self._read: Callable[[], V] | None = None
        self._reading: Future[V] | None = None
        self._began_sec = float("-inf")
        self._is_earlier = False

    @property
    def is_under_way(self) -> bool:
        return self._reading is not None and not self._reading.done()

    @property
    def is_silent(self) -> bool:
        """Whether it has not answered for so long that nobody waits for it."""
        return self.is_under_way and time.monotonic() - self._began_sec >= self._patience_sec

    def ask(self, read: Callable[[], V]) -> None:
        """Begin to read, if the reading before is over."""
        self._read = read
        self._is_earlier = self.is_under_way
        if not self._is_earlier:
            self._begin()

    def answer(self, *, within_sec: float) -> V:
        """What was read since it was asked. Raises DeadlineError, and what reading raises."""
        until_sec = time.monotonic() + within_sec
        if self._is_earlier:  # what comes of that may be older than the question
            self._wait(until_sec)
            self._begin()
            self._is_earlier = False
        return self._wait(until_sec).result()

    def _begin(self) -> None:
        assert self._read is not None  # since ask()
        self._began_sec = time.monotonic()
        self._reading = run_apart(f"read {self.what}", partial(self._keep, self._read))

    def _keep(self, read: Callable[[], V]) -> V:
        self.last = found = read()
        return found

    def _wait(self, until_sec: float) -> Future[V]:
        assert self._reading is not None  # since ask()
        left_sec = min(until_sec, self._began_sec + self._patience_sec) - time.monotonic()
        if not wait([self._reading], max(left_sec, 0.0)).done:
            raise DeadlineError(f"{self.what} does not answer", hint=self._hint)
        return self._reading


class Glance(Generic[K, V]):
    """Reads on the event loop what answers at once as a rule; it is None while it does not."""

    def __init__(self, what: str, read: Callable[[K], V | None]) -> None:
        """``read`` is told which of several it is about; of each a thread is kept when it hangs."""
        self._what = what
        self._read = read
        self._sources: dict[K, Source[V | None]] = {}

    def read(self, which: K) -> V | None:
        source = self._sources.get(which)
        if source is not None and source.is_under_way:
            return None
        source = self._sources[which] = Source(self._what, hint="", patience_sec=GLANCE_SEC)
        source.ask(partial(self._read, which))
        try:
            return source.answer(within_sec=GLANCE_SEC)
        except HostError:  # nor is there anything to see when no thread may be had
            return None


def run_apart(name: str, do: Callable[[], V]) -> Future[V]:
    """Do it in a thread that no exit waits for: a driver may keep it. The future raises what it raises."""
    future: Future[V] = Future()
    future.set_running_or_notify_cancel()  # nobody can cancel what cannot be ended

    def run() -> None:
        try:
            future.set_result(do())
        except BaseException as error:
            future.set_exception(error)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:  # TasksMax=
        future.set_exception(HostError("no more threads may be had", hint="systemctl status ovms-scaler"))
    return future
