# SPDX-License-Identifier: Apache-2.0
"""Topologies read from the trees of whole machines, intact, damaged and hostile, and from this host."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import machines
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machines import GIB, Card, Machine, number_cores, write_machine

from ovms_scaler.core.cpulist import format_cpu_list, parse_cpu_list
from ovms_scaler.core.topology import CoreType, Topology, memory_node_for, topology_document
from ovms_scaler.errors import HostError
from ovms_scaler.host.sysfs import read_topology

CPUS = "sys/devices/system/cpu"
NODES = "sys/devices/system/node"
EVERY_MACHINE = [
    machines.xeon_6972p_2s,
    machines.single_node,
    machines.no_numa,
    machines.gaps,
    machines.uneven,
    machines.hbm,
    machines.memoryless,
    machines.offline_cpu0,
    machines.smt_off,
    machines.hybrid,
    machines.arm64,
    machines.four_gpus,
]


def cpus_by_node(topology: Topology) -> dict[int, str]:
    return {node.id: format_cpu_list(node.cpus) for node in topology.nodes}


def cores_by_node(topology: Topology) -> dict[int, int]:
    return {node.id: len(topology.cores_in(node.cpus)) for node in topology.nodes}


@pytest.mark.parametrize("machine", EVERY_MACHINE, ids=lambda machine: machine.__name__)
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


def test_gpus_are_ordered_by_address_not_by_render_number(tmp_path: Path) -> None:
    topology = read_topology(machines.four_gpus(tmp_path))
    assert [(gpu.address, gpu.render_node, gpu.numa_node) for gpu in topology.gpus] == [
        ("0000:21:00.0", "/dev/dri/renderD130", 0),
        ("0000:22:00.0", "/dev/dri/renderD131", 0),
        ("0000:41:00.0", "/dev/dri/renderD128", 2),
        ("0000:42:00.0", "/dev/dri/renderD129", 2),
    ]
    assert {(gpu.vendor_id, gpu.device_id, gpu.driver) for gpu in topology.gpus} == {
        ("0x8086", "0xe20b", "xe")
    }
    assert [gpu.integrated for gpu in topology.gpus] == [False] * 4
    assert topology.warnings == ()


def with_card(root: Path, card: Card, *, flags: str = machines.XEON_FLAGS) -> Path:
    return write_machine(root, Machine(cores=number_cores({0: 2}), cards=[card], flags=flags))


def test_gpu_without_node_and_driver(tmp_path: Path) -> None:
    card = Card(render=128, address="0000:03:00.0", driver=None)
    (gpu,) = read_topology(with_card(tmp_path, card)).gpus
    assert gpu.numa_node is None
    assert gpu.driver is None


def test_gpu_on_a_node_that_is_not_there(tmp_path: Path) -> None:
    topology = read_topology(with_card(tmp_path, Card(render=128, address="0000:03:00.0", numa_node=7)))
    assert topology.gpus[0].numa_node is None
    assert "numa_node is 7, the host has 0, ignoring it" in topology.warnings[0]


def test_gpu_of_a_guest_may_be_anything(tmp_path: Path) -> None:
    card = Card(render=128, address="0000:00:02.0")
    (gpu,) = read_topology(with_card(tmp_path, card, flags="fpu hypervisor")).gpus
    assert gpu.integrated is None


def test_gpu_below_a_virtio_device(tmp_path: Path) -> None:
    """Linux before 5.17 makes the virtio device, not the PCI one, the parent of virtio-gpu's render node."""
    root = with_card(tmp_path, Card(render=128, address="0000:41:00.0", vendor_id="0x1af4", numa_node=0))
    pci = root / "sys/devices/pci0000:41/0000:41:00.0"
    render = pci / "virtio3/drm/renderD128"
    (pci / "virtio3").mkdir()
    shutil.move(pci / "drm", pci / "virtio3/drm")
    (render / "device").unlink()
    (render / "device").symlink_to("../../../virtio3")
    (root / "sys/class/drm/renderD128").unlink()
    (root / "sys/class/drm/renderD128").symlink_to(Path("../..") / render.relative_to(root / "sys"))
    (gpu,) = read_topology(root).gpus
    assert (gpu.address, gpu.vendor_id, gpu.numa_node) == ("0000:41:00.0", "0x1af4", 0)


def test_gpu_that_is_no_pci_device_is_left_out(tmp_path: Path) -> None:
    root = write_machine(tmp_path, Machine(cores=number_cores({0: 2})))
    (root / "sys/class/drm/renderD128").mkdir(parents=True)
    (root / "sys/class/drm/renderD128/device").symlink_to("../../../ff9a0000.gpu")
    topology = read_topology(root)
    assert topology.gpus == ()
    assert topology.warnings == ()


