# SPDX-License-Identifier: Apache-2.0
"""From what is seen of a unit, its process and its engine to a state, a reason and a next step."""

from dataclasses import replace
from typing import Any

import pytest
import world

from ovms_scaler.core.facts import ExecFacts, Health, InstanceFacts, Probe, ProcessFacts, UnitFacts
from ovms_scaler.core.lifecycle import State, is_current, is_outdated, judge
from ovms_scaler.core.readback import misplacement
from ovms_scaler.core.target import Wanted

UNIT = "ovms@chat-numa0.service"
WANTED = world.target().wanted["chat-numa0"]
WHOLE = world.target({"placement": "whole"}).wanted["chat-whole"]
PREFERRED = world.target({"memory": "preferred"}).wanted["chat-numa0"]
BROKEN = replace(WANTED, instance=replace(WANTED.instance, problem="no such directory", hint="look there"))
LOG = f"journalctl -u {UNIT}"
AGAIN = f"{LOG}; then: ovms-scalerctl reset chat-numa0"


def unit(active_state: str = "active", **facts: Any) -> UnitFacts:
    running = {"main_pid": 1, "invocation_id": "i1"} if active_state == "active" else {}
    return UnitFacts(
        unit=UNIT, load_state="loaded", active_state=active_state, sub_state="", **{**running, **facts}
    )


def health(probe: Probe = Probe.available, **facts: Any) -> Health:
    return Health(**{"invocation_id": "i1", "probe": probe, "detail": "details", **facts})


def seen(of: UnitFacts | None, **facts: Any) -> InstanceFacts:
    """With the files that are wanted, unless told otherwise."""
    return InstanceFacts(**{"unit": of, "files": WANTED.files, **facts})


def exec_facts(wanted: Wanted = WANTED, **facts: Any) -> ExecFacts:
    instance = wanted.instance
    right: dict[str, Any] = {
        "cpu_affinity": instance.cpus,
        "numa_policy": instance.memory.value if instance.memory else "default",
        "numa_mask": instance.memory_nodes,
        "allowed_cpus": instance.cpus,
        "allowed_memory_nodes": instance.memory_nodes,
        "argv": wanted.argv,
        "drop_in_paths": (),
    }
    return ExecFacts(**{**right, **facts})


def process(cpus: str = "0123", nodes: str = "01") -> ProcessFacts:
    return ProcessFacts(
        pid=1,
        cpus_allowed=frozenset(map(int, cpus)),
        memory_nodes_allowed=frozenset(map(int, nodes)),
    )


