# SPDX-License-Identifier: Apache-2.0
"""What costs something to make, made once for all who ask at about the same time."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """A value that is made when somebody asks, and kept for those who ask soon after."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> None:
        self._make = make
        self._name = name
        self._task: asyncio.Task[T] | None = None
        self._began_sec = float("-inf")

    async def get(self, *, within_sec: float) -> T:
        """The value, begun at most so long ago unless it is still being made; raises what making it did."""
        task, now_sec = self._task, time.monotonic()
        if task is None or (task.done() and now_sec - self._began_sec > within_sec):
            task = self._task = asyncio.create_task(self._make(), name=self._name)
            self._began_sec = now_sec
        # Others may wait for it, too, when this one has gone.
        return await asyncio.shield(task)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
