# SPDX-License-Identifier: Apache-2.0
"""What is other than planned, one thing at a time: named once, with both words for it."""

from dataclasses import replace
from typing import Any

import pytest
import world
from drift_lab import INVOCATION, ONE, PID, TARGET, ZERO, make_seen, make_view, members

from ovms_scaler.core.drift import Drift, find_drifts, find_file_drifts, find_shared_cores
from ovms_scaler.core.drift_proxy import ProxyView, find_proxy_drifts
from ovms_scaler.core.process_view import Listening, MemoryUse, Thread
from ovms_scaler.core.route import add_generation
from ovms_scaler.core.target import render_proxy_files
from ovms_scaler.core.unit import drop_in_path

ZERO_CPUS = ZERO.instance.cpus  # 0-3
OVERRIDE = "/etc/systemd/system/ovms@chat-numa0.service.d/override.conf"


def find(*, in_rotation: bool = True, **changes: Any) -> tuple[Drift, ...]:
    """The drifts of an instance, of whose process or unit something is changed."""
    of_seen = {"unit", "exec", "files", "process"}
    seen = {name: value for name, value in changes.items() if name in of_seen}
    view = {name: value for name, value in changes.items() if name not in of_seen}
    if view:
        seen["process"] = make_view(ZERO, **view)
    return find_drifts(ZERO, make_seen(ZERO, **seen), in_rotation=in_rotation)


def thread(tid: int = PID + 7, **changes: Any) -> Thread:
    given: dict[str, Any] = {"name": "ovms", "cpus": ZERO_CPUS, "memory_nodes": frozenset([0])} | changes
    return Thread(tid=tid, **given)


HEALTHY = make_view(ZERO).threads
UNIT = make_seen(ZERO).unit
EXEC = make_seen(ZERO).exec
assert EXEC is not None


def test_instance_as_planned_has_no_drift() -> None:
    assert find() == ()
    assert (
        find_shared_cores(
            {"chat-numa0": make_view(ZERO), "chat-numa1": make_view(ONE)}, world.topology().cores
        )
        == ()
    )


CASES = [
    (
        "a thread elsewhere",
        {"threads": (*HEALTHY, thread(cpus=frozenset([5])))},
        ("CPUs of its threads", "0-3", f"thread {PID + 7} (ovms) on 5"),
    ),
    (
        "two threads on too much",
        {"threads": (*HEALTHY, thread(cpus=frozenset(range(8))), thread(PID + 8, cpus=frozenset(range(8))))},
        ("CPUs of its threads", "0-3", f"2 of 4, as {PID + 7} (ovms), on 0-7"),
    ),
    (
        "the whole process elsewhere",
        {"threads": tuple(replace(one, cpus=frozenset([4, 5])) for one in HEALTHY)},
        ("CPUs of its threads", "0-3", "all on 4-5"),
    ),
    (
        "the first thread on too little",
        {"threads": (replace(HEALTHY[0], cpus=frozenset([0])), HEALTHY[1])},
        ("CPUs of its threads", "0-3", "its first thread on 0 only"),
    ),
    (
        "a thread that must not use its node's memory",
        {"threads": (*HEALTHY, thread(memory_nodes=frozenset([1])))},
        ("memory nodes of its threads", "0", f"thread {PID + 7} (ovms) on 1"),
    ),
    (
        "another slice",
        {"cgroup": "/system.slice/x.service"},
        ("control group", "/ovms.slice/ovms@chat-numa0.service", "/system.slice/x.service"),
    ),
    ("cpuset of the group", {"cpuset_cpus": frozenset([0])}, ("cpuset.cpus of its group", "0-3", "0")),
    (
        "memory nodes of the group",
        {"cpuset_nodes": frozenset([0, 1])},
        ("cpuset.mems of its group", "0", "0-1"),
    ),
    (
        "policy",
        {"memory": MemoryUse(policies=frozenset({"default", "bind:0"}), bytes_by_node={0: 1})},
        ("memory policy", "bind:0", "default"),
    ),
    (
        "pages elsewhere",
        {"memory": MemoryUse(policies=frozenset({"bind:0"}), bytes_by_node={0: 3 << 20, 1: 1 << 20})},
        ("its memory", "on node 0", "75% there: 3 MiB on node 0, 1 MiB on node 1"),
    ),
    ("open files", {"open_files": 1024}, ("open files", str(ZERO.open_files), "1024")),
    (
        "environment",
        {"environment": dict(ZERO.environment) | {"LD_LIBRARY_PATH": "/secret"}},
        ("environment: LD_LIBRARY_PATH", "as in the plan", "another value"),
    ),
    (
        "command line",
        {"argv": (*ZERO.argv[:2], "9999", *ZERO.argv[3:])},
        ("command line", f"{ZERO.instance.port} --rest_bind_address", "9999 --rest_bind_address"),
    ),
    ("not listening", {"listening": ()}, ("where it listens", "127.0.0.1:8003", "not there")),
    (
        "open to the network",
        {"listening": (Listening(address="127.0.0.1", port=8003), Listening(address="0.0.0.0", port=9178))},
        ("where it listens", "127.0.0.1:8003", "also 0.0.0.0:9178, for itself and others"),
    ),
    (
        "a GPU",
        {"render_nodes": ("/dev/dri/renderD128",)},
        ("open GPUs", "no GPU", "/dev/dri/renderD128 as well"),
    ),
    (
        "a drop-in by hand",
        {"exec": replace(EXEC, drop_in_paths=(*EXEC.drop_in_paths, OVERRIDE))},
        ("drop-ins of its unit", "the agent's", OVERRIDE),
    ),
    (
        "files that systemd has not read",
        {"unit": replace(UNIT, need_daemon_reload=True)},
        ("unit files", "as systemd read them", "changed since"),
    ),
    (
        "affinity in systemd",
        {"exec": replace(EXEC, cpu_affinity=frozenset())},
        ("CPUAffinity= as systemd read it", "0-3", "none"),
    ),
    (
        "allowed CPUs in systemd",
        {"exec": replace(EXEC, allowed_cpus=frozenset([9]))},
        ("AllowedCPUs= as systemd read it", "0-3", "9"),
    ),
    (
        "policy in systemd",
        {"exec": replace(EXEC, numa_policy="")},
        ("NUMAPolicy= as systemd read it", "bind", "none"),
    ),
    (
        "mask in systemd",
        {"exec": replace(EXEC, numa_mask=frozenset([1]))},
        ("NUMAMask= as systemd read it", "0", "1"),
    ),
    (
        "memory nodes in systemd",
        {"exec": replace(EXEC, allowed_memory_nodes=frozenset())},
        ("AllowedMemoryNodes= as systemd read it", "0", "none"),
    ),
    (
        "a file that was edited",
        {"files": {**ZERO.files, drop_in_path("chat-numa0"): "[Service]\n"}},
        (drop_in_path("chat-numa0"), "as in the plan", "another text"),
    ),
    (
        "a file that was removed",
        {"files": {path: text for path, text in ZERO.files.items() if not path.endswith(".conf")}},
        (drop_in_path("chat-numa0"), "as in the plan", "missing"),
    ),
]


