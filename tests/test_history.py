# SPDX-License-Identifier: Apache-2.0
"""What happened, from a journal that is played back."""

import os
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from ctl_lab import instance, status, write_config
from journalctl_lab import BEGAN_USEC, Journalctl, RealJournal, engine, entry, manager, proxy

from ovms_scaler import config, history
from ovms_scaler.core.event_text import render_event
from ovms_scaler.core.subject import Subject
from ovms_scaler.errors import HostError, UnknownNameError
from ovms_scaler.history import Selection

CHAT = Subject(instances=frozenset({"chat-numa0"}), ports=frozenset({8003}))
BEGAN = BEGAN_USEC / 1e6


@pytest.fixture(autouse=True)
def readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "can_read", lambda: True)


@pytest.fixture(params=[Journalctl, RealJournal], ids=["ours", "real"])
def journal(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Journalctl | RealJournal:
    """What every journalctl must do."""
    made: Journalctl | RealJournal = request.param(directory=tmp_path / "journalctl")
    made.directory.mkdir()
    made.install()
    monkeypatch.setenv("PATH", str(made.directory), prepend=os.pathsep)
    return made


def crash() -> list[dict[str, object]]:
    """Two instances crash in turn, the second one without a word of its own."""
    return [
        entry("agent started", version="0.1.0"),
        engine("loaded"),
        manager("ovms@chat-numa0.service: Main process exited, code=killed, status=9/KILL"),
        proxy('2026/11/21 19:00:00 [error] 1#1: *1 failed, upstream: "http://127.0.0.1:8003/v3"'),
        proxy('2026/11/21 19:00:00 [error] 1#1: *1 failed, upstream: "http://127.0.0.1:8004/v3"'),
        entry("instance changed", instance="chat-numa0", state="starting", was="ready"),
        engine("another's", "chat-numa1"),
        entry("instance changed", priority=4, instance="chat-numa1", state="failed", was="ready"),
        entry("proxy changed", generation="00c0", added=[], removed=["chat-numa0", "chat-numa1"]),
    ]


def sentences(selection: Selection, subject: Subject | None = None, level: str = "info") -> list[str]:
    return [render_event(event) for event in history.read_events(selection, subject, level)]


def lines(selection: Selection, subject: Subject = CHAT) -> list[str]:
    return [f"{line.source}: {line.text}" for line in history.read_lines(selection, subject)]


def test_events_are_told_in_order(journal: Journalctl | RealJournal) -> None:
    journal.holds(*crash())
    assert sentences(Selection()) == [
        "the agent started, version 0.1.0",
        "chat-numa0 is starting (was ready)",
        "chat-numa1 is failed (was ready)",
        "the proxy runs with new files (generation 00c0); no longer to chat-numa0, chat-numa1",
    ]


def test_events_of_one_instance(journal: Journalctl | RealJournal) -> None:
    journal.holds(*crash())
    told = sentences(Selection(), CHAT)
    assert [one.split()[0] for one in told] == ["chat-numa0", "the"]


def test_events_of_a_level_and_worse(journal: Journalctl | RealJournal) -> None:
    journal.holds(*crash(), entry("agent cannot run", priority=2, error="E"))
    assert len(sentences(Selection(), level="warning")) == 2
    assert len(sentences(Selection(), level="error")) == 1


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_the_last_ones_are_those_that_are_meant(journal: Journalctl | RealJournal, count: int) -> None:
    journal.holds(*crash(), *[entry("paused")] * 5)
    every = sentences(Selection(), CHAT)
    assert sentences(Selection(lines=count), CHAT) == every[len(every) - min(count, len(every)) :]


def test_since_a_time(journal: Journalctl | RealJournal) -> None:
    journal.holds(*crash())
    assert len(sentences(Selection(since=BEGAN + 6.5))) == 2
    assert len(sentences(Selection(since=BEGAN + 6.5, lines=1))) == 1


@pytest.mark.parametrize(
    ("selection", "before"),
    [
        (Selection(lines=1, follow=True), 1),
        (Selection(lines=9, follow=True), 2),
        (Selection(follow=True), 2),
        (Selection(since=BEGAN + 0.5, lines=5, follow=True), 1),
        (Selection(since=BEGAN + 0.5, follow=True), 1),
    ],
)
def test_what_comes_is_followed_without_a_gap_and_without_a_double(
    journal: Journalctl | RealJournal, selection: Selection, before: int
) -> None:
    journal.holds(entry("agent started", version="1"), engine("text"), entry("paused"))
    with closing(history.read_events(selection, None, "info")) as found:
        told = [event["event"] for event in islice(found, before)]
        # Between the end of the past and the beginning of what is followed.
        journal.then_comes(entry("resumed"), engine("text"), entry("agent stopped"))
        told += [event["event"] for event in islice(found, 2)]
    assert told == ["agent started", "paused", "resumed", "agent stopped"][2 - before :]


def test_all_of_the_past_is_told_before_what_comes(journal: Journalctl | RealJournal) -> None:
    # Of what it follows journalctl shows the last 10 by itself.
    journal.holds(*[entry("paused")] * 15)
    with closing(history.read_events(Selection(follow=True), None, "info")) as found:
        first = next(found)
        assert len(list(islice(found, 14))) == 14
    assert first["at"] == BEGAN


def test_what_comes_may_be_all_that_is_asked_for(journalctl: Journalctl) -> None:
    journalctl.holds(entry("agent started", version="1"), entry("paused"))
    journalctl.then_comes(entry("resumed"))
    assert len(sentences(Selection(lines=0, follow=True))) == 1


def test_a_log_has_everybodys_lines_about_it(journal: Journalctl | RealJournal) -> None:
    journal.holds(*crash())
    assert lines(Selection()) == [
        "engine: loaded",
        "systemd: ovms@chat-numa0.service: Main process exited, code=killed, status=9/KILL",
        'proxy: failed, upstream: "http://127.0.0.1:8003/v3"',
        "agent: chat-numa0 is starting (was ready)",
        "agent: the proxy runs with new files (generation 00c0); no longer to chat-numa0, chat-numa1",
    ]
    assert lines(Selection(lines=2)) == lines(Selection())[-2:]


def test_a_journal_that_cannot_be_read_is_an_error(journalctl: Journalctl) -> None:
    journalctl.fails("No journal files were opened due to insufficient permissions.")
    with pytest.raises(HostError, match="insufficient permissions"):
        sentences(Selection(lines=5))


# Names


def test_names_are_those_of_the_agent(journalctl: Journalctl) -> None:
    subject = history.read_subject("chat", status(instance(), instance("chat-numa1", port=8004)))
    assert subject.instances == {"chat-numa0", "chat-numa1"}
    assert subject.ports == {8003, 8004}
    assert journalctl.calls() == []


def test_without_the_agent_names_are_those_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journalctl: Journalctl
) -> None:
    text = '[[pool]]\nname = "chat"\nmodel_name = "a/b"\nmodel_path = "/nowhere"\nplacement = "whole"\n'
    monkeypatch.setattr(config, "CONFIG_FILE", write_config(tmp_path, text))
    subject = history.read_subject("chat-whole", None)
    assert subject.instances == {"chat-whole"}
    assert subject.ports
    assert history.read_subject("chat", {"instances": []}).instances == {"chat-whole"}
    assert journalctl.calls() == []


