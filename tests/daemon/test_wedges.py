# SPDX-License-Identifier: Apache-2.0
"""What is kept of GPUs that hung, also for the agent that comes after this one."""

import json
import time
from pathlib import Path

import pytest

from ovms_scaler.core.device_event import DeviceEvent
from ovms_scaler.core.wedge import Wedge
from ovms_scaler.daemon.wedges import Wedges
from ovms_scaler.host.store import Store

A, B = "0000:03:00.0", "0000:04:00.0"
NOTE = "run/ovms-scaler/wedges.json"


def event(address: str | None = A, methods: tuple[str, ...] | None = ("rebind",)) -> DeviceEvent:
    return DeviceEvent(
        action="change", subsystem="drm", address=address, wedged=methods, detail="guc timeout"
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def wedges(store: Store) -> Wedges:
    return Wedges(store)


def report(wedges: Wedges, *addresses: str, methods: tuple[str, ...] = ("rebind",)) -> None:
    for address in addresses:
        wedges.note_hang(event(address, methods), window_sec=600)


def test_hang_is_kept_with_its_time(wedges: Wedges) -> None:
    before = time.monotonic()
    report(wedges, A)
    known = wedges.read()[A]
    assert known == Wedge(methods=("rebind",), detail="guc timeout", at_sec=known.at_sec)
    assert before <= known.at_sec <= time.monotonic()


@pytest.mark.parametrize("nothing", [event(None), event(A, None)], ids=["no GPU", "no hang"])
def test_event_that_tells_of_no_hang_is_left_out(
    wedges: Wedges, tmp_path: Path, nothing: DeviceEvent
) -> None:
    wedges.note_hang(nothing, window_sec=600)
    assert wedges.read() == {}
    assert not (tmp_path / NOTE).exists()


def test_agent_that_comes_back_knows_what_the_one_before_knew(wedges: Wedges, store: Store) -> None:
    report(wedges, A, B)
    wedges.note_failed(A, "did not help")
    assert Wedges(store).read() == wedges.read()
    wedges.note_recovered(B)
    known = wedges.read()
    assert (known[A].attempt, known[A].error, known[B].is_recovered) == (2, "did not help", True)
    assert Wedges(store).read() == known


def test_window_decides_whether_hangs_are_in_a_row(wedges: Wedges) -> None:
    report(wedges, A)
    wedges.note_recovered(A)
    wedges.note_hang(event(), window_sec=600)
    assert wedges.read()[A].attempt == 2
    wedges.note_recovered(A)
    wedges.note_hang(event(), window_sec=-1)
    assert wedges.read()[A].attempt == 1


def test_end_of_a_recovery_that_nobody_knows_of_is_nothing(wedges: Wedges) -> None:
    wedges.note_failed(A, "did not help")
    wedges.note_recovered(A)
    assert wedges.read() == {}


def test_card_that_was_pulled_out_has_not_hung_unless_that_was_its_recovery(
    wedges: Wedges, store: Store
) -> None:
    report(wedges, A, B, "0000:05:00.0")
    wedges.note_recovered(B)
    wedges.forget_pulled_out({A, B, "0000:ff:00.0"})
    assert wedges.read().keys() == Wedges(store).read().keys() == {B, "0000:05:00.0"}


def test_starting_over(wedges: Wedges, store: Store) -> None:
    report(wedges, A, B)
    wedges.note_failed(A, "did not help")
    wedges.note_recovered(B)
    report(wedges, "0000:05:00.0", methods=("vendor-specific",))
    wedges.start_over()
    (known,) = wedges.read().values()
    assert (known.attempt, known.error) == (1, "")
    assert Wedges(store).read() == wedges.read() == {A: known}


def test_nothing_is_written_when_nothing_changed(wedges: Wedges, tmp_path: Path) -> None:
    wedges.forget_pulled_out({A})
    wedges.start_over()
    assert not (tmp_path / NOTE).exists()
    report(wedges, A)
    before = (tmp_path / NOTE).stat()
    wedges.forget_pulled_out({B})
    wedges.start_over()
    assert (tmp_path / NOTE).stat() == before


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"x": 1}', '{"x": {"methods": [], "at_sec": NaN, "attempt": 1}}', "\x00"],
)
def test_note_with_junk_is_survived(store: Store, tmp_path: Path, text: str) -> None:
    (tmp_path / NOTE).parent.mkdir(parents=True)
    (tmp_path / NOTE).write_text(text)
    wedges = Wedges(store)
    assert wedges.read() == {}
    report(wedges, A)
    assert Wedges(store).read().keys() == {A}


def test_time_to_come_is_taken_for_now(store: Store, tmp_path: Path) -> None:
    (tmp_path / NOTE).parent.mkdir(parents=True)
    (tmp_path / NOTE).write_text(json.dumps({A: {"methods": [], "at_sec": 1e300, "attempt": 2}}))
    assert Wedges(store).read()[A].at_sec <= time.monotonic()


def test_note_that_cannot_be_written_is_kept_in_mind(wedges: Wedges, tmp_path: Path) -> None:
    (tmp_path / NOTE).mkdir(parents=True)
    report(wedges, A)
    assert wedges.read().keys() == {A}