@pytest.mark.parametrize(
    ("changes", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_each_drift_is_named_alone(changes: dict[str, Any], expected: tuple[str, str, str]) -> None:
    (drift,) = find(**changes)
    assert (drift.what, drift.planned, drift.found) == expected
    assert (drift.subject, bool(drift.hint)) == ("chat-numa0", True)


def test_what_an_environment_holds_is_not_shown() -> None:
    (drift,) = find(environment=dict(ZERO.environment) | {"LD_LIBRARY_PATH": "/secret"})
    assert "secret" not in repr(drift)


def test_what_could_not_be_looked_at_is_no_drift() -> None:
    unknown: dict[str, Any] = dict.fromkeys(
        ("environment", "memory", "listening", "render_nodes", "open_files", "cpuset_cpus", "cpuset_nodes")
    )
    assert find(**unknown) == ()
    assert find(exec=None) == ()


def test_program_that_is_a_script_runs_as_planned() -> None:
    assert find(argv=("/usr/bin/python3", *ZERO.argv)) == ()


def test_more_open_files_than_planned_are_no_drift() -> None:
    assert find(open_files=2**63 - 1) == ()


def test_gpu_that_is_not_open_is_a_drift_only_of_who_serves() -> None:
    wanted = replace(ZERO, instance=replace(ZERO.instance, render_nodes=("/dev/dri/renderD128",)))
    seen = make_seen(wanted, process=make_view(wanted, render_nodes=()))
    (drift,) = find_drifts(wanted, seen, in_rotation=True)
    assert (drift.planned, drift.found) == ("/dev/dri/renderD128", "not open")
    assert find_drifts(wanted, seen, in_rotation=False) == ()


def test_preferred_memory_has_its_own_policy() -> None:
    wanted = world.target({"memory": "preferred"}).wanted["chat-numa0"]
    good = MemoryUse(policies=frozenset({"prefer:0"}), bytes_by_node={0: 1})
    view = make_view(wanted, memory=good, cpuset_nodes=frozenset([0, 1]))
    assert find_drifts(wanted, make_seen(wanted, process=view), in_rotation=True) == ()


def test_instance_that_is_not_bound_may_run_anywhere() -> None:
    wanted = world.target({"placement": "whole"}).wanted["chat-whole"]
    anywhere = frozenset(range(8))
    view = replace(
        make_view(
            replace(ZERO, argv=wanted.argv, environment=wanted.environment, open_files=wanted.open_files)
        ),
        threads=(thread(PID, cpus=anywhere, memory_nodes=frozenset([0, 1])),),
        cgroup="/ovms.slice/ovms@chat-whole.service",
        cpuset_cpus=anywhere,
        memory=MemoryUse(policies=frozenset({"default"}), bytes_by_node={0: 1, 1: 9}),
        listening=(Listening(address="127.0.0.1", port=wanted.instance.port),),
    )
    assert find_drifts(wanted, make_seen(wanted, process=view), in_rotation=True) == ()


def test_instances_on_one_core_are_both_named() -> None:
    # CPU 1 is the second thread of the core that CPU 0 belongs to.
    views = {
        "chat-numa0": make_view(ZERO, threads=(thread(cpus=frozenset([0])),)),
        "chat-numa1": make_view(ONE, threads=(thread(cpus=frozenset([1, 4])),)),
    }
    (drift,) = find_shared_cores(views, world.topology().cores)
    assert (drift.subject, drift.planned, drift.found) == (
        "chat-numa0",
        "none with chat-numa1",
        "CPUs 0 with chat-numa1",
    )


def test_files_alone_are_compared_of_who_is_about_to_be_changed() -> None:
    seen = make_seen(ZERO, files={}, process=make_view(ZERO, listening=()))
    assert {drift.found for drift in find_file_drifts(ZERO, seen)} == {"missing"}


# The proxy

GOOD = render_proxy_files(TARGET, members(TARGET))
UNITS = {name: make_seen(wanted).unit for name, wanted in TARGET.wanted.items()}
BOTH = frozenset(TARGET.wanted)
ROUTE = "routes/chat/chat-numa0.conf"


def find_of_proxy(
    files: dict[str, str] | None = None,
    *,
    running: str | None = GOOD.generation,
    routed: frozenset[str] = BOTH,
) -> list[tuple[str, str, str]]:
    view = ProxyView(files=files if files is not None else GOOD.files, running=running)
    drifts = find_proxy_drifts(TARGET, view, UNITS, routed)
    assert all(drift.subject == "proxy" and drift.hint for drift in drifts)
    return [(drift.what.rpartition("/")[2], drift.planned, drift.found) for drift in drifts]


def edit(path: str, text: str) -> dict[str, str]:
    """The proxy's files with one of them changed, and the generation that they add up to then."""
    return dict(add_generation({**GOOD.files, path: text}).files)


def test_proxy_as_planned_has_no_drift() -> None:
    assert find_of_proxy() == []


def test_route_that_was_edited_is_named_with_both_lines() -> None:
    text = GOOD.files[ROUTE].replace("weight=1", "weight=7")
    found = find_of_proxy({**GOOD.files, ROUTE: text})
    assert [what for what, _, _ in found] == ["chat-numa0.conf", "generation.conf"]
    assert "weight=1" in found[0][1]
    assert "weight=7" in found[0][2]


def test_route_of_who_is_not_in_rotation_is_named() -> None:
    assert ("chat-numa1.conf", "no such route") in [
        (what, planned) for what, planned, _ in find_of_proxy(routed=frozenset({"chat-numa0"}))
    ]


def test_route_that_is_missing_is_named() -> None:
    files = dict(add_generation({path: text for path, text in GOOD.files.items() if path != ROUTE}).files)
    found = find_of_proxy(files, running=add_generation(files).generation)
    assert [(what, seen) for what, _, seen in found] == [("chat-numa0.conf", "missing")]


def test_route_to_a_process_that_has_ended_is_named() -> None:
    files = edit(ROUTE, GOOD.files[ROUTE].replace(INVOCATION, "f" * 32))
    found = find_of_proxy(files, running=add_generation(files).generation)
    assert found == [("chat-numa0.conf", "the process that runs", "one that has ended")]


def test_configuration_that_was_edited_is_named() -> None:
    files = edit("nginx.conf", "events {}\n")
    assert find_of_proxy(files, running=add_generation(files).generation) == [
        ("nginx.conf", "as in the plan", "another text")
    ]


def test_reload_that_was_not_taken_is_named() -> None:
    assert find_of_proxy(running="0" * 16) == [
        ("running generation", f"{GOOD.generation}, as on disk", "0" * 16)
    ]


def test_proxy_that_does_not_answer_is_named() -> None:
    assert find_of_proxy(running=None) == [("running generation", GOOD.generation, "nobody answers")]
