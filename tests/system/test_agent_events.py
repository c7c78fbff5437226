# SPDX-License-Identifier: Apache-2.0
"""Events and logs on a booted host: what an engine's crash looks like afterwards, also without the agent."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Traffic

FIRST, SECOND = "chat-numa0.0", "chat-numa0.1"
CTL = "ovms-scalerctl"


@pytest.fixture(scope="module")
def host(installed_image: Image) -> Iterator[Host]:
    """One of two engines was killed while clients asked, and is in rotation again."""
    with agent_host.running_host(installed_image, agent_host.pool(), in_rotation=2) as booted:
        with Traffic(booted) as traffic:
            traffic.wait_for_answers(booted, by=FIRST)
            agent_host.kill(booted, agent_host.read_pids(booted)[FIRST])
            agent_host.wait_until_routed(booted, 1)
            agent_host.wait_until_routed(booted, 2)
        yield booted


def read_lines(host: Host, *arguments: str) -> list[dict[str, Any]]:
    """What a verb prints for programs."""
    return [json.loads(line) for line in host.run(CTL, *arguments, "--json").stdout.splitlines()]


def find(events: list[dict[str, Any]], phrase: str, **keys: str) -> int:
    """Where the last such event is."""
    return max(
        number
        for number, event in enumerate(events)
        if event["event"] == phrase and all(text in event.get(key, "") for key, text in keys.items())
    )


def test_a_crash_is_told_from_its_end_to_the_rotation(host: Host) -> None:
    events = read_lines(host, "events", FIRST, "--lines=all")
    assert all(FIRST in json.dumps(event) for event in events)
    crashed = find(events, "instance changed", reason="signal 9")
    left = find(events, "instance out of rotation")
    ready = find(events, "instance changed", state="ready")
    back = find(events, "instance in rotation")
    assert max(crashed, left) < ready < back
    assert f"{FIRST} is in rotation" in host.run(CTL, "events", "chat").stdout.splitlines()[-1]


def test_a_log_has_everybodys_lines_in_the_order_of_time(host: Host) -> None:
    lines = read_lines(host, "logs", "chat", "--lines=all")
    assert {line["source"] for line in lines} == {"engine", "agent", "systemd", "proxy"}
    assert {line["instance"] for line in lines if line["source"] == "engine"} == {FIRST, SECOND}
    assert {line["instance"] for line in read_lines(host, "logs", FIRST, "-n", "all")} == {FIRST, None}
    # What systemd says of the end comes before what the agent makes of it.
    ended = next(number for number, line in enumerate(lines) if "status=9/KILL" in line["text"])
    reported = next(number for number, line in enumerate(lines) if "signal 9" in line["text"])
    assert ended < reported
    shown = host.run(CTL, "logs", FIRST, "--since", "10 min ago").stdout
    for words in (
        f" {FIRST}: ",
        f" agent: {FIRST} is ",
        f" systemd: ovms@{FIRST}.service: Main process exited",
    ):
        assert words in shown


def test_what_happens_is_followed(host: Host) -> None:
    # The first line is of the past: then it listens.
    host.script(
        f"({CTL} events --follow --lines=1 --json | head -n 3 >/run/lab/events) >/dev/null 2>&1 &\n"
        f"({CTL} logs {FIRST} --follow --lines=1 --json | head -n 2 >/run/lab/logs) >/dev/null 2>&1 &"
    )
    host.wait_for("test $(pgrep -c journalctl) -ge 2", 30, "both to follow the journal")
    host.script(f"{CTL} pause; {CTL} resume; {CTL} reset {FIRST}")
    host.wait_for("test $(wc -l </run/lab/events) = 3 -a $(wc -l </run/lab/logs) = 2", 30, "what happens")
    told = [json.loads(line)["event"] for line in host.read("/run/lab/events").splitlines()]
    assert told[1:] == ["paused", "resumed"]
    assert "ordered: reset" in host.read("/run/lab/logs").splitlines()[-1]
    # They learn that nobody reads when there is more to say.
    host.run(CTL, "reset", FIRST)
    host.wait_for("! pgrep journalctl", 30, "nobody to be left behind")


def test_who_may_not_read_the_journal_is_told_so_and_sees_events(host: Host) -> None:
    events = host.run("runuser", "-u", "nobody", "--", CTL, "events", FIRST)
    assert f"{FIRST} is in rotation" in events.stdout
    assert "join the group systemd-journal" in events.stderr
    logs = host.run("runuser", "-u", "nobody", "--", CTL, "logs", FIRST, check=False)
    assert logs.returncode == 1
    assert f"agent: {FIRST} is in rotation" in logs.stdout
    assert "Main process exited" not in logs.stdout
    # The group is enough.
    member = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--groups=systemd-journal", "--", CTL)
    logs = host.run(*member, "logs", FIRST)
    assert logs.stderr == ""
    assert "Main process exited" in logs.stdout


def test_both_work_without_the_agent_and_the_next_one_remembers_it(host: Host) -> None:
    host.run("systemctl", "stop", agent_host.AGENT)
    try:
        assert read_lines(host, "events", "-n", "1")[0]["event"] == "agent stopped"
        assert {line["source"] for line in read_lines(host, "logs", "chat", "-n", "all")} >= {
            "engine",
            "agent",
        }
        wrong = host.run(CTL, "logs", "cat", check=False)
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "hint: there is chat" in wrong.stderr
        nobody = host.run("runuser", "-u", "nobody", "--", CTL, "events", check=False)
        assert nobody.returncode == 3
    finally:
        host.run("systemctl", "start", agent_host.AGENT)

    def phrases() -> list[str]:
        answer = host.http("GET", "/v1/events?limit=500", unix=agent_host.SOCKET).json()
        return [event["event"] for event in answer["events"]]

    # In its sandbox, from the journal.
    host.wait_for(lambda: "agent stopped" in phrases(), 30, "the past to be recalled")
    assert phrases().index("agent stopped") < max(
        n for n, one in enumerate(phrases()) if one == "agent started"
    )
    agent_host.wait_until_routed(host, 2)


def test_an_instance_that_is_no_more_is_found_by_its_name(host: Host) -> None:
    agent_host.reload(host, agent_host.pool(instances=1), "--allow-outage", "--wait")
    try:
        assert FIRST not in host.run(CTL, "status").stdout
        assert "Main process exited" in host.run(CTL, "logs", FIRST, "-n", "all").stdout
        assert host.run(CTL, "events", FIRST).stdout
    finally:
        agent_host.reload(host, agent_host.pool(), "--allow-outage", "--wait")