def test_copied_gpu_whose_links_became_directories(tmp_path: Path) -> None:
    """As ``cp -rL`` leaves it: the uevent file is the only one that still tells the address."""
    root = write_machine(tmp_path, Machine(cores=number_cores({0: 2})))
    device = root / "sys/class/drm/renderD128/device"
    device.mkdir(parents=True)
    (device / "uevent").write_text("DRIVER=xe\nPCI_SLOT_NAME=0000:03:00.0\n")
    (device / "vendor").write_text("0x8086\n")
    (device / "device").write_text("0xe20b\n")
    (device / "numa_node").write_text("0\n")
    (gpu,) = read_topology(root).gpus
    assert (gpu.address, gpu.driver, gpu.device_id, gpu.numa_node) == ("0000:03:00.0", "xe", "0xe20b", 0)


def test_copied_gpu_whose_target_was_left_behind(tmp_path: Path) -> None:
    root = with_card(tmp_path, Card(render=128, address="0000:03:00.0"))
    shutil.rmtree(root / "sys/devices/pci0000:03")
    topology = read_topology(root)
    assert [(gpu.address, gpu.vendor_id, gpu.driver) for gpu in topology.gpus] == [
        ("0000:03:00.0", None, None)
    ]
    assert any("vendor or device id is missing" in warning for warning in topology.warnings)


def test_gpu_without_any_address_is_reported(tmp_path: Path) -> None:
    root = write_machine(tmp_path, Machine(cores=number_cores({0: 2})))
    (root / "sys/class/drm/renderD128").mkdir(parents=True)
    topology = read_topology(root)
    assert topology.gpus == ()
    assert topology.warnings == ("sys/class/drm/renderD128: its PCI address is unknown, ignoring this GPU",)


def test_two_render_nodes_of_one_card_are_one_gpu(tmp_path: Path) -> None:
    root = with_card(tmp_path, Card(render=129, address="0000:03:00.0"))
    (root / "sys/class/drm/renderD128").symlink_to(os.readlink(root / "sys/class/drm/renderD129"))
    topology = read_topology(root)
    assert [gpu.render_node for gpu in topology.gpus] == ["/dev/dri/renderD128"]
    assert len(topology.warnings) == 1


