# SPDX-License-Identifier: Apache-2.0
"""Topologies read from the trees of whole machines and from this host."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import machines
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machines import GIB, Machine, number_cores, write_machine

from ovms_scaler.core.cpulist import format_cpu_list, parse_cpu_list
from ovms_scaler.core.topology import CoreType, Topology, memory_node_for, topology_document
from ovms_scaler.host.sysfs import read_topology


def cpus_by_node(topology: Topology) -> dict[int, str]:
    return {node.id: format_cpu_list(node.cpus) for node in topology.nodes}


def cores_by_node(topology: Topology) -> dict[int, int]:
    return {node.id: len(topology.cores_in(node.cpus)) for node in topology.nodes}


@pytest.mark.parametrize("machine", machines.ORDINARY, ids=lambda machine: machine.__name__)
def test_every_online_cpu_is_on_one_core_and_one_node(
    machine: Callable[[Path], Path], tmp_path: Path
) -> None:
    topology = read_topology(machine(tmp_path))
    online = sorted(topology.online)
    assert sorted(cpu for core in topology.cores for cpu in core) == online
    assert sorted(cpu for node in topology.nodes for cpu in node.cpus) == online
    for core in topology.cores:
        assert len({node.id for cpu in core if (node := topology.node_of(cpu))}) == 1
    assert not topology.offline & topology.online
    assert topology.allowed == topology.online


def test_two_xeon_6972p(tmp_path: Path) -> None:
    topology = read_topology(machines.xeon_6972p_2s(tmp_path))
    assert cpus_by_node(topology) == {
        0: "0-31,192-223",
        1: "32-63,224-255",
        2: "64-95,256-287",
        3: "96-127,288-319",
        4: "128-159,320-351",
        5: "160-191,352-383",
    }
    assert cores_by_node(topology) == dict.fromkeys(range(6), 32)
    assert [(package, format_cpu_list(cpus)) for package, cpus in topology.packages] == [
        (0, "0-95,192-287"),
        (1, "96-191,288-383"),
    ]
    assert topology.core_of(383) == {191, 383}
    assert topology.nodes[4].distances == ((0, 21), (1, 21), (2, 21), (3, 12), (5, 12))
    assert topology.allowed_memory_nodes == set(range(6))
    assert {"amx_bf16", "avx512_fp16"} <= topology.cpu_flags
    assert topology.numa
    assert topology.warnings == ()


def test_one_node(tmp_path: Path) -> None:
    topology = read_topology(machines.single_node(tmp_path))
    assert topology_document(topology)["nodes"] == [
        {"id": 0, "cpus": "0-15", "cores": 8, "memory_bytes": 64 * GIB}
    ]
    assert topology.nodes[0].distances == ()
    assert topology.warnings == ()


def test_no_numa_is_one_node(tmp_path: Path) -> None:
    topology = read_topology(machines.no_numa(tmp_path))
    assert cpus_by_node(topology) == {0: "0-7"}
    assert cores_by_node(topology) == {0: 4}
    assert topology.nodes[0].memory_bytes == 64 * GIB
    assert topology.allowed_memory_nodes == {0}
    assert not topology.numa
    assert topology.warnings == ()


def test_distances_follow_node_ids_with_gaps(tmp_path: Path) -> None:
    topology = read_topology(machines.gaps(tmp_path))
    assert [node.id for node in topology.nodes] == [0, 2, 8]
    assert topology.nodes[1].distances == ((0, 40), (8, 20))
    assert topology.nodes[2].distances == ((0, 80), (2, 20))
    assert topology.warnings == ()


def test_nodes_of_unequal_size(tmp_path: Path) -> None:
    assert cores_by_node(read_topology(machines.uneven(tmp_path))) == {0: 43, 1: 43, 2: 42}


def test_nodes_without_cpus(tmp_path: Path) -> None:
    topology = read_topology(machines.hbm(tmp_path))
    assert cpus_by_node(topology) == {0: "0-7,16-23", 1: "8-15,24-31", 2: "", 3: ""}
    assert topology.nodes[2].memory_bytes == 64 * GIB
    assert memory_node_for(topology, 0) == 0
    assert topology.warnings == ()


def test_nodes_without_memory_use_the_nearest(tmp_path: Path) -> None:
    topology = read_topology(machines.memoryless(tmp_path))
    assert [node.memory_bytes for node in topology.nodes] == [64 * GIB, 0, 64 * GIB, 0]
    assert topology.allowed_memory_nodes == {0, 2}
    assert [memory_node_for(topology, node) for node in range(4)] == [0, 0, 2, 0]
    assert topology.warnings == ()


def test_offline_cpus_with_cpu0_and_half_a_core(tmp_path: Path) -> None:
    topology = read_topology(machines.offline_cpu0(tmp_path))
    assert format_cpu_list(topology.offline) == "0,8-9"
    assert cpus_by_node(topology) == {0: "1-3,10-11", 1: "4-7,12-15"}
    assert cores_by_node(topology) == {0: 3, 1: 4}
    assert topology.core_of(1) == {1}
    assert topology.core_of(0) == frozenset()
    assert topology.warnings == ()


def test_smt_off(tmp_path: Path) -> None:
    topology = read_topology(machines.smt_off(tmp_path))
    assert cpus_by_node(topology) == {0: "0-7", 1: "8-15"}
    assert cores_by_node(topology) == {0: 8, 1: 8}
    assert format_cpu_list(topology.offline) == "16-31"


def test_hybrid_cores(tmp_path: Path) -> None:
    topology = read_topology(machines.hybrid(tmp_path))
    types = dict(topology.core_types)
    assert cores_by_node(topology) == {0: 12}
    assert {cpu for cpu in types if types[cpu] is CoreType.EFFICIENCY} == set(range(16, 20))
    assert {cpu for cpu in types if types[cpu] is CoreType.PERFORMANCE} == set(range(16))
    assert [gpu.integrated for gpu in topology.gpus] == [True]


def test_arm64_without_some_topology_directories(tmp_path: Path) -> None:
    topology = read_topology(machines.arm64(tmp_path))
    assert cores_by_node(topology) == {0: 16, 1: 16}
    assert topology.core_of(20) == {20}
    assert "sve" in topology.cpu_flags
    assert topology.warnings == ("CPUs 3,20 name no siblings: each is taken as a core of its own",)


def test_ppc64_with_eight_threads(tmp_path: Path) -> None:
    cores = {0: [tuple(range(start, start + 8)) for start in (0, 8)], 8: [tuple(range(16, 24))]}
    topology = read_topology(
        write_machine(tmp_path, Machine(cores=cores, flags_key="cpu", flags="POWER9", offline=range(9, 16)))
    )
    assert cores_by_node(topology) == {0: 2, 8: 1}
    assert topology.core_of(8) == {8}
    assert topology.core_of(17) == set(range(16, 24))
    assert topology.cpu_flags == frozenset()


def test_isolated_cpus_stay_listed(tmp_path: Path) -> None:
    machine = Machine(cores=number_cores({0: 4}), isolated={2, 6})
    topology = read_topology(write_machine(tmp_path, machine))
    assert topology.isolated == {2, 6}
    assert {2, 6} <= topology.allowed


@pytest.mark.parametrize(
    ("machine", "allowed", "memory_nodes"),
    [
        pytest.param(Machine(cores=number_cores({0: 4, 1: 4})), "0-15", "0-1", id="nothing is restricted"),
        pytest.param(
            Machine(cores=number_cores({0: 4, 1: 4}), pid1_cpus=range(6), pid1_mems={1}),
            "0-5",
            "1",
            id="PID 1 has a narrower mask",
        ),
        pytest.param(
            Machine(cores=number_cores({0: 4, 1: 4}), root_cpuset=range(2, 8)),
            "2-7",
            "0-1",
            id="container's cpuset",
        ),
        pytest.param(
            Machine(
                cores=number_cores({0: 4, 1: 4}),
                root_cpuset=range(16),
                slice_cpuset=range(4),
                slice_mems={0},
            ),
            "0-3",
            "0",
            id="the slice's cpuset",
        ),
        pytest.param(
            Machine(cores=number_cores({0: 4, 1: 4}), pid1_cpus=range(6), slice_cpuset=range(4, 16)),
            "4-5",
            "0-1",
            id="mask and cpuset",
        ),
        pytest.param(
            Machine(cores=number_cores({0: 4, 1: 4}), pid1_cpus=range(6), offline={0}),
            "1-5",
            "0-1",
            id="offline CPU",
        ),
        pytest.param(
            Machine(cores=number_cores({0: 4, 1: 4}), slice_cpuset=()), "0-15", "0-1", id="empty cpuset"
        ),
    ],
)
def test_what_the_system_may_use(machine: Machine, allowed: str, memory_nodes: str, tmp_path: Path) -> None:
    topology = read_topology(write_machine(tmp_path, machine))
    assert format_cpu_list(topology.allowed) == allowed
    assert format_cpu_list(topology.allowed_memory_nodes) == memory_nodes
    assert topology.warnings == ()


def test_mask_of_another_machine_is_reported(tmp_path: Path) -> None:
    topology = read_topology(write_machine(tmp_path, Machine(cores=number_cores({0: 4}), pid1_cpus={99})))
    assert topology.allowed == frozenset()
    assert "leave none of the online CPUs" in topology.warnings[0]


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    counts=st.dictionaries(st.integers(0, 40), st.integers(1, 5), min_size=1, max_size=5),
    threads=st.sampled_from([1, 2, 4, 8]),
    data=st.data(),
)
def test_machines_of_any_shape_are_read_as_they_are(
    counts: dict[int, int], threads: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    counts = dict(sorted(counts.items()))
    cores = number_cores(counts, threads=threads)
    present = sorted(cpu for own in cores.values() for core in own for cpu in core)
    offline = data.draw(st.sets(st.sampled_from(present), max_size=len(present) - 1))
    root = write_machine(tmp_path_factory.mktemp("any") / "root", Machine(cores=cores, offline=offline))
    topology = read_topology(root)
    shutil.rmtree(root)
    expected = {
        node: [left for core in own if (left := frozenset(core) - offline)] for node, own in cores.items()
    }
    assert {node.id: node.cpus for node in topology.nodes} == {
        node: frozenset().union(*own) for node, own in expected.items()
    }
    assert set(topology.cores) == {core for own in expected.values() for core in own}
    assert topology.offline == offline
    assert topology.warnings == ()


def test_64_nodes_and_4096_cpus_are_read_whole(tmp_path: Path) -> None:
    topology = read_topology(machines.big(tmp_path))
    assert (len(topology.nodes), len(topology.online), len(topology.cores)) == (64, 4096, 2048)


def test_this_host_is_read_as_the_kernel_tells_by_other_means() -> None:
    topology = read_topology()
    assert len(topology.online) == os.cpu_count()
    assert topology.online == parse_cpu_list(Path("/sys/devices/system/cpu/online").read_text())
    assert topology.allowed <= os.sched_getaffinity(1) & topology.online
    assert sorted(cpu for core in topology.cores for cpu in core) == sorted(topology.online)
    assert topology.allowed_memory_nodes
    assert all(node.memory_bytes is None or node.memory_bytes >= 0 for node in topology.nodes)
    assert sum(len(node.cpus) for node in topology.nodes) == len(topology.online)
