# SPDX-License-Identifier: Apache-2.0
"""What is left of earlier configurations of the proxy: workers that still answer, and answers it cut."""

from dataclasses import replace
from pathlib import Path

import structlog

from ovms_scaler.core.cuts import Cuts
from ovms_scaler.core.facts import ProxyFacts
from ovms_scaler.daemon.started import PROXY_UNIT
from ovms_scaler.host.proxy_workers import read_leaving_workers

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class ProxyWatch:
    """Takes in the access log, and looks at the workers once in each pass."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._cuts = Cuts()
        self._told = 0
        self._old_workers = 0

    def note_datagram(self, data: bytes) -> None:
        """Take in what the proxy says of a request that has ended."""
        self._cuts.note(data)

    def look(self, proxy: ProxyFacts, *, shutdown_timeout_sec: int) -> ProxyFacts:
        """``proxy`` with how many workers are leaving, and what was cut since the agent has started."""
        leaving = read_leaving_workers(PROXY_UNIT, self._root)
        self._cuts.expect(leaving, cap_sec=shutdown_timeout_sec)
        count = self._cuts.count
        if count > self._told:
            log.warning(
                "requests cut by the proxy",
                count=count - self._told,
                cut_requests=count,
                shutdown_timeout_sec=shutdown_timeout_sec,
                hint="they went on for longer than proxy.shutdown_timeout_sec after the proxy was reloaded",
            )
            self._told = count
        if len(leaving) > self._old_workers:
            log.info("workers of the proxy are leaving", old_workers=len(leaving))
        self._old_workers = len(leaving)
        return replace(proxy, old_workers=self._old_workers, cut_requests=count)