NOT_RUNNING = [
    pytest.param(
        WANTED, seen(None), State.absent, "systemd has not answered yet", "", id="systemd is silent"
    ),
    pytest.param(WANTED, seen(unit("inactive")), State.absent, "not started yet", "", id="never ran"),
    pytest.param(
        WANTED,
        seen(replace(unit("inactive"), load_state="not-found")),
        State.absent,
        "not started yet",
        "",
        id="no unit file yet",
    ),
    pytest.param(
        WANTED,
        seen(unit("inactive"), started=True),
        State.stopped,
        "stopped by the administrator",
        f"systemctl start {UNIT}",
        id="it ran and somebody stopped it",
    ),
    pytest.param(
        WANTED,
        seen(unit("failed", result="timeout"), started=True),
        State.stopped,
        "stopped by the administrator",
        f"systemctl start {UNIT}",
        id="somebody stopped it while it loaded",
    ),
    pytest.param(
        WANTED,
        seen(replace(unit("inactive"), load_state="masked")),
        State.stopped,
        "masked by the administrator",
        f"systemctl unmask {UNIT}",
        id="masked",
    ),
    pytest.param(
        WANTED,
        seen(replace(unit("inactive"), load_state="bad-setting")),
        State.failed,
        f"systemd cannot load {UNIT}: bad-setting",
        f"systemctl status {UNIT}",
        id="a drop-in of somebody else's is wrong",
    ),
    pytest.param(
        WANTED,
        seen(unit("failed", result="exit-code", exec_main_code=1, exec_main_status=64)),
        State.failed,
        "ovms ended with exit status 64, a usage error: ovms refused its arguments",
        AGAIN,
        id="usage error",
    ),
    pytest.param(
        WANTED,
        seen(unit("failed", result="exit-code", exec_main_code=1, exec_main_status=132)),
        State.failed,
        "ovms ended with exit status 132, this CPU lacks an instruction it needs",
        AGAIN,
        id="instruction missing",
    ),
    pytest.param(
        WANTED,
        seen(unit("failed", result="exit-code", exec_main_code=1, exec_main_status=1)),
        State.failed,
        "ovms ended with exit status 1",
        AGAIN,
        id="model not loaded",
    ),
    pytest.param(
        WANTED,
        seen(unit("failed", result="oom-kill", exec_main_code=2, exec_main_status=9)),
        State.failed,
        "ovms was ended by signal 9 (oom-kill)",
        AGAIN,
        id="out of memory",
    ),
    pytest.param(
        WANTED,
        seen(unit("failed", result="resources")),
        State.failed,
        "systemd says resources",
        AGAIN,
        id="systemd itself failed",
    ),
    pytest.param(
        WANTED,
        seen(unit("failed", result="start-limit-hit", exec_main_code=3, exec_main_status=11)),
        State.quarantined,
        "it kept failing and is not started again: ovms was ended by signal 11 (start-limit-hit)",
        AGAIN,
        id="crash loop",
    ),
    pytest.param(
        WANTED,
        seen(unit("failed", result="exit-code", exec_main_code=1, exec_main_status=1, restarts=5)),
        State.quarantined,
        "it kept failing and is not started again: ovms ended with exit status 1",
        AGAIN,
        id="crash loop with the result of its last process",
    ),
    pytest.param(
        WANTED,
        seen(unit("failed", result="exit-code", exec_main_code=1, exec_main_status=64, restarts=1)),
        State.failed,
        "ovms ended with exit status 64, a usage error: ovms refused its arguments",
        AGAIN,
        id="usage error after a restart",
    ),
    pytest.param(
        BROKEN,
        seen(unit("inactive")),
        State.failed,
        "no such directory",
        "look there",
        id="a problem forbids it",
    ),
    pytest.param(
        BROKEN,
        seen(None),
        State.failed,
        "no such directory",
        "look there",
        id="a problem, and systemd is silent",
    ),
]

