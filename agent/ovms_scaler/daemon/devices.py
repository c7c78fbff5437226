# SPDX-License-Identifier: Apache-2.0
"""Makes one change of each burst of device events, and passes on at once that a GPU hangs."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from ovms_scaler.core.device_event import DeviceEvent

logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()

# A GPU that is plugged sends its events over some tens of milliseconds, a memory module or `udevadm trigger`
# hundreds of them; whoever listens is kept waiting no longer than LONGEST_SEC.
QUIET_SEC = 0.05
LONGEST_SEC = 0.2


class Devices(Protocol):
    """udev."""

    def subscribe(self, received: Callable[[DeviceEvent], None]) -> None: ...


class DeviceWatch:
    """Listens to ``devices`` from now on, in the running loop.

    ``changed`` is called once for a burst, ``QUIET_SEC`` after its last event and at the latest
    ``LONGEST_SEC`` after its first. ``wedged`` is called at once for every event that reports a GPU that
    hangs, always with an address. ``events`` counts all, ``overflows`` those that stand for lost ones.
    """

    def __init__(
        self, devices: Devices, *, changed: Callable[[], None], wedged: Callable[[DeviceEvent], None]
    ) -> None:
        self.events = 0
        self.overflows = 0
        self._changed = changed
        self._wedged = wedged
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._latest = 0.0  # both on the loop's clock
        self._due = 0.0
        self._is_closed = False
        devices.subscribe(self._receive)

    def close(self) -> None:
        """Call nobody any more; safe to repeat. The monitor is closed by whoever opened it."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _receive(self, event: DeviceEvent) -> None:
        if self._is_closed:
            return
        self.events += 1
        self.overflows += event.action == "overflow"
        # A hanging GPU that has no PCI address is none of ours: it may be a change, no more.
        if event.wedged is not None and event.address is not None:
            _log_wedged(event)
            self._wedged(event)
        else:
            self._postpone()

    def _postpone(self) -> None:
        now = self._loop.time()
        if self._timer is None:
            self._latest = now + LONGEST_SEC
            self._timer = self._loop.call_later(QUIET_SEC, self._elapsed)
        self._due = min(now + QUIET_SEC, self._latest)

    def _elapsed(self) -> None:
        """The timer runs on from one event to the next, so that a storm of them costs next to nothing."""
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._elapsed)
            return
        self._timer = None
        self._changed()


def _log_wedged(event: DeviceEvent) -> None:
    phrase = "gpu wedged" if event.wedged else "gpu coredump"
    logger.warning(phrase, address=event.address, methods=list(event.wedged or ()), detail=event.detail)