def test_instances_that_are_no_more_are_found_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: Journalctl | RealJournal
) -> None:
    monkeypatch.setattr(config, "CONFIG_FILE", tmp_path / "none.toml")
    journal.holds(engine("a", "old-numa0"), entry("files removed", instance="old-gpu-0000:03:00.0"))
    assert history.read_subject("old-numa0", None).instances == {"old-numa0"}
    everything = history.read_subject("old", status(instance())).instances
    assert everything == {"old-numa0", "old-gpu-0000:03:00.0"}


def test_a_wrong_name_is_answered_with_what_there_is(journalctl: Journalctl) -> None:
    journalctl.holds(engine("a", "old-numa0"))
    with pytest.raises(UnknownNameError) as raised:
        history.read_subject("cht", status(instance()))
    assert raised.value.hint == "there is chat"
    with pytest.raises(UnknownNameError) as raised:
        history.read_subject("qqq", status(instance()))
    assert raised.value.hint == "there is chat-numa0, old-numa0, chat, old"


def test_who_may_not_read_the_journal_knows_the_present_names(
    journalctl: Journalctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "can_read", lambda: False)
    with pytest.raises(UnknownNameError, match="no instance and no pool named 'old-numa0'"):
        history.read_subject("old-numa0", status(instance()))
    assert journalctl.calls() == []
