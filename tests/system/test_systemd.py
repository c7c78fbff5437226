# SPDX-License-Identifier: Apache-2.0
"""The systemd adapter against booted hosts; it runs outside, so that it can watch PID 1 stop."""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import psutil
import pytest
from contract_units import PLACEMENT, UNIT, Bench, UnitsContract
from lab.host import Host

from ovms_scaler.errors import DeadlineError
from ovms_scaler.host import journal, systemd_worker
from ovms_scaler.host.systemd import Systemd

TEMPLATE = """\
[Unit]
Description=A stand-in
AssertPathExists=/run/systemd/system/ovms@%i.service.d/50-placement.conf
StartLimitIntervalSec=0
[Service]
Type=exec
ExecStart=/bin/false
Restart=always
RestartSec=0.3
"""
STUCK_SEC = 2.0
GAP_LIMIT_SEC = 0.5  # on a busy machine; a call that blocks takes seconds


def bus_of(host: Host) -> str:
    return f"unix:path=/proc/{host.pid1}/root/run/dbus/system_bus_socket"


def read_source(module: ModuleType) -> str:
    """The text of a module that needs nothing else of the package."""
    assert module.__file__
    return Path(module.__file__).read_text()


def read_host_pid(host: Host, unit: str) -> int:
    """The main process of a unit, as this side numbers it: the host has a PID namespace of its own."""
    wanted = host.properties(unit, "MainPID")["MainPID"]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            found = re.search(r"^NSpid:.*\t(\d+)$", status.read_text(), re.MULTILINE)
            same = os.readlink(status.with_name("ns") / "pid") == os.readlink(f"/proc/{host.pid1}/ns/pid")
        except OSError:  # it ended, or it is a PID 1 that may not be looked at
            continue
        if same and found and found[1] == wanted:
            return int(status.parent.name)
    raise AssertionError(f"{unit} has no process {wanted}")


async def wait_for_end(pid: int) -> None:
    ended = asyncio.Event()
    descriptor = os.pidfd_open(pid)
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), STUCK_SEC * 5)
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


@pytest.fixture
async def bench(host: Host) -> AsyncIterator[Bench]:
    host.write("/etc/systemd/system/ovms@.service", TEMPLATE)
    async with await Systemd.open(bus_address=bus_of(host), stuck_sec=STUCK_SEC) as systemd:
        changes: asyncio.Queue[str] = asyncio.Queue()
        systemd.subscribe(changes.put_nowait)

        async def kill(unit: str) -> None:
            os.kill(read_host_pid(host, unit), signal.SIGKILL)

        async def mask(unit: str) -> None:
            await asyncio.to_thread(host.run, "systemctl", "mask", "--runtime", unit)

        yield Bench(
            units=systemd, root=Path(f"/proc/{host.pid1}/root"), kill=kill,
            restart_elapsed=lambda unit: None, mask=mask, freeze=lambda: os.kill(host.pid1, signal.SIGSTOP),
            thaw=lambda: os.kill(host.pid1, signal.SIGCONT), changes=changes,
        )  # fmt: skip


class TestSystemdUnits(UnitsContract):
    @pytest.fixture
    def bench(self, bench: Bench) -> Bench:
        return bench


@pytest.fixture
def systemd(bench: Bench) -> Systemd:
    assert isinstance(bench.units, Systemd)
    return bench.units


async def test_crash_is_known_within_milliseconds(host: Host, bench: Bench) -> None:
    bench.place(UNIT, PLACEMENT)
    await bench.units.start(UNIT)
    pid = read_host_pid(host, UNIT)
    while not bench.changes.empty():
        bench.changes.get_nowait()
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    await bench.wait_for_change(UNIT)
    # A few milliseconds on an idle machine.
    assert time.monotonic() - killed < 0.25


