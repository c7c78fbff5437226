# SPDX-License-Identifier: Apache-2.0
"""Looks at things that may be slow to answer, in a thread, so that nothing waits for them that need not."""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic

from ovms_scaler.core.use import SPAN_SEC, T

# Who asks more often is told what was seen last.
INTERVAL_SEC = 1.0
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
