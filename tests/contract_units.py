# SPDX-License-Identifier: Apache-2.0
"""What everything that stands for systemd must do: run on the fake in memory and on booted systemd hosts."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from ovms_scaler.core.facts import ExecFacts, UnitFacts
from ovms_scaler.errors import DeadlineError, HostError, SilenceError
from ovms_scaler.host.systemd_view import Seen

UNIT = "ovms@a.service"
OTHER = "ovms@b.service"
LIMIT_SEC = 20
PLACEMENT = """\
[Service]
CPUAffinity=0
NUMAPolicy=bind
NUMAMask=0
AllowedCPUs=0-1
ExecStart=
ExecStart=/bin/sleep infinity
"""


class Units(Protocol):
    def subscribe(self, changed: Callable[[str], None]) -> None: ...
    async def read_units(self, units: Iterable[str]) -> dict[str, UnitFacts]: ...
    async def look(self, units: Iterable[str], patterns: Iterable[str]) -> Seen: ...
    async def read_exec(self, unit: str) -> ExecFacts: ...
    async def start(self, unit: str, *, wait: bool = True, deadline_sec: float = 100) -> str: ...
    async def stop(self, unit: str, *, wait: bool = True, deadline_sec: float = 100) -> str: ...
    async def restart(self, unit: str, *, wait: bool = True, deadline_sec: float = 100) -> str: ...
    async def try_restart(self, unit: str, *, wait: bool = True, deadline_sec: float = 100) -> str: ...
    async def reload(self, unit: str, *, wait: bool = True, deadline_sec: float = 100) -> str: ...
    async def reset_failed(self, unit: str) -> None: ...
    async def kill(self, unit: str) -> None: ...
    async def daemon_reload(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A Units under test and the levers of its host; nothing runs there and nothing is placed."""

    units: Units
    root: Path  # the host's files
    kill: Callable[[str], Awaitable[None]]  # SIGKILL to the main process
    restart_elapsed: Callable[[str], None]  # the end of RestartSec=, where time does not pass by itself
    mask: Callable[[str], Awaitable[None]]
    freeze: Callable[[], None]  # PID 1 stops answering
    thaw: Callable[[], None]
    changes: "asyncio.Queue[str]"  # what subscribe() reported

    def place(self, unit: str, text: str = PLACEMENT) -> None:
        path = self.root / f"run/systemd/system/{unit}.d/50-placement.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    async def read(self, unit: str = UNIT) -> UnitFacts:
        return (await self.units.read_units([unit]))[unit]

    async def wait_for_change(self, unit: str) -> None:
        async with asyncio.timeout(LIMIT_SEC):
            while await self.changes.get() != unit:
                pass

    async def look(self) -> UnitFacts:
        return (await self.units.look([UNIT], [])).units[UNIT]

    async def wait_until(
        self, holds: Callable[[UnitFacts], bool], *, read: Callable[[], Awaitable[UnitFacts]] | None = None
    ) -> UnitFacts:
        """Read after each reported change, as the agent does."""
        async with asyncio.timeout(LIMIT_SEC):
            while not holds(facts := await (read or self.read)()):
                await self.changes.get()
        return facts