async def test_event_loop_goes_on_while_pid1_is_stopped(bench: Bench, systemd: Systemd) -> None:
    bench.place(UNIT)
    gap_sec = 0.0

    async def tick() -> None:
        nonlocal gap_sec
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            gap_sec, last = max(gap_sec, now - last), now

    ticking = asyncio.create_task(tick())
    worker = systemd.worker_pid
    assert worker is not None
    bench.freeze()
    try:
        with pytest.raises(DeadlineError, match="did not answer in 1 s"):
            await systemd.start(UNIT, deadline_sec=1)
        # The limit for a stuck worker passes, and its successor is stuck as well.
        await wait_for_end(worker)
        with pytest.raises(DeadlineError):
            await systemd.start(UNIT, deadline_sec=0.5)
    finally:
        bench.thaw()
        ticking.cancel()
    await bench.wait_for_change("")
    assert systemd.trouble == ""
    assert await systemd.restart(UNIT) == "done"
    assert gap_sec < GAP_LIMIT_SEC


@pytest.mark.parametrize(
    "command",
    [("systemctl", "daemon-reexec"), ("systemctl", "restart", "dbus.service")],
    ids=["manager executes itself anew", "bus restarts"],
)
async def test_lost_systemd_is_found_again(
    host: Host, bench: Bench, systemd: Systemd, command: tuple[str, ...]
) -> None:
    bench.place(UNIT)
    await systemd.start(UNIT)
    before = await bench.read()
    await asyncio.to_thread(host.run, *command)
    await bench.wait_for_change("")
    assert await bench.read() == before
    await bench.kill(UNIT)
    await bench.wait_for_change(UNIT)


async def test_job_outlives_the_worker_that_queued_it(bench: Bench, systemd: Systemd) -> None:
    bench.place(UNIT, "[Service]\nType=oneshot\nRestart=no\nExecStart=\nExecStart=/bin/sleep 1\n")
    starting = asyncio.create_task(systemd.start(UNIT, deadline_sec=20))
    await bench.wait_until(lambda facts: facts.active_state == "activating")
    assert systemd.worker_pid is not None
    os.kill(systemd.worker_pid, signal.SIGKILL)
    assert await starting == "done"


async def test_worker_is_small(systemd: Systemd) -> None:
    assert systemd.worker_pid is not None
    assert psutil.Process(systemd.worker_pid).memory_info().rss < 24 << 20


async def test_worker_runs_with_the_python_of_the_release(host: Host) -> None:
    """The same worker with the host's own Python and pystemd."""
    await asyncio.to_thread(host.write, "/root/systemd_worker.py", read_source(systemd_worker))
    request = '{"id": 1, "call": "read_units", "args": [{"dbus.service": "", "ovms@none.service": ""}]}\n'
    command = ("/usr/bin/python3", "-I", "/root/systemd_worker.py", "ovms@*")
    lines = (await asyncio.to_thread(host.run, *command, stdin=request)).stdout.splitlines()
    assert lines[0] == '{"event": "ready"}'
    assert '"ActiveState": "active"' in lines[1]


LOG = """
import sys
sys.path.insert(0, "/root")
from journal import JournalSink, StderrSink
sink = JournalSink(StderrSink(sys.stderr))
sink.warning(level="warning", event="instance ejected", unit="ovms@a.service", text="x" * (1 << 20))
sink.close()
"""


def test_entry_about_a_unit_is_shown_with_the_unit(host: Host) -> None:
    host.write("/root/journal.py", read_source(journal))
    assert host.run("/usr/bin/python3", "-c", LOG).stderr == ""
    host.run("journalctl", "--sync")
    shown = host.run("journalctl", "--unit=ovms@a.service", "--output=json", "--all").stdout
    entry = json.loads(shown)
    assert entry["PRIORITY"] == "4"
    assert entry["SYSLOG_IDENTIFIER"] == "ovms-scaler"
    assert len(entry["OVMS_SCALER_TEXT"]) == 1 << 20