RUNNING = [
    pytest.param(
        WANTED, seen(unit("activating")), State.starting, "its unit is starting", "", id="first start"
    ),
    pytest.param(
        WANTED,
        seen(unit("activating", restarts=3, result="signal", exec_main_code=2, exec_main_status=9)),
        State.starting,
        "restart 3: ovms was ended by signal 9 (signal)",
        LOG,
        id="restarting after a crash",
    ),
    pytest.param(
        WANTED,
        seen(unit("deactivating", result="signal", exec_main_code=2, exec_main_status=9)),
        State.stopping,
        "ovms was ended by signal 9 (signal)",
        "",
        id="crashed just now",
    ),
    pytest.param(
        WANTED, seen(unit("deactivating")), State.stopping, "its unit is stopping", "", id="stopping"
    ),
    pytest.param(WANTED, seen(unit()), State.starting, "not asked yet", "", id="no probe yet"),
    pytest.param(
        WANTED,
        seen(unit(), health=health(invocation_id="i0", warmed=True)),
        State.starting,
        "not asked yet",
        "",
        id="the probe was of an earlier process",
    ),
    pytest.param(
        WANTED,
        seen(unit(), health=health(Probe.refused)),
        State.starting,
        "details",
        "",
        id="nobody listens yet",
    ),
    pytest.param(
        WANTED,
        seen(unit(), health=health(Probe.silent)),
        State.starting,
        "details",
        "",
        id="no answer before it served",
    ),
    pytest.param(
        WANTED,
        seen(unit(), health=health(Probe.nonsense)),
        State.starting,
        "details",
        "",
        id="something else listens there",
    ),
    pytest.param(
        WANTED, seen(unit(), health=health(Probe.loading)), State.loading, "details", "", id="loading"
    ),
    pytest.param(
        WANTED, seen(unit(), health=health(Probe.failed)), State.failed, "details", LOG, id="load failed"
    ),
    pytest.param(
        WANTED,
        seen(unit(), health=health(detail="")),
        State.warming,
        "its first generation is under way",
        "",
        id="warming",
    ),
    pytest.param(
        WANTED,
        seen(unit(), health=health(detail="its first generation failed: 400")),
        State.warming,
        "its first generation failed: 400",
        "",
        id="the first generation failed",
    ),
    pytest.param(WANTED, seen(unit(), health=health(warmed=True)), State.ready, "", "", id="serves"),
    pytest.param(
        WANTED, seen(unit("reloading", main_pid=1, invocation_id="i1"), health=health(warmed=True)),
        State.ready, "", "", id="serves while systemd reloads it",
    ),
    pytest.param(
        BROKEN, seen(unit(), health=health(warmed=True)), State.ready, "", "",
        id="serves what now has a problem",
    ),
    pytest.param(
        WANTED,
        seen(unit(), health=health(Probe.silent, warmed=True, failures=1)),
        State.suspect,
        "a probe failed: details",
        LOG,
        id="one probe failed",
    ),
    pytest.param(
        WANTED,
        seen(unit(), health=health(Probe.refused, warmed=True, failures=3)),
        State.ejected,
        "3 probes in a row failed: details",
        LOG,
        id="too many probes failed",
    ),
    pytest.param(
        WANTED,
        seen(unit(), health=health(Probe.silent, warmed=True, failures=9, works=True)),
        State.suspect,
        "9 probes in a row failed: details",
        LOG,
        id="busy",
    ),
    pytest.param(
        WANTED,
        seen(unit(), health=health(Probe.refused, warmed=True, failures=9, works=True)),
        State.ejected,
        "9 probes in a row failed: details",
        LOG,
        id="busy, and closes its port",
    ),
    pytest.param(
        WANTED,
        seen(unit(), health=health(warmed=True, doubt="not for long")),
        State.suspect,
        "not for long",
        "",
        id="answers again",
    ),
    pytest.param(
        WANTED,
        seen(unit(), health=health(warmed=True, doubt="not for long", fault="errs")),
        State.ejected,
        "errs",
        LOG,
        id="answers probes again",
    ),
    pytest.param(
        WANTED,
        seen(unit(), health=health(warmed=True), exec=exec_facts(cpu_affinity=frozenset({9}))),
        State.failed,
        "it is not where it belongs: systemd reads CPUAffinity=9, planned was 0-3",
        f"systemctl cat {UNIT}",
        id="an override moved it",
    ),
    pytest.param(
        WANTED,
        seen(
            unit(),
            health=health(warmed=True),
            exec=exec_facts(cpu_affinity=frozenset({9})),
            files={"/old": "text"},
        ),
        State.ready,
        "",
        "",
        id="still where an earlier plan put it",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "facts", "state", "reason", "hint"), NOT_RUNNING + RUNNING)
def test_judge(wanted: Wanted, facts: InstanceFacts, state: State, reason: str, hint: str) -> None:
    verdict = judge(wanted, facts, failures=3)
    assert (verdict.state, verdict.reason, verdict.hint) == (state, reason, hint)


@pytest.mark.parametrize(
    "active_state", ["active", "inactive", "failed", "activating", "deactivating", "maintenance"]
)
@pytest.mark.parametrize("load_state", ["loaded", "not-found", "masked", "error"])
@pytest.mark.parametrize("probe", [None, *Probe])
def test_every_combination_is_explained(active_state: str, load_state: str, probe: Probe | None) -> None:
    own = health(probe) if probe else None
    for started in (False, True):
        facts = seen(replace(unit(active_state), load_state=load_state), health=own, started=started)
        verdict = judge(WANTED, facts, failures=3)
        assert verdict.state is State.ready or verdict.reason


