# SPDX-License-Identifier: Apache-2.0
"""What checks make of what the agent and systemd say, and the document of all findings."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovms_scaler.core.checks import agent, system
from ovms_scaler.core.checks.finding import (
    Finding,
    Result,
    bad,
    findings_document,
    good,
    sort_findings,
    warning,
)
from ovms_scaler.core.checks.system import Unit
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.spec import Memory

TMPFILES = Path(__file__).parents[2] / "packaging/ovms-scaler.tmpfiles"


def results(*found: Finding) -> list[Result]:
    return [one.result for one in found]


INSTANCE = Instance(
    id="chat-numa0",
    pool="chat",
    node=0,
    cpus=frozenset(range(4)),
    memory=Memory.bind,
    memory_nodes=frozenset({0}),
    inference_threads=4,
    port=8003,
    weight=1,
)
AGENT = Unit(
    name="ovms-scaler.service",
    load_state="loaded",
    active_state="active",
    result="success",
    file_state="enabled",
    need_daemon_reload=False,
)


@pytest.mark.parametrize(
    ("state", "file_state", "result"),
    [
        ("active", "enabled", Result.bad),
        ("failed", "enabled", Result.bad),
        ("activating", "enabled", Result.warning),
        ("inactive", "enabled", Result.warning),
        ("inactive", "disabled", Result.good),
    ],
)
def test_agent_that_gives_no_answer_is_judged_by_its_unit(
    state: str, file_state: str, result: Result
) -> None:
    unit = replace(AGENT, active_state=state, file_state=file_state)
    (found,) = agent.judge_agent(None, "cannot reach the agent", unit)
    assert found.result is result


def test_what_hinders_the_agent_is_found() -> None:
    status: Mapping[str, Any] = {"problems": ["cannot write"], "orders": {"paused_since": 1.0}}
    found = agent.judge_agent(status, "", AGENT)
    assert results(*found) == [Result.bad, Result.warning]
    assert found[1].remedy == "ovms-scalerctl resume"


def test_instances_that_were_given_up_are_found_with_their_own_hint() -> None:
    entries = [
        {"id": "a", "pool": "p", "state": "failed", "reason": "exit status 1", "hint": "look there"},
        {"id": "b", "pool": "p", "state": "waiting"},
        {"id": "c", "pool": "p", "state": "loading"},
        {"id": "d", "pool": "p", "state": "drained"},
        {"id": "e", "pool": None, "state": "failed"},
    ]
    status = {"instances": entries, "proxy": {"error": "bind() failed"}}
    found = agent.judge_instances(status)
    assert [(one.subject, one.result) for one in found] == [
        ("a", Result.bad),
        ("b", Result.warning),
        ("proxy", Result.bad),
    ]
    assert (found[0].reason, found[0].remedy) == ("failed: exit status 1", "look there")
    (proxy,) = agent.judge_instances({"proxy": {"error": "it fails", "hint": "look at its journal"}})
    assert proxy.remedy == "look at its journal"


def test_hint_of_two_steps_is_a_command_and_what_comes_then() -> None:
    entry = {
        "id": "a",
        "pool": "p",
        "state": "failed",
        "hint": "journalctl -u x; then: ovms-scalerctl reset a",
    }
    (found,) = agent.judge_instances({"instances": [entry]})
    assert (found.remedy, found.note) == ("journalctl -u x", "then: ovms-scalerctl reset a")


def test_placement_repeats_nothing_that_other_checks_tell() -> None:
    waiting = replace(INSTANCE, is_waiting=True, problem="its card is away", hint="plug it in")
    broken = replace(INSTANCE, problem="no such model")
    found = agent.judge_placement(
        [waiting, broken], ["a node is left over", "told"], ["no such model", "told"]
    )
    assert [(one.subject, one.result) for one in found] == [
        ("chat-numa0", Result.warning),
        ("plan", Result.warning),
    ]


def test_configuration_that_is_not_in_force_is_found() -> None:
    (found,) = agent.judge_configuration("f", (), pools=1, in_force_error="bad key", is_readable=True)
    assert (found.result, found.remedy) == (Result.warning, "systemctl reload ovms-scaler")
    (found,) = agent.judge_configuration("f", (), pools=1, in_force_error="", is_readable=False)
    assert found.result is Result.unknown


def test_directories_are_those_that_the_package_makes() -> None:
    """Of tmpfiles.d(5): type, path, mode, user, group."""
    if not TMPFILES.exists():  # where the tests of the core alone are run
        return
    lines = [line.split() for line in TMPFILES.read_text().splitlines() if line.startswith("d ")]
    made = {path: (int(mode, 8), user, group) for _, path, mode, user, group, _ in lines}
    assert made == system.DIRECTORIES


def test_units_are_read_from_what_systemctl_prints() -> None:
    text = "Id=a.service\nLoadState=loaded\nActiveState=failed\nResult=signal\n\nId=b.service\n"
    one, two = system.parse_units(text)
    assert (one.name, one.active_state, one.result) == ("a.service", "failed", "signal")
    assert (two.name, two.load_state) == ("b.service", "")


def test_document_counts_and_the_worst_comes_first() -> None:
    found = [good("disk", "a", "b"), warning("swap", "a", "b", "c"), bad("units", "a", "b", "c")]
    ordered = sort_findings([*found, found[0]], ["disk", "swap", "units"])
    assert [one.check for one in ordered] == ["units", "swap", "disk"]
    document = findings_document(ordered, ["disk", "swap", "units"])
    assert document["summary"] == {"checks": 3, "bad": 1, "warning": 1, "unknown": 0, "good": 1}
    assert document["findings"] == [
        {
            "check": one.check,
            "result": one.result,
            "subject": "a",
            "reason": "b",
            "remedy": one.remedy,
            "note": "",
        }
        for one in ordered
    ]
