# SPDX-License-Identifier: Apache-2.0
"""Who was stopped by the administrator, and who by systemd because its device went."""

from dataclasses import replace
from pathlib import Path

import pytest

from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.daemon import started
from ovms_scaler.daemon.started import PROXY_UNIT, TARGET_UNIT, Seen
from ovms_scaler.host.store import Store

GPU, CPU = "ovms@chat-gpu-0000:03:00.0.service", "ovms@cpu-numa0.service"
CARD, ANOTHER = "/dev/dri/renderD128=7", "/dev/dri/renderD128=8"


def unit(name: str, state: str = "active", *, process: str = "p1", result: str = "success") -> UnitFacts:
    return UnitFacts(
        unit=name,
        load_state="loaded",
        active_state=state,
        sub_state="",
        invocation_id=process if state != "inactive" else "",
        result=result,
    )


class Host:
    """The agent's notes, and one look after another."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.activation = "t1"
        self.card: str | None = CARD
        self.stopping: set[str] = set()

    def look(self, *units: UnitFacts) -> Seen:
        return started.look(
            self.store,
            units,
            activation=self.activation,
            devices={} if self.card is None else {GPU: self.card},
            stopping=self.stopping,
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


BOTH = unit(GPU), unit(CPU)
NEITHER = unit(GPU, "inactive"), unit(CPU, "inactive")


def test_who_runs_was_started_and_who_runs_no_more_was_stopped_by_hand(host: Host) -> None:
    assert host.look(*NEITHER) == Seen(started=frozenset(), lost_device=frozenset(), problems=())
    for units in (BOTH, NEITHER, NEITHER):
        assert host.look(*units).started == {GPU, CPU}


@pytest.mark.parametrize("state", ["activating", "active"])
def test_one_that_starts_counts_and_one_that_stops_is_not_noted(host: Host, state: str) -> None:
    assert host.look(unit(GPU, "deactivating")).started == set()
    assert host.look(unit(GPU, state)).started == {GPU}


def test_stop_of_the_agents_own_is_none_of_the_administrators(host: Host) -> None:
    host.look(*BOTH)
    host.store.forget_started(GPU)
    host.stopping = {GPU}
    assert host.look(*BOTH).started == {CPU}
    host.stopping = set()
    assert host.look(*NEITHER).started == {CPU}


def test_start_of_everything_anew_forgets_who_was_stopped(host: Host) -> None:
    host.look(*BOTH)
    host.look(*NEITHER)
    host.activation = "t2"
    assert host.look(*NEITHER).started == set()


def test_target_and_proxy_count_for_the_whole_boot(host: Host) -> None:
    host.look(unit(TARGET_UNIT), unit(PROXY_UNIT))
    host.activation = "t2"
    assert host.look().started == {TARGET_UNIT, PROXY_UNIT}


# Devices


@pytest.mark.parametrize("card", ["/dev/dri/renderD128=0", "", ANOTHER], ids=["gone", "unknown", "replaced"])
def test_one_that_systemd_stopped_since_its_device_went_was_not_stopped_by_hand(
    host: Host, card: str
) -> None:
    host.look(*BOTH)
    host.card = card
    assert host.look(*NEITHER).started == {CPU}
    host.card = ANOTHER
    assert host.look(*NEITHER).started == {CPU}


def test_one_that_runs_with_a_device_that_was_replaced_has_lost_it(host: Host) -> None:
    assert host.look(*BOTH).lost_device == set()
    assert host.look(*BOTH).lost_device == set()
    host.card = ANOTHER
    # Also at every later look, and for an agent that comes back.
    for _ in range(2):
        assert host.look(*BOTH).lost_device == {GPU}
    assert host.look(unit(GPU, process="p2")).lost_device == set()
    assert GPU in host.look(unit(GPU, process="p2")).started


def test_device_that_was_replaced_before_the_process_started_is_its_own(host: Host) -> None:
    host.look(*BOTH)
    host.card = ANOTHER
    assert host.look(unit(GPU, process="p2")).lost_device == set()


def test_target_that_starts_later_takes_no_device_away(host: Host) -> None:
    """Somebody started an instance before the agent started ovms.target."""
    host.activation = ""
    host.look(*BOTH)
    host.activation = "t1"
    assert host.look(*BOTH) == Seen(started=frozenset({GPU, CPU}), lost_device=frozenset(), problems=())
    assert host.look(*NEITHER).started == {GPU, CPU}


@pytest.mark.parametrize(
    ("state", "result"),
    [("inactive", "success"), ("failed", "timeout")],
    ids=["while it served", "while it loaded"],
)
def test_stop_by_hand_outlasts_the_device(host: Host, state: str, result: str) -> None:
    host.look(*BOTH)
    stopped = unit(GPU, state, result=result)
    assert host.look(stopped).started == {GPU, CPU}
    for card in ("/dev/dri/renderD128=0", ANOTHER):
        host.card = card
        assert GPU in host.look(stopped).started
    assert GPU in host.look(unit(GPU, process="p2")).started
    # Started again by hand, it is as any other.
    host.card = "/dev/dri/renderD129=9"
    assert host.look(unit(GPU, process="p2")).lost_device == {GPU}
    assert GPU not in host.look(stopped).started


def test_crash_for_good_is_no_stop_by_hand_that_outlasts_the_device(host: Host) -> None:
    host.look(*BOTH)
    failed = unit(GPU, "failed", result="start-limit-hit")
    host.look(failed)
    host.card = ANOTHER
    assert GPU not in host.look(replace(failed, active_state="inactive")).started


def test_one_that_was_on_no_device_and_is_on_one_now_is_noted_anew(host: Host) -> None:
    host.card = None
    host.look(*BOTH)
    host.card = CARD
    assert host.look(*BOTH).lost_device == set()
    host.card = ANOTHER
    assert host.look(*BOTH).lost_device == {GPU}


# Trouble


@pytest.mark.parametrize("junk", ["", " ", "t1 p1", "a b c d", "\n", "t1  "])
def test_note_that_makes_no_sense_does_no_harm(host: Host, junk: str) -> None:
    host.store.write_started(GPU, junk)
    assert host.look(unit(GPU)).lost_device == set()
    assert host.look(unit(GPU)).started == {GPU}


def test_notes_that_cannot_be_written_or_read_are_problems(host: Host, tmp_path: Path) -> None:
    (tmp_path / "run/ovms-scaler").mkdir(parents=True)
    (tmp_path / "run/ovms-scaler/started").write_text("a file")
    seen = host.look(unit(GPU))
    assert seen.started == {GPU}
    assert seen.lost_device == set()
    assert [problem.partition(" /")[0] for problem in seen.problems] == ["cannot read", "cannot write"]
