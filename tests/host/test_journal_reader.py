# SPDX-License-Identifier: Apache-2.0
"""journalctl is run, its output taken in, and ended with whoever reads it."""

import os
import re
import time
from pathlib import Path

import pytest
from journalctl_lab import Journalctl, engine, entry

from ovms_scaler.errors import HostError, InputError
from ovms_scaler.host import journal_reader


def test_entries_come_as_fields(journalctl: Journalctl) -> None:
    journalctl.holds(engine("first"), engine("second"))
    found = [fields["MESSAGE"] for fields in journal_reader.read_entries("--all")]
    assert found == ["first", "second"]
    assert journalctl.calls() == [["--quiet", "--no-pager", "--output=json", "--all"]]


def test_a_reader_that_has_enough_ends_journalctl(journalctl: Journalctl) -> None:
    journalctl.holds(engine("text"))
    journalctl.then_comes(and_waits=True)
    entries = journal_reader.read_entries("--follow", "--no-tail")
    assert next(entries)["MESSAGE"] == "text"
    assert journalctl.is_running()
    entries.close()
    assert not journalctl.is_running()


def test_why_journalctl_failed_is_said(journalctl: Journalctl) -> None:
    journalctl.fails("Something.\nFailed to open the journal: No medium found")
    with pytest.raises(
        HostError, match=re.escape("journalctl failed: Failed to open the journal: No medium")
    ):
        list(journal_reader.read_entries())
    with pytest.raises(HostError, match="journalctl failed"):
        journal_reader.list_values("_SYSTEMD_UNIT")


def test_without_journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="cannot run journalctl: No such file"):
        next(journal_reader.read_entries())
    with pytest.raises(HostError, match="cannot run systemd-analyze"):
        journal_reader.read_time("today")


def test_values_of_a_field(journalctl: Journalctl) -> None:
    journalctl.holds(engine("a"), engine("b", "chat-numa1"), engine("c"), entry("paused"))
    assert journal_reader.list_values("_SYSTEMD_UNIT") == [
        "ovms-scaler.service",
        "ovms@chat-numa0.service",
        "ovms@chat-numa1.service",
    ]


@pytest.mark.parametrize(
    ("text", "ago_sec"), [("10 min ago", 600), ("-2h", 7200), ("now", 0), ("-1d 30s", 86430)]
)
def test_times_are_those_of_systemd(text: str, ago_sec: int) -> None:
    assert journal_reader.read_time(text) == pytest.approx(time.time() - ago_sec, abs=30)


def test_times_of_the_clock() -> None:
    assert journal_reader.read_time("2026-11-21 19:00:00 UTC") == 1_795_287_600.0
    assert journal_reader.read_time("@1795287600.25") == 1_795_287_600.25


@pytest.mark.parametrize("text", ["soon", "", "--help", "2026-13-01", "10 min ago; reboot"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"is no time\n  hint: as "):
        journal_reader.read_time(text)


def test_the_journal_can_be_read_by_whom_its_files_let(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not journal_reader.can_read(tmp_path)
    directory = tmp_path / "run/log/journal/0123456789abcdef"
    directory.mkdir(parents=True)
    # Everybody may have one.
    (directory / "user-1000.journal").touch()
    assert not journal_reader.can_read(tmp_path)
    (directory / "system.journal").touch()
    assert journal_reader.can_read(tmp_path)
    # Root may read everything, so the kernel's answer for others is told.
    monkeypatch.setattr(os, "access", lambda path, _mode: not str(path).endswith("system.journal"))
    assert not journal_reader.can_read(tmp_path)
