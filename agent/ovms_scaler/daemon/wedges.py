# SPDX-License-Identifier: Apache-2.0
"""Keeps what is known of GPUs that hung, also while the agent is away."""

import time
from collections.abc import Collection, Mapping
from dataclasses import replace

import structlog

from ovms_scaler.core.device_event import DeviceEvent
from ovms_scaler.core.wedge import (
    Wedge,
    note_failed,
    note_hang,
    note_recovered,
    parse_wedges,
    start_over,
    wedges_document,
)
from ovms_scaler.errors import HostError
from ovms_scaler.host.store import Store

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Wedges:
    """Wedges by PCI address; every change is written down, as a quarantine must outlive the agent."""

    def __init__(self, store: Store) -> None:
        self._store = store
        now = time.monotonic()
        self._wedges = {
            address: replace(one, at_sec=min(one.at_sec, now))
            for address, one in parse_wedges(store.read_note("wedges")).items()
        }

    def read(self) -> Mapping[str, Wedge]:
        return dict(self._wedges)

    def note_hang(self, event: DeviceEvent, *, window_sec: float) -> None:
        """Take a report in; one that names no GPU is left out."""
        if event.address is None or event.wedged is None:
            return
        known = self._wedges.get(event.address)
        self._wedges[event.address] = note_hang(
            known,
            methods=event.wedged,
            detail=event.detail,
            now_sec=time.monotonic(),
            window_sec=window_sec,
        )
        self._write()

    def note_recovered(self, address: str) -> None:
        """Nothing is kept of a card that was pulled out meanwhile."""
        if (known := self._wedges.get(address)) is not None:
            self._wedges[address] = note_recovered(known)
            self._write()

    def note_failed(self, address: str, error: str) -> None:
        """Nothing is kept of a card that was pulled out meanwhile."""
        if (known := self._wedges.get(address)) is not None:
            self._wedges[address] = note_failed(known, error, now_sec=time.monotonic())
            self._write()

    def forget_pulled_out(self, addresses: Collection[str]) -> None:
        """What comes back has not hung yet; one that was recovered, maybe by switching its slot off, may."""
        self._keep(
            {
                address: one
                for address, one in self._wedges.items()
                if address not in addresses or one.is_recovered
            }
        )

    def start_over(self, addresses: Collection[str] | None = None) -> None:
        """What hung before no longer counts, what was given up is tried again: ``addresses``, or all."""
        again = {
            address: start_over(one) if addresses is None or address in addresses else one
            for address, one in self._wedges.items()
        }
        self._keep({address: one for address, one in again.items() if one is not None})

    def _keep(self, wedges: Mapping[str, Wedge]) -> None:
        if wedges != self._wedges:
            self._wedges = dict(wedges)
            self._write()

    def _write(self) -> None:
        try:
            self._store.write_note("wedges", wedges_document(self._wedges))
        except HostError as error:
            log.error("state not written", error=error.message, hint=error.hint)
