# SPDX-License-Identifier: Apache-2.0
"""What is done with a pid file, which the proxy's own user may write, when systemd is slow."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.host.proxy_unit import ProxyUnit
from ovms_scaler.host.signals import send_signal


class SlowJobs:
    """A systemd that takes a reload late; ``until`` is when."""

    def __init__(self) -> None:
        self.until = asyncio.Event()

    async def start(self, unit: str) -> str:
        raise AssertionError(unit)

    async def read_units(self, units: Iterable[str]) -> dict[str, UnitFacts]:
        raise AssertionError(units)

    async def reload(self, _unit: str, *, queued: Callable[[], None]) -> str:
        await self.until.wait()
        queued()
        return "done"


@pytest.mark.parametrize("text", ["", "nonsense", "-1", "1", str(1 << 40), "\u0664", "SELF\n"])
async def test_a_pid_file_is_not_believed(text: str, tmp_path: Path) -> None:
    """SIGHUP would end this process; as nobody could be told, systemd is waited for."""
    (tmp_path / "nginx.pid").write_text(text.replace("SELF", str(os.getpid())))
    jobs, told = SlowJobs(), []

    def hang_up(pid: int, unit: str) -> bool:
        told.append(send_signal(pid, signal.SIGHUP, unit=unit))
        jobs.until.set()
        return told[-1]

    await ProxyUnit(tmp_path, jobs, hang_up=hang_up).reload(seen=0)
    assert told == [False]
