# SPDX-License-Identifier: Apache-2.0
"""What the watch makes of bursts and hangs, on a clock that only the tests move; and the fake monitor."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from contract_devices import GPU, OTHER, DevicesContract
from fakes.devices import FakeMonitor
from structlog.testing import capture_logs

from ovms_scaler.core.device_event import DeviceEvent
from ovms_scaler.daemon.devices import LONGEST_SEC, QUIET_SEC, DeviceWatch

TICK_SEC = QUIET_SEC / 10
ADDED = DeviceEvent(action="add", subsystem="drm", address=GPU)
OVERFLOW = DeviceEvent(action="overflow", subsystem="", detail="events were lost")


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still until the test moves it."""

    now_sec = 1000.0

    def time(self) -> float:
        return self.now_sec


@dataclass(slots=True, kw_only=True)
class Watched:
    """A watch, its monitor, and whom it called: ``changes`` are the times since the start."""

    runner: asyncio.Runner
    loop: ManualLoop
    watch: DeviceWatch
    monitor: FakeMonitor
    changes: list[float] = field(default_factory=list)
    hangs: list[DeviceEvent] = field(default_factory=list)

    def pass_time(self, seconds: float) -> None:
        """Let the time go by in ticks, and all happen that is due by then."""
        for _ in range(round(seconds / TICK_SEC)):
            self.loop.now_sec += TICK_SEC
            self.runner.run(self._settle())

    async def _settle(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)


def near(*times: float) -> object:
    """Equal up to the ticks in which time goes by."""
    return pytest.approx(list(times), abs=3 * TICK_SEC)


@pytest.fixture
def watched() -> Iterator[Watched]:
    async def watch() -> DeviceWatch:
        return DeviceWatch(monitor, changed=note_change, wedged=lambda event: watched.hangs.append(event))

    def note_change() -> None:
        watched.changes.append(watched.loop.now_sec - ManualLoop.now_sec)

    monitor = FakeMonitor()
    with asyncio.Runner(loop_factory=ManualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, ManualLoop)
        watched = Watched(runner=runner, loop=loop, watch=runner.run(watch()), monitor=monitor)
        yield watched
        watched.watch.close()


def test_a_burst_is_one_change(watched: Watched) -> None:
    watched.monitor.remove_gpu(GPU)
    watched.pass_time(QUIET_SEC / 2)
    watched.monitor.add_gpu(GPU)
    watched.pass_time(QUIET_SEC - TICK_SEC)
    assert watched.changes == []
    watched.pass_time(1)
    assert watched.changes == near(QUIET_SEC * 1.5)


def test_two_bursts_are_two_changes(watched: Watched) -> None:
    watched.monitor.remove_gpu(GPU)
    watched.pass_time(1)
    watched.monitor.add_gpu(GPU)
    watched.pass_time(1)
    assert watched.changes == near(QUIET_SEC, 1 + QUIET_SEC)


def test_a_burst_without_end_is_not_waited_for(watched: Watched) -> None:
    for _ in range(round(3 * LONGEST_SEC / TICK_SEC)):
        watched.monitor.set_memory("7", "online")
        watched.pass_time(TICK_SEC)
    # The next burst begins with the event after the change.
    assert watched.changes[:2] == near(LONGEST_SEC, 2 * LONGEST_SEC)
    watched.pass_time(1)
    assert len(watched.changes) == 3


def test_nothing_is_called_when_nothing_happens(watched: Watched) -> None:
    watched.pass_time(1)
    assert (watched.changes, watched.hangs) == ([], [])


def test_lost_events_are_a_change(watched: Watched) -> None:
    watched.monitor.emit(OVERFLOW)
    watched.pass_time(1)
    assert watched.changes == near(QUIET_SEC)
    assert (watched.watch.events, watched.watch.overflows) == (1, 1)


def test_every_hang_is_passed_on_at_once(watched: Watched) -> None:
    watched.monitor.wedge(GPU, "rebind")
    watched.monitor.wedge(OTHER, "none")
    watched.monitor.dump_core("devcd1", GPU)
    assert [(event.address, event.wedged) for event in watched.hangs] == [
        (GPU, ("rebind",)),
        (OTHER, ("none",)),
        (GPU, ()),
    ]
    watched.pass_time(1)
    assert watched.changes == []


def test_a_hang_neither_ends_nor_delays_a_burst(watched: Watched) -> None:
    watched.monitor.emit(ADDED)
    watched.pass_time(QUIET_SEC - TICK_SEC)
    watched.monitor.wedge(GPU, "rebind")
    assert watched.changes == []
    watched.pass_time(1)
    assert watched.changes == near(QUIET_SEC)


def test_a_hanging_gpu_without_an_address_is_a_change_only(watched: Watched) -> None:
    watched.monitor.emit(DeviceEvent(action="change", subsystem="drm", wedged=("rebind",)))
    watched.pass_time(1)
    assert (len(watched.changes), watched.hangs) == (1, [])


def test_hangs_are_logged_and_nothing_else(watched: Watched) -> None:
    with capture_logs() as entries:
        watched.monitor.add_gpu(GPU)
        watched.monitor.emit(OVERFLOW)
        watched.monitor.wedge(GPU, "rebind,bus-reset", "ovms", "4711")
        watched.monitor.dump_core("devcd1", GPU)
        watched.pass_time(1)
    assert [(entry["event"], entry["address"], entry["methods"]) for entry in entries] == [
        ("gpu wedged", GPU, ["rebind", "bus-reset"]),
        ("gpu coredump", GPU, []),
    ]
    assert "4711" in entries[0]["detail"]


def test_every_event_is_counted(watched: Watched) -> None:
    watched.monitor.add_gpu(GPU)
    watched.monitor.wedge(GPU, "none")
    assert (watched.watch.events, watched.watch.overflows) == (3, 0)


def test_after_close_nobody_is_called(watched: Watched) -> None:
    watched.monitor.emit(ADDED)
    watched.watch.close()
    watched.watch.close()
    watched.monitor.emit(ADDED)
    watched.monitor.wedge(GPU, "rebind")
    watched.pass_time(1)
    assert (watched.changes, watched.hangs) == ([], [])


@dataclass(frozen=True, slots=True)
class FakeBench:
    """The fake monitor and what it passes on."""

    async def see(self, *steps: tuple[str, ...]) -> list[DeviceEvent]:
        monitor, heard = FakeMonitor(), list[DeviceEvent]()
        monitor.subscribe(heard.append)
        for name, *arguments in steps:
            getattr(monitor, name)(*arguments)
        return heard


class TestFakeMonitor(DevicesContract):
    @pytest.fixture
    def bench(self) -> FakeBench:
        return FakeBench()
