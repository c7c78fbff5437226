# SPDX-License-Identifier: Apache-2.0
"""One instance on each NUMA node, as the kernel sees it: its CPUs, its memory, its cpuset."""

import json
import re
from collections.abc import Iterator

import pytest
from lab.vm import Vm
from system import agent_host
from system.agent_host import Document

NODES = {"chat-numa0": "0-2", "chat-numa1": "3-5", "chat-numa2": "6-8", "chat-numa3": "9-11"}


@pytest.fixture(scope="module")
def serving(booted: Vm) -> Iterator[Vm]:
    """The agent with one pool over all nodes, every instance in rotation."""
    booted.script("mkdir -p /run/lab")
    booted.write(agent_host.CONFIG, agent_host.pool(instances=1))
    booted.run("systemctl", "start", agent_host.AGENT, timeout_sec=120)
    try:
        agent_host.wait_until_routed(booted, len(NODES), timeout_sec=240)
        yield booted
    finally:
        booted.run(
            "systemctl", "stop", agent_host.AGENT, agent_host.TARGET, agent_host.PROXY, timeout_sec=120
        )
        booted.run("rm", "-f", agent_host.CONFIG)


def read_plan(vm: Vm) -> dict[str, Document]:
    shown = vm.run("ovms-scalerctl", "plan", "--json").stdout
    return {entry["id"]: entry for entry in json.loads(shown)["instances"]}


def test_each_node_has_its_instance(serving: Vm) -> None:
    plan = read_plan(serving)
    assert {name: entry["cpus"] for name, entry in plan.items()} == NODES
    assert [entry["memory_nodes"] for entry in plan.values()] == ["0", "1", "2", "3"]
    assert agent_host.read_pids(serving).keys() == NODES.keys()


def test_kernel_confines_each_process_to_its_node(serving: Vm) -> None:
    pids = agent_host.read_pids(serving)
    seen: list[int] = []
    for name, entry in read_plan(serving).items():
        # Every thread: those that OVMS starts for itself as well.
        tasks = serving.script(f"cat /proc/{pids[name]}/task/*/status")
        assert set(re.findall(r"^Cpus_allowed_list:\t(.*)$", tasks, re.MULTILINE)) == {entry["cpus"]}
        assert set(re.findall(r"^Mems_allowed_list:\t(.*)$", tasks, re.MULTILINE)) == {entry["memory_nodes"]}
        first, last = entry["cpus"].split("-")
        seen += range(int(first), int(last) + 1)
    assert sorted(seen) == list(range(12)), "a CPU belongs to two instances, or to none"


def test_memory_of_each_process_is_on_its_node(serving: Vm) -> None:
    pids = agent_host.read_pids(serving)
    for name, entry in read_plan(serving).items():
        node = entry["memory_nodes"]
        mappings = serving.read(f"/proc/{pids[name]}/numa_maps").splitlines()
        own = [line for line in mappings if " anon=" in line and " file=" not in line]
        assert own
        assert {line.split()[1] for line in own} == {f"bind:{node}"}
        assert {found for line in own for found in re.findall(r" N(\d+)=", line)} == {node}


def test_control_group_of_each_unit_has_the_cpuset(serving: Vm) -> None:
    for name, entry in read_plan(serving).items():
        group = serving.properties(f"ovms@{name}.service", "ControlGroup")["ControlGroup"]
        cpuset = serving.script(f"cd /sys/fs/cgroup{group}; cat cpuset.cpus.effective cpuset.mems.effective")
        assert cpuset.split() == [entry["cpus"], entry["memory_nodes"]]


def test_front_answers_clients_outside_from_every_node(serving: Vm) -> None:
    with agent_host.Traffic(serving, workers=4, max_tokens=2) as traffic:
        for name in NODES:
            traffic.wait_for_answers(serving, 2, by=name)
    traffic.assert_unharmed()
    assert traffic.counts["instances"].keys() == NODES.keys()