@pytest.mark.parametrize("nothing", ["empty", "absent", "no CPUs"])
def test_a_tree_without_cpus_is_refused(nothing: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    if nothing != "absent":
        root.mkdir()
    if nothing == "no CPUs":
        (root / CPUS).mkdir(parents=True)
    with pytest.raises(HostError) as caught:
        read_topology(root)
    assert (
        caught.value.message == f"cannot read the topology below {str(root)!r}: no CPU is listed in {CPUS}"
    )
    assert caught.value.hint == "--sysroot wants a directory that contains sys/ and proc/"


def removed(path: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        target = root / path
        shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink()

    return damage


def written(path: str, content: bytes) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / path).write_bytes(content)

    return damage


TWO_NODES = Machine(cores=number_cores({0: 4, 1: 4}), packages={0: 0, 1: 1}, offline={15})


@pytest.mark.parametrize(
    ("damages", "warning"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param(
            [removed(f"{CPUS}/online")], "cpu/online is missing: CPUs 0-14 are taken as", id="online"
        ),
        pytest.param([written(f"{CPUS}/online", b"")], "cpu/online is missing", id="online is empty"),
        pytest.param(
            [written(f"{CPUS}/online", b"zero\n")], "cannot read CPU list 'zero'", id="online is nonsense"
        ),
        pytest.param(
            [removed(f"{CPUS}/online"), removed(f"{CPUS}/cpu15/online")],
            "CPUs 0-14",
            id="what says cpu15 is offline",
        ),
        pytest.param(
            [removed(f"{CPUS}/online"), removed(f"{CPUS}/offline")],
            "CPUs 0-14",
            id="all lists of online CPUs",
        ),
        pytest.param(
            [written(f"{CPUS}/offline", b"14-15\n")], "CPUs 14 are listed online and offline", id="offline"
        ),
        pytest.param([removed(f"{CPUS}/offline")], None, id="no offline"),
        pytest.param([removed(f"{CPUS}/present")], None, id="no present"),
        pytest.param(
            [written(f"{CPUS}/online", b"0-14\n" + bytes(4091))], None, id="padded with NULs by tar"
        ),
        pytest.param([written(f"{CPUS}/online", b"0-14\r\n")], None, id="CRLF"),
        pytest.param([removed(f"{CPUS}/isolated")], "isolated is missing: no CPU", id="isolated"),
        pytest.param(
            [removed(f"{CPUS}/cpu1/topology/core_cpus_list")], None, id="one of the two sibling lists"
        ),
        pytest.param(
            [
                removed(f"{CPUS}/cpu1/topology/core_cpus_list"),
                written(f"{CPUS}/cpu1/topology/thread_siblings_list", b"\xff\xfe"),
            ],
            "thread_siblings_list: cannot read CPU list",
            id="a sibling list that the other sibling has",
        ),
        pytest.param([removed(f"{CPUS}/cpu1/topology")], None, id="a topology that the sibling has"),
        pytest.param(
            [
                removed(f"{CPUS}/cpu{cpu}/topology/{name}")
                for cpu in (1, 9)
                for name in ("core_cpus_list", "thread_siblings_list")
            ],
            None,
            id="lists of both siblings, but not the ids",
        ),
        pytest.param(
            [
                written(f"{CPUS}/cpu{cpu}/topology/{name}", content)
                for cpu in (1, 9)
                for name, content in (
                    ("core_cpus_list", b""),
                    ("thread_siblings_list", b"5"),
                    ("core_cpus", b"202"),
                )
            ],
            None,
            id="lists that leave the CPU out, but not the mask",
        ),
        pytest.param([removed(f"{NODES}/online")], "node/online is missing: nodes 0-1", id="list of nodes"),
        pytest.param(
            [written(f"{NODES}/online", b"0\n")], "nodes 1 have a directory and are not", id="one of two"
        ),
        pytest.param([removed(f"{NODES}/node1/cpulist")], None, id="cpulist, but not the links"),
        pytest.param([written(f"{NODES}/node1/cpulist", b"")], None, id="what is in cpulist"),
        pytest.param(
            [written(f"{NODES}/node1/cpulist", b"?"), written(f"{NODES}/node1/cpumap", b"70f0\n")],
            "node1/cpulist: cannot read",
            id="cpulist, but not cpumap",
        ),
        pytest.param(
            [written(f"{NODES}/node1/cpulist", b"3-7,12-14")], "CPUs 3 are on node 1 and on", id="twice"
        ),
        pytest.param([removed(f"{NODES}/has_memory")], None, id="has_memory"),
    ],
)
def test_copies_that_lack_something_still_tell_the_same(
    damages: list[Callable[[Path], None]], warning: str | None, tmp_path: Path
) -> None:
    root = write_machine(tmp_path, TWO_NODES)
    for damage in damages:
        damage(root)
    topology = read_topology(root)
    assert format_cpu_list(topology.online) == "0-14"
    assert topology.offline == {15}
    assert cpus_by_node(topology) == {0: "0-3,8-11", 1: "4-7,12-14"}
    assert [format_cpu_list(core) for core in topology.cores] == [
        "0,8",
        "1,9",
        "2,10",
        "3,11",
        "4,12",
        "5,13",
        "6,14",
        "7",
    ]
    assert [node.memory_bytes for node in topology.nodes] == [64 * GIB, 64 * GIB]
    assert all(warning and warning in said for said in topology.warnings[:1])
    assert bool(topology.warnings) == (warning is not None)


@pytest.mark.parametrize(
    ("damages", "question", "answer", "warning"),
    [
        pytest.param(
            [removed(f"{NODES}/node1/meminfo")],
            lambda topology: topology.nodes[1].memory_bytes,
            None,
            "node1/meminfo says no MemTotal",
            id="memory of a node",
        ),
        pytest.param(
            [removed(f"{NODES}/node1/meminfo"), written(f"{NODES}/has_memory", b"0\n")],
            lambda topology: (topology.nodes[1].memory_bytes, topology.allowed_memory_nodes),
            (0, {0}),
            None,
            id="memory of a node that has none",
        ),
        pytest.param(
            [written(f"{NODES}/has_memory", b"0\n")],
            lambda topology: topology.nodes[1].memory_bytes,
            64 * GIB,
            "has_memory contradicts",
            id="has_memory leaves out a node with memory",
        ),
        pytest.param(
            [removed(f"{NODES}/node1/distance")],
            lambda topology: topology.nodes[1].distances,
            (),
            "node1/distance is missing",
            id="distances",
        ),
        pytest.param(
            [written(f"{NODES}/node1/distance", b"21 10 21\n")],
            lambda topology: topology.nodes[1].distances,
            (),
            "'21 10 21' does not fit nodes 0-1",
            id="more distances than nodes",
        ),
        pytest.param(
            [written(f"{NODES}/node1/distance", b"10 21\n")],
            lambda topology: topology.nodes[1].distances,
            (),
            "'10 21' does not fit nodes 0-1",
            id="distances of another node",
        ),
        pytest.param(
            [written(f"{NODES}/node1/distance", b"21 near\n")],
            lambda topology: topology.nodes[1].distances,
            (),
            "'21 near' does not fit",
            id="distances that are no numbers",
        ),
        pytest.param(
            [removed(f"{NODES}/node1")],
            lambda topology: [cpus_by_node(topology), topology.nodes[1].memory_bytes],
            [{0: "0-3,8-11", 1: ""}, None],
            "nodes 1 are online and have no directory",
            id="directory of a node",
        ),
        pytest.param(
            [removed(NODES)],
            lambda topology: [cpus_by_node(topology), topology.nodes[0].memory_bytes, topology.numa],
            [{0: "0-14"}, 128 * GIB, False],
            "is missing although CPUs name their nodes",
            id="all nodes",
        ),
        pytest.param(
            [removed("proc")],
            lambda topology: (
                format_cpu_list(topology.allowed),
                topology.allowed_memory_nodes,
                topology.cpu_flags,
            ),
            ("0-14", {0, 1}, frozenset()),
            "proc/cpuinfo is missing",
            id="proc",
        ),
        pytest.param(
            [written("proc/1/status", b"Cpus_allowed_list:\tmany\nMems_allowed_list:\t1\n")],
            lambda topology: (format_cpu_list(topology.allowed), topology.allowed_memory_nodes),
            ("0-14", {1}),
            "cannot read CPU list '\\tmany'",
            id="mask of PID 1",
        ),
        pytest.param(
            [written(f"{CPUS}/cpu{cpu}/topology/physical_package_id", b"-1\n") for cpu in range(15)],
            lambda topology: topology.packages,
            (),
            None,
            id="sockets",
        ),
        pytest.param(
            [written(f"{CPUS}/cpu0/topology/core_cpus_list", b"0,4\n")],
            lambda topology: topology.cores[0],
            {0, 4},
            "CPUs 4 contradict siblings",
            id="agreement of siblings",
        ),
    ],
)
def test_what_is_unknown_is_said_to_be(
    damages: list[Callable[[Path], None]],
    question: Callable[[Topology], object],
    answer: object,
    warning: str | None,
    tmp_path: Path,
) -> None:
    root = write_machine(tmp_path, TWO_NODES)
    for damage in damages:
        damage(root)
    topology = read_topology(root)
    assert question(topology) == answer
    if warning is None:
        assert topology.warnings == ()
    else:
        assert warning in topology.warnings[0]


def test_the_only_node_holds_every_cpu(tmp_path: Path) -> None:
    root = machines.single_node(tmp_path)
    shutil.rmtree(root / NODES / "node0")
    topology = read_topology(root)
    assert topology_document(topology)["nodes"] == [
        {"id": 0, "cpus": "0-15", "cores": 8, "memory_bytes": 64 * GIB}
    ]


def test_one_core_on_two_nodes_is_reported(tmp_path: Path) -> None:
    topology = read_topology(write_machine(tmp_path, Machine(cores={0: [(0, 1)], 1: [(2, 3)]})))
    assert topology.warnings == ()
    (tmp_path / NODES / "node0/cpulist").write_text("0\n")
    (tmp_path / NODES / "node1/cpulist").write_text("1-3\n")
    assert read_topology(tmp_path).warnings == ("CPUs 0-1 are one core on nodes 0-1",)


def test_a_tree_of_nonsense_does_not_flood_the_screen(tmp_path: Path) -> None:
    root = machines.xeon_6972p_2s(tmp_path)
    for cpu in range(384):
        for name in ("core_cpus_list", "thread_siblings_list"):
            (root / CPUS / f"cpu{cpu}/topology/{name}").write_text("nonsense")
    warnings = read_topology(root).warnings
    assert len(warnings) == 51
    assert warnings[-1].endswith("more warnings like these are not shown")


@pytest.mark.parametrize("target", ["absolute", "climbing"])
def test_links_never_lead_out_of_the_tree(target: str, tmp_path: Path) -> None:
    """A copy's /sys/... links mean the copy's own files, not those of the host that reads it."""
    secret = tmp_path / "outside/status"
    secret.parent.mkdir()
    secret.write_text("Cpus_allowed_list:\t0\nMems_allowed_list:\t0\n")
    root = write_machine(tmp_path / "root", TWO_NODES)
    link = root / "proc/1/status"
    link.unlink()
    link.symlink_to(secret if target == "absolute" else "../../../outside/status")
    assert format_cpu_list(read_topology(root).allowed) == "0-14"
    inside = root / (secret.relative_to("/") if target == "absolute" else "outside/status")
    inside.parent.mkdir(parents=True)
    inside.write_text("Cpus_allowed_list:\t3\nMems_allowed_list:\t0\n")
    assert read_topology(root).allowed == {3}


def test_a_directory_that_is_a_link_out_of_the_tree_is_not_entered(tmp_path: Path) -> None:
    outside = write_machine(tmp_path / "outside", Machine(cores=number_cores({0: 64})))
    root = tmp_path / "root"
    root.mkdir()
    (root / "sys").symlink_to(outside / "sys")
    with pytest.raises(HostError):
        read_topology(root)


def test_loops_fifos_and_directories_in_place_of_files(tmp_path: Path) -> None:
    root = write_machine(tmp_path, TWO_NODES)
    for name in ("isolated", "offline", "present"):
        (root / CPUS / name).unlink()
    (root / CPUS / "isolated").symlink_to("isolated")
    os.mkfifo(root / CPUS / "offline")
    (root / CPUS / "present").mkdir()
    topology = read_topology(root)
    assert topology.online == set(range(15))
    assert topology.offline == {15}


def test_a_sysroot_may_itself_be_a_link(tmp_path: Path) -> None:
    write_machine(tmp_path / "copy", TWO_NODES)
    (tmp_path / "link").symlink_to("copy")
    assert read_topology(tmp_path / "link") == read_topology(tmp_path / "copy")


@pytest.fixture(scope="module")
def small_machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    machine = Machine(
        cores=number_cores({0: 1, 1: 1}),
        cards=[Card(render=128, address="0000:03:00.0", numa_node=1)],
        slice_cpuset=range(4),
        slice_mems=range(2),
    )
    return write_machine(tmp_path_factory.mktemp("small"), machine)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_no_damage_ends_in_a_traceback(
    data: st.DataObject, small_machine: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("damaged") / "root"
    shutil.copytree(small_machine, root, symlinks=True)
    files = sorted(path for path in root.rglob("*") if path.is_symlink() or path.is_file())
    nonsense = st.one_of(
        st.none(), st.binary(max_size=12), st.sampled_from([b"-1", b"0-3", b"4-99", b"65535"])
    )
    for path in data.draw(st.lists(st.sampled_from(files), unique=True, max_size=12)):
        content = data.draw(nonsense)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    try:
        topology = read_topology(root)
    except HostError:
        return
    finally:
        shutil.rmtree(root)
    assert sorted(cpu for core in topology.cores for cpu in core) == sorted(topology.online)
    assert sum(len(node.cpus) for node in topology.nodes) <= len(topology.online)
    assert topology.allowed <= topology.online


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


def test_reading_grows_no_worse_than_linearly(tmp_path: Path) -> None:
    """Measured 7 ms for 384 CPUs and 95 ms for 4,096; the bounds leave room for a slow and busy machine."""
    elapsed: dict[int, float] = {}
    for cpus in (512, 4096):
        root = machines.big(tmp_path / str(cpus), nodes=64, cpus=cpus)
        elapsed[cpus] = min(_seconds_to_read(root, cpus=cpus) for _ in range(3))
    assert elapsed[4096] < 1.0
    assert elapsed[4096] < 8 * 3 * elapsed[512]


def _seconds_to_read(root: Path, *, cpus: int) -> float:
    started = time.perf_counter()
    topology = read_topology(root)
    elapsed = time.perf_counter() - started
    assert len(topology.online) == cpus
    assert len(topology.nodes) == 64
    return elapsed


def test_384_cpus_are_read_in_60_ms(tmp_path: Path) -> None:
    root = machines.xeon_6972p_2s(tmp_path)
    best = 1.0
    for _ in range(5):
        started = time.perf_counter()
        read_topology(root)
        best = min(best, time.perf_counter() - started)
    assert best < 0.06


def test_this_host_is_read_as_the_kernel_tells_by_other_means() -> None:
    topology = read_topology()
    assert len(topology.online) == os.cpu_count()
    assert topology.online == parse_cpu_list(Path("/sys/devices/system/cpu/online").read_text())
    assert topology.allowed <= os.sched_getaffinity(1) & topology.online
    assert sorted(cpu for core in topology.cores for cpu in core) == sorted(topology.online)
    assert topology.allowed_memory_nodes
    assert all(node.memory_bytes is None or node.memory_bytes >= 0 for node in topology.nodes)
    assert sum(len(node.cpus) for node in topology.nodes) == len(topology.online)
