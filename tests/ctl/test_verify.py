# SPDX-License-Identifier: Apache-2.0
"""verify: a row for each instance, each drift with both words for it and what to type."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ctl_lab import Ctl, FakeAgent, status
from drift_lab import ONE, PID, ZERO, make_seen, make_view

from ovms_scaler import verification
from ovms_scaler.core.drift import find_drifts
from ovms_scaler.core.process_view import ProcessView, Thread
from ovms_scaler.errors import UnknownNameError
from ovms_scaler.verification import Checked, Report

STRAY = Thread(tid=PID + 7, name="ovms", cpus=frozenset([6]), memory_nodes=frozenset([0]))


def report(view: ProcessView | None = None, *, unseen: tuple[str, ...] = ()) -> Report:
    """Two instances, the first with another view of it."""
    seen = make_seen(ZERO, process=view)
    return Report(
        checked=(
            Checked(wanted=ZERO, seen=seen),
            Checked(wanted=ONE, seen=make_seen(ONE, process=None), skipped="drained"),
        ),
        drifts=find_drifts(ZERO, seen, in_rotation=True),
        unseen=unseen,
    )


class Found:
    """What the comparison finds, and what it was asked."""

    def __init__(self) -> None:
        self.report = report()
        self.asked: list[tuple[str | None, Mapping[str, Any] | None]] = []

    def verify(self, _file: Path, name: str | None, document: Mapping[str, Any] | None) -> Report:
        self.asked.append((name, document))
        if name == "chta":
            raise UnknownNameError("there is no instance or pool 'chta'", hint="ovms-scalerctl status")
        return self.report


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, agent: FakeAgent) -> Found:
    agent.say(status())
    made = Found()
    monkeypatch.setattr(verification, "verify", made.verify)
    return made


def test_all_as_planned_is_good_news(found: Found, agent: FakeAgent, ctl: Ctl) -> None:
    shown = ctl("verify", "--socket", agent.socket)
    assert (shown.status, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[0].split() == ["Instance", "Threads", "CPUs", "Memory", "There", "Listens", "Drifts"]
    assert lines[1].split() == ["chat-numa0", "2", "0-3", "bind:0", "100%", "127.0.0.1:8003", "none"]
    assert lines[2].split()[-1] == "drained"
    assert lines[-1] == "All is as planned."
    assert max(map(len, lines)) <= 80


def test_drift_is_bad_news_with_what_to_type(found: Found, agent: FakeAgent, ctl: Ctl) -> None:
    found.report = report(make_view(ZERO, threads=(*make_view(ZERO).threads, STRAY)))
    shown = ctl("verify", "--socket", agent.socket)
    assert shown.status == 1
    assert shown.out.partition("chat-numa0: ")[2].splitlines() == [
        "CPUs of its threads",
        "  planned: 0-3",
        f"  found:   thread {PID + 7} (ovms) on 6",
        "  next: ovms-scalerctl restart chat-numa0 --wait",
    ]
    assert "All is as planned" not in shown.out


def test_json_is_one_document(found: Found, agent: FakeAgent, ctl: Ctl) -> None:
    found.report = report(make_view(ZERO, listening=()), unseen=("chat-numa0: memory: run this as root",))
    shown = ctl("verify", "chat-numa0", "--json", "--socket", agent.socket)
    document = shown.json()
    assert shown.status == 1
    (drift,) = document["drifts"]
    assert (drift["subject"], drift["planned"], drift["found"]) == (
        "chat-numa0",
        "127.0.0.1:8003",
        "not there",
    )
    first = document["instances"][0]
    assert (first["id"], first["pid"], first["cpus"], first["drifts"]) == ("chat-numa0", PID, "0-3", 1)
    assert (first["memory_by_node"], first["memory_share"]) == ({"0": 2**30}, 1.0)
    assert document["unseen"] == ["chat-numa0: memory: run this as root"]
    assert found.asked[0][0] == "chat-numa0"


def test_what_was_not_looked_at_is_said_and_nothing_is_claimed(
    found: Found, agent: FakeAgent, ctl: Ctl
) -> None:
    found.report = report(unseen=("proxy: run this as root",))
    shown = ctl("verify", "--socket", agent.socket)
    assert shown.status == 0
    assert shown.out.endswith("Not looked at:\n  proxy: run this as root\n")
    assert "All is as planned" not in shown.out


def test_without_the_agent_its_last_plan_is_compared(found: Found, tmp_path: Path, ctl: Ctl) -> None:
    shown = ctl("verify", "--socket", tmp_path / "none.sock")
    assert shown.status == 0
    assert "compared with what it planned last" in shown.err
    assert found.asked == [(None, None)]


def test_unknown_name_is_bad_news(found: Found, agent: FakeAgent, ctl: Ctl) -> None:
    refused = ctl("verify", "chta", "--socket", agent.socket)
    assert (refused.status, refused.out) == (1, "")
    assert "ovms-scalerctl status" in refused.err