class UnitsContract:
    """Subclasses provide the ``bench`` fixture."""

    async def test_unit_without_a_file_is_not_found(self, bench: Bench) -> None:
        facts = await bench.read("ovms-nothing.service")
        assert (facts.load_state, facts.active_state) == ("not-found", "inactive")

    async def test_unit_that_never_ran_is_inactive(self, bench: Bench) -> None:
        facts = await bench.read()
        assert (facts.load_state, facts.active_state, facts.main_pid) == ("loaded", "inactive", 0)

    async def test_reading_reports_no_change(self, bench: Bench) -> None:
        bench.place(OTHER)
        await bench.units.read_units([UNIT, "ovms-nothing.service"])
        # The next report is of what happened afterwards.
        await bench.units.start(OTHER)
        async with asyncio.timeout(LIMIT_SEC):
            assert await bench.changes.get() == OTHER

    async def test_instance_without_placement_does_not_start(self, bench: Bench) -> None:
        assert await bench.units.start(UNIT) == "assert"
        assert not (await bench.read()).is_running

    async def test_start_runs_the_unit(self, bench: Bench) -> None:
        bench.place(UNIT)
        assert await bench.units.start(UNIT) == "done"
        facts = await bench.read()
        assert (facts.active_state, facts.result, facts.need_daemon_reload) == ("active", "success", False)
        assert facts.main_pid > 0
        assert len(facts.invocation_id) == 32
        assert facts.active_enter_usec > 0

    async def test_start_of_a_running_unit_changes_nothing(self, bench: Bench) -> None:
        bench.place(UNIT)
        await bench.units.start(UNIT)
        before = await bench.read()
        assert await bench.units.start(UNIT) == "done"
        assert await bench.read() == before

    async def test_queued_start_is_reported(self, bench: Bench) -> None:
        bench.place(UNIT)
        assert await bench.units.start(UNIT, wait=False) == "queued"
        await bench.wait_until(lambda facts: facts.active_state == "active")

    async def test_many_starts_at_once_all_end(self, bench: Bench) -> None:
        names = [f"ovms@many{number}.service" for number in range(8)]
        for name in names:
            bench.place(name)
        assert await asyncio.gather(*(bench.units.start(name) for name in names)) == ["done"] * 8

    async def test_stop_ends_the_unit_and_it_stays_ended(self, bench: Bench) -> None:
        bench.place(UNIT)
        await bench.units.start(UNIT)
        assert await bench.units.stop(UNIT) == "done"
        facts = await bench.read()
        assert (facts.active_state, facts.main_pid) == ("inactive", 0)

    @pytest.mark.parametrize("unit", [UNIT, "ovms-nothing.service"], ids=["never started", "no file"])
    async def test_stop_of_what_does_not_run_is_done(self, bench: Bench, unit: str) -> None:
        assert await bench.units.stop(unit) == "done"

    async def test_restart_gives_a_new_invocation(self, bench: Bench) -> None:
        bench.place(UNIT)
        await bench.units.start(UNIT)
        before = await bench.read()
        assert await bench.units.restart(UNIT) == "done"
        after = await bench.read()
        assert after.invocation_id != before.invocation_id
        assert after.main_pid != before.main_pid

    async def test_try_restart_leaves_a_stopped_unit_alone(self, bench: Bench) -> None:
        bench.place(UNIT)
        assert await bench.units.try_restart(UNIT) == "done"
        assert not (await bench.read()).is_running

    async def test_reload_of_a_unit_that_cannot_is_refused(self, bench: Bench) -> None:
        bench.place(UNIT)
        await bench.units.start(UNIT)
        with pytest.raises(HostError, match=f"cannot reload {UNIT}: Job type reload is not applicable"):
            await bench.units.reload(UNIT)

    async def test_killed_unit_is_reported_and_comes_back(self, bench: Bench) -> None:
        bench.place(UNIT)
        await bench.units.start(UNIT)
        before = await bench.read()
        await bench.kill(UNIT)
        dead = await bench.wait_until(lambda facts: facts.main_pid != before.main_pid)
        assert (dead.result, dead.exec_main_code, dead.exec_main_status) == ("signal", 2, 9)
        bench.restart_elapsed(UNIT)
        after = await bench.wait_until(lambda facts: facts.active_state == "active")
        assert after.invocation_id != before.invocation_id
        assert after.restarts == 1

    async def test_killed_by_order_it_comes_back(self, bench: Bench) -> None:
        bench.place(UNIT)
        await bench.units.start(UNIT)
        before = await bench.read()
        await bench.units.kill(UNIT)
        dead = await bench.wait_until(lambda facts: facts.main_pid != before.main_pid)
        assert (dead.result, dead.exec_main_code, dead.exec_main_status) == ("signal", 2, 9)
        bench.restart_elapsed(UNIT)
        after = await bench.wait_until(lambda facts: facts.active_state == "active")
        assert after.invocation_id != before.invocation_id

    async def test_what_does_not_run_cannot_be_killed(self, bench: Bench) -> None:
        with pytest.raises(HostError, match=f"cannot kill {UNIT}: "):
            await bench.units.kill(UNIT)

    async def test_masked_unit_says_so(self, bench: Bench) -> None:
        await bench.mask(UNIT)
        assert (await bench.read()).load_state == "masked"
        with pytest.raises(HostError, match=rf"cannot start {UNIT}: unit is masked") as caught:
            await bench.units.start(UNIT)
        assert caught.value.hint == f"systemctl unmask {UNIT}"

    async def test_start_without_a_file_is_refused(self, bench: Bench) -> None:
        with pytest.raises(HostError, match=r"cannot start ovms-nothing\.service: unit is not installed"):
            await bench.units.start("ovms-nothing.service")

    async def test_look_finds_what_is_asked_for_and_what_runs(self, bench: Bench) -> None:
        bench.place(UNIT)
        bench.place(OTHER)
        await bench.units.start(UNIT)
        await bench.units.start(OTHER)
        before = time.monotonic()
        seen = await bench.units.look([UNIT, "ovms-nothing.service"], ["ovms@b*", "ovms-nothing*"])
        assert dict(seen.units) == await bench.units.read_units([UNIT, OTHER, "ovms-nothing.service"])
        assert before <= seen.since_sec <= time.monotonic()
        assert (await bench.units.look([], ["ovms-nothing*"])).units == {}

    async def test_look_knows_of_every_change(self, bench: Bench) -> None:
        bench.place(UNIT)
        assert not (await bench.look()).is_running
        await bench.units.start(UNIT)
        first = await bench.look()
        assert await bench.look() == first == await bench.read()
        await bench.kill(UNIT)
        dead = await bench.wait_until(lambda facts: facts.main_pid != first.main_pid, read=bench.look)
        assert (dead.result, dead.exec_main_code, dead.exec_main_status) == ("signal", 2, 9)
        bench.restart_elapsed(UNIT)
        after = await bench.wait_until(lambda facts: facts.active_state == "active", read=bench.look)
        assert after.restarts == 1
        await bench.units.stop(UNIT)
        assert not (await bench.look()).is_running

    async def test_look_knows_of_a_mask(self, bench: Bench) -> None:
        assert (await bench.look()).load_state == "loaded"
        await bench.mask(UNIT)
        await bench.wait_until(lambda facts: facts.load_state == "masked", read=bench.look)

    async def test_look_does_not_wait_for_a_stuck_systemd(self, bench: Bench) -> None:
        bench.place(UNIT)
        await bench.look()
        bench.freeze()
        try:
            with pytest.raises(DeadlineError, match=rf"read {UNIT}: systemd did not answer in 1 s$"):
                await bench.look()
        finally:
            bench.thaw()
        await bench.wait_for_change("")
        assert await bench.look() == await bench.read()

    async def test_exec_is_read_back_as_written(self, bench: Bench) -> None:
        bench.place(UNIT)
        await bench.units.start(UNIT)
        assert await bench.units.read_exec(UNIT) == ExecFacts(
            cpu_affinity=frozenset({0}),
            numa_policy="bind",
            numa_mask=frozenset({0}),
            allowed_cpus=frozenset({0, 1}),
            allowed_memory_nodes=frozenset(),
            argv=("/bin/sleep", "infinity"),
            drop_in_paths=(f"/run/systemd/system/{UNIT}.d/50-placement.conf",),
        )

    async def test_exec_of_what_is_no_service_is_refused(self, bench: Bench) -> None:
        with pytest.raises(HostError, match="not a service"):
            await bench.units.read_exec("ovms.target")

    async def test_placement_changed_under_a_running_unit_needs_a_reload(self, bench: Bench) -> None:
        bench.place(UNIT)
        await bench.units.start(UNIT)
        bench.place(UNIT, PLACEMENT.replace("infinity", "1000000"))
        assert (await bench.read()).need_daemon_reload
        await bench.units.daemon_reload()
        assert not (await bench.read()).need_daemon_reload
        assert (await bench.units.read_exec(UNIT)).argv == ("/bin/sleep", "1000000")

    async def test_placement_changed_before_a_start_needs_no_reload(self, bench: Bench) -> None:
        bench.place(UNIT)
        await bench.units.start(UNIT)
        await bench.units.stop(UNIT)
        bench.place(UNIT, PLACEMENT.replace("infinity", "1000000"))
        await bench.units.start(UNIT)
        assert not (await bench.read()).need_daemon_reload
        assert (await bench.units.read_exec(UNIT)).argv == ("/bin/sleep", "1000000")

    async def test_daemon_reload_asks_to_look_at_everything(self, bench: Bench) -> None:
        await bench.units.daemon_reload()
        await bench.wait_for_change("")

    @pytest.mark.parametrize("unit", [UNIT, "ovms-nothing.service"], ids=["never failed", "no file"])
    async def test_nothing_to_reset_is_fine(self, bench: Bench, unit: str) -> None:
        await bench.units.reset_failed(unit)

    async def test_stuck_systemd_costs_one_deadline(self, bench: Bench) -> None:
        bench.place(UNIT)
        bench.freeze()
        try:
            with pytest.raises(DeadlineError, match=rf"start {UNIT}: systemd did not answer in 0\.5 s$"):
                await bench.units.start(UNIT, deadline_sec=0.5)
            async with asyncio.timeout(0.2):
                with pytest.raises(SilenceError, match=r"has not answered an earlier call$"):
                    await bench.read()
        finally:
            bench.thaw()
        await bench.wait_for_change("")
        assert await bench.units.restart(UNIT) == "done"
