# SPDX-License-Identifier: Apache-2.0
"""How often processes ended: counted over restarts of the agent, and who is not to blame."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import structlog
from daemon_host import SERVING, DaemonHost, running

from ovms_scaler.core.actions import Kill
from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.core.plan import Plan
from ovms_scaler.core.repair import CRASHES
from ovms_scaler.daemon.ends import NOTE, Ends
from ovms_scaler.host.store import Store

UNIT = "ovms@chat-numa0.service"


def process(number: int, restarts: int = 0) -> UnitFacts:
    """Its unit while its process of that number runs."""
    return UnitFacts(
        unit=UNIT, load_state="loaded", active_state="active", sub_state="running", main_pid=number,
        invocation_id=f"{number:032x}", restarts=restarts,
    )  # fmt: skip


@pytest.fixture(name="store")
def empty_store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def looked(store: Store, *units: UnitFacts) -> Ends:
    """What an agent knows that saw these one after another, a second apart, and came back then."""
    ends = Ends(store)
    for number, unit in enumerate(units):
        ends.look([unit], now_sec=float(number))
    return Ends(store)


def test_what_systemd_restarted_crashed(store: Store) -> None:
    assert looked(store, process(1), process(2, 1), process(2, 1)).crashes(UNIT) == (1.0,)


def test_what_crashed_while_the_agent_was_away_counts_as_often(store: Store) -> None:
    looked(store, process(1))
    assert looked(store, process(4, 3)).crashes(UNIT) == (0.0, 0.0, 0.0)


def test_what_was_there_before_the_first_look_is_nobodys(store: Store) -> None:
    assert looked(store, process(4, 3)).crashes(UNIT) == ()


def test_a_start_that_somebody_asked_for_forgives(store: Store) -> None:
    assert looked(store, process(1), process(2, 1), process(3, 0)).crashes(UNIT) == ()


def test_that_one_does_not_run_says_nothing(store: Store) -> None:
    dead = replace(process(0, 0), active_state="failed", invocation_id="")
    assert looked(store, process(1), process(2, 1), dead).crashes(UNIT) == (1.0,)


@pytest.mark.parametrize("seen", [[], [process(1, 1)]], ids=["at once", "before it starts"])
def test_what_was_killed_did_not_crash(store: Store, seen: list[UnitFacts]) -> None:
    ends = looked(store, process(1))
    ends.note_repair(UNIT, process(1).invocation_id, now_sec=7.0)
    ends = looked(store, *seen, process(2, 1), process(3, 2))
    assert len(ends.crashes(UNIT)) == 1
    assert ends.repairs(UNIT) == (7.0,)


def test_forgetting_lasts(store: Store) -> None:
    ends = looked(store, process(1), process(2, 1))
    ends.note_repair(UNIT, "other", now_sec=7.0)
    ends.forget("ovms@other.service")
    assert (Ends(store).crashes(UNIT), Ends(store).repairs(UNIT)) == ((1.0,), (7.0,))
    ends.forget(UNIT)
    assert (Ends(store).crashes(UNIT), Ends(store).repairs(UNIT)) == ((), ())


@pytest.mark.parametrize(
    "note",
    [
        None,
        [],
        {UNIT: 1},
        {UNIT: {"repairs": [1]}},
        {UNIT: {"repairs": 1, "crashes": "x", "invocation": 1, "restarts": 0, "killed": ""}},
        {UNIT: {"repairs": 1, "crashes": [None], "invocation": "a", "restarts": 0, "killed": ""}},
    ],
)
def test_a_note_that_makes_no_sense_is_about_nobody(store: Store, note: object) -> None:
    store.write_note(NOTE, note)
    assert (Ends(store).crashes(UNIT), Ends(store).repairs(UNIT)) == ((), ())


def test_what_cannot_be_written_is_known_and_told_once(store: Store, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where a directory must be")
    ends = Ends(store)
    with structlog.testing.capture_logs() as logged:
        for number in range(3):
            ends.note_repair(UNIT, "a", now_sec=float(number))
    assert ends.repairs(UNIT) == (0.0, 1.0, 2.0)
    assert [entry["event"] for entry in logged] == ["state not written"]


def has_crashed(host: DaemonHost, times: int) -> bool:
    return len(Ends(host.store).crashes(UNIT)) == times


async def test_repairs_are_counted_on_by_an_agent_that_comes_back(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
        invocation = host.units.read_unit(UNIT).invocation_id
        kill = Kill(instance="chat-numa0", invocation_id=invocation, reason="it errs")
        await host.applier.apply(Plan(actions=(kill,), verdicts={}, in_rotation=frozenset()))
        assert len((await host.observe()).instances["chat-numa0"].repairs) == 1
    assert len(Ends(host.store).repairs(UNIT)) == 1


async def test_one_that_crashes_again_and_again_is_put_down_until_it_is_reset(host: DaemonHost) -> None:
    host.nodes = 2
    host.configure()
    for number in range(2):
        host.engine(number).body = SERVING
    async with running(host) as run:
        await run.until(lambda: all(run.read(f"chat-numa{number}").get("in_rotation") for number in (0, 1)))
        for number in range(1, CRASHES + 1):
            host.units.die(UNIT)
            host.units.restart_elapsed(UNIT)
            await run.until(partial(has_crashed, host, number))
        quarantined = await run.until_state("quarantined")
        assert "ovms-scalerctl reset chat-numa0" in str(quarantined["hint"])
        await run.until(lambda: not host.units.read_unit(UNIT).is_running)
        assert run.read("chat-numa1")["in_rotation"] is True
        await run.agent.orders.reset("chat-numa0")
        await run.until(lambda: run.routed)
