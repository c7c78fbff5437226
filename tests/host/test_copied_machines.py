# SPDX-License-Identifier: Apache-2.0
"""Topologies read from copies in which files are missing, empty, nonsense or links to elsewhere."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import machines
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machines import GIB, Card, Machine, number_cores, write_machine

from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.topology import Topology, topology_document
from ovms_scaler.ctl.topology_view import render_topology
from ovms_scaler.errors import HostError
from ovms_scaler.host.sysfs import read_topology

CPUS = "sys/devices/system/cpu"
NODES = "sys/devices/system/node"


def cpus_by_node(topology: Topology) -> dict[int, str]:
    return {node.id: format_cpu_list(node.cpus) for node in topology.nodes}


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
        cards=[
            Card(
                render=128,
                address="0000:03:00.0",
                numa_node=1,
                bridges=["0000:00:01.0"],
                files={"tile0/physical_vram_size_bytes": GIB},
                functions=[Card(address="0000:03:00.1", render=129, driver="i915", vram_bytes=GIB)],
                total_functions=7,
            ),
            Card(card=2, address="0000:05:00.0", vendor_id="0x1a03", driver="ast"),
            Card(accel=0, address="0000:00:0b.0", class_id="0x120000", driver="intel_vpu"),
        ],
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
    assert len({gpu.address for gpu in topology.gpus}) == len(topology.gpus)
    for gpu in topology.gpus:
        assert gpu.numa_node is None or topology.node(gpu.numa_node) is not None
        assert gpu.memory_bytes is None or gpu.memory_bytes > 0
        assert gpu.virtual_functions >= 0
    json.dumps(topology_document(topology))
    render_topology(topology)