MISPLACED = [
    pytest.param(WANTED, None, None, None, id="nothing known"),
    pytest.param(WANTED, exec_facts(), process(), None, id="as planned"),
    pytest.param(WHOLE, exec_facts(WHOLE), process("0"), None, id="unbound: any CPU will do"),
    pytest.param(
        WHOLE, exec_facts(WHOLE, cpu_affinity=frozenset({1})), process("1"), None,
        id="unbound: an administrator's override stays",
    ),
    pytest.param(
        WANTED, exec_facts(allowed_cpus=frozenset()), None, None, id="no cpuset: affinity will do"
    ),
    pytest.param(
        WANTED, exec_facts(numa_policy="preferred"), None,
        "systemd reads NUMAPolicy=preferred, planned was bind", id="another memory policy",
    ),
    pytest.param(
        WANTED, exec_facts(numa_mask=frozenset({0, 1})), None,
        "systemd reads NUMAMask=0-1, planned was 0", id="another memory node",
    ),
    pytest.param(
        WANTED, exec_facts(argv=("/opt/ovms/bin/ovms",)), None,
        "systemd reads another command line than planned", id="another command line",
    ),
    pytest.param(
        WANTED, None, process("012"),
        "the kernel runs it on CPUs 0-2, planned were 0-3", id="a CPU is missing",
    ),
    pytest.param(
        WANTED, None, process("01234"),
        "the kernel runs it on CPUs 0-4, planned were 0-3", id="a CPU too many",
    ),
    pytest.param(
        WANTED, None, process(nodes="1"),
        "the kernel allows it memory of nodes 1, planned was 0", id="its memory is out of reach",
    ),
    pytest.param(
        PREFERRED, exec_facts(PREFERRED), process(nodes="1"), None, id="memory is only preferred"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "understood", "running", "expected"), MISPLACED)
def test_misplacement(
    wanted: Wanted, understood: ExecFacts | None, running: ProcessFacts | None, expected: str | None
) -> None:
    assert misplacement(wanted, InstanceFacts(exec=understood, process=running)) == expected


def test_a_dollar_in_an_argument_is_read_back_as_systemd_keeps_it() -> None:
    wanted = replace(WANTED, argv=("/srv/$$/ovms", "$HOME", "a$$b"))
    understood = exec_facts(wanted, argv=("/srv/$$/ovms", "$$HOME", "a$$$$b"))
    assert misplacement(wanted, InstanceFacts(exec=understood)) is None


@pytest.mark.parametrize(
    ("wanted", "facts", "expected"),
    [
        pytest.param(WANTED, seen(unit()), False, id="the files are right"),
        pytest.param(WANTED, seen(unit(), files={}), True, id="no files"),
        pytest.param(WANTED, seen(unit(), files={**WANTED.files, "/x": ""}), True, id="a file too many"),
        pytest.param(
            BROKEN, seen(unit(), files={}), False, id="it runs and a problem forbids to start anew"
        ),
        pytest.param(BROKEN, seen(unit("inactive"), files={}), True, id="it does not run"),
    ],
)
def test_is_outdated(wanted: Wanted, facts: InstanceFacts, *, expected: bool) -> None:
    assert is_outdated(wanted, facts) is expected


def test_is_current() -> None:
    assert is_current(health(), unit())
    assert not is_current(health(invocation_id="i0"), unit())
    assert not is_current(None, unit())


def test_judge_of_what_the_administrator_overrode_accepts_it_and_says_so() -> None:
    path = "/etc/systemd/system/ovms@chat-numa0.service.d/override.conf"
    own = exec_facts(cpu_affinity=frozenset({0}), numa_policy="default", drop_in_paths=(path,))
    verdict = judge(WANTED, seen(unit(), exec=own, health=health(warmed=True)), failures=3)
    assert (verdict.state, verdict.reason) == (State.ready, f"as overridden in {path}")


def test_one_whose_files_are_not_read_back_yet_is_believed() -> None:
    """The first look of an agent that returns: a drop-in of the administrator's may want it where it is."""
    elsewhere = seen(unit(), process=process("0"), health=health(warmed=True))
    assert judge(WANTED, elsewhere, failures=3).state is State.ready
    read = replace(elsewhere, exec=exec_facts())
    assert judge(WANTED, read, failures=3).state is State.failed
