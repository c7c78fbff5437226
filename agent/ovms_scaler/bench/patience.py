# SPDX-License-Identifier: Apache-2.0
"""Tells the agent again what it could not be told: one that restarts is back in seconds."""

import asyncio
import time
from collections.abc import Callable

from ovms_scaler.bench.host import Document
from ovms_scaler.bench.pause import wait
from ovms_scaler.errors import UnreachableError

PATIENCE_SEC = 30.0
_EACH_SEC = 0.5


class Patience:
    """So much time for all that is asked in it."""

    def __init__(self) -> None:
        self._ends_at = time.monotonic() + PATIENCE_SEC

    async def insist(self, ask: Callable[[], Document], stop: asyncio.Event | None = None) -> Document:
        """What the agent answers, which may take a while.

        Raises UnreachableError when the time is up or ``stop`` is set; what else ``ask`` raises, at once.
        """
        while True:
            try:
                return await asyncio.to_thread(ask)
            except UnreachableError:
                if time.monotonic() >= self._ends_at or (stop is not None and stop.is_set()):
                    raise
            await wait(stop, at_most_sec=_EACH_SEC)
