# SPDX-License-Identifier: Apache-2.0
"""Questions asked of a topology, its cores and its JSON."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_scaler.core.topology import (
    Accelerator,
    CoreType,
    Gpu,
    Node,
    Topology,
    group_cores,
    is_integrated,
    memory_node_for,
    topology_document,
)

GIB = 1024**3


def node(number: int, *, memory: int | None = GIB, distances: Mapping[int, int] | None = None) -> Node:
    return Node(
        id=number,
        cpus=frozenset({number}),
        memory_bytes=memory,
        distances=tuple(sorted((distances or {}).items())),
    )


def topology(*nodes: Node, allowed_memory_nodes: set[int] | None = None) -> Topology:
    online = frozenset(cpu for each in nodes for cpu in each.cpus)
    with_memory = frozenset(each.id for each in nodes if each.has_memory)
    return Topology(
        nodes=nodes,
        cores=tuple(frozenset({cpu}) for cpu in sorted(online)),
        online=online,
        allowed=online,
        allowed_memory_nodes=with_memory
        if allowed_memory_nodes is None
        else frozenset(allowed_memory_nodes),
    )


TWO_THREADS = Topology(
    nodes=(
        Node(id=0, cpus=frozenset({0, 1, 4, 5}), memory_bytes=GIB, distances=((2, 21),)),
        Node(id=2, cpus=frozenset({2, 6}), memory_bytes=None, distances=((0, 21),)),
        Node(id=5, cpus=frozenset(), memory_bytes=0),
    ),
    cores=(frozenset({0, 4}), frozenset({1, 5}), frozenset({2, 6})),
    packages=((0, frozenset({0, 1, 2, 4, 5, 6})),),
    online=frozenset({0, 1, 2, 4, 5, 6}),
    offline=frozenset({3, 7}),
    isolated=frozenset({6}),
    allowed=frozenset({0, 1, 2, 4}),
    allowed_memory_nodes=frozenset({0, 2}),
    core_types=((0, CoreType.PERFORMANCE), (1, CoreType.PERFORMANCE), (2, CoreType.EFFICIENCY)),
    gpus=(
        Gpu(
            address="0000:03:00.0",
            render_node="/dev/dri/renderD128",
            vendor_id="0x8086",
            device_id="0xe20b",
            driver="xe",
            numa_node=None,
            integrated=False,
            memory_bytes=12 * GIB,
            virtual_functions=1,
            accessible=True,
        ),
        Gpu(
            address="0000:03:00.1",
            render_node=None,
            vendor_id="0x8086",
            device_id="0xe20b",
            driver="vfio-pci",
            numa_node=2,
            physical_function="0000:03:00.0",
        ),
    ),
    accelerators=(
        Accelerator(
            address="0000:00:0b.0",
            device_node="/dev/accel/accel0",
            vendor_id="0x8086",
            device_id="0x643e",
            driver="intel_vpu",
            numa_node=0,
        ),
    ),
    warnings=("something is odd",),
)


def test_cpus_are_found_on_their_core_and_node() -> None:
    assert TWO_THREADS.core_of(5) == {1, 5}
    assert TWO_THREADS.node_of(6) == TWO_THREADS.nodes[1]
    assert TWO_THREADS.node(5) == TWO_THREADS.nodes[2]


def test_offline_cpus_are_on_no_core_and_no_node() -> None:
    assert TWO_THREADS.core_of(3) == frozenset()
    assert TWO_THREADS.node_of(3) is None
    assert TWO_THREADS.node(1) is None


def test_cores_in_holds_only_what_was_asked_for() -> None:
    assert TWO_THREADS.cores_in({6, 5, 1, 4, 3}) == (frozenset({1, 5}), frozenset({4}), frozenset({6}))
    assert TWO_THREADS.cores_in([]) == ()


def test_topologies_are_values() -> None:
    again = topology(node(0), node(1))
    assert again == topology(node(0), node(1))
    assert hash(again) == hash(topology(node(0), node(1)))


@pytest.mark.parametrize(
    ("host", "asked", "answer"),
    [
        pytest.param(topology(node(0), node(1)), 1, 1, id="its own memory"),
        pytest.param(topology(node(0, memory=None), node(1)), 0, 0, id="its own of unknown size"),
        pytest.param(
            topology(node(0), node(1, memory=0, distances={0: 32, 2: 12}), node(2)), 1, 2, id="the nearest"
        ),
        pytest.param(
            topology(node(0), node(1, memory=0, distances={0: 21, 2: 21}), node(2)),
            1,
            0,
            id="lowest of equals",
        ),
        pytest.param(
            topology(node(0, distances={1: 32}), node(1, memory=0), node(2, distances={1: 12})),
            1,
            2,
            id="distance known from the other end only",
        ),
        pytest.param(topology(node(0), node(1, memory=0)), 1, 0, id="no distance, one choice"),
        pytest.param(topology(node(0), node(1, memory=0), node(2)), 1, None, id="no distance, two choices"),
        pytest.param(topology(node(0, memory=0)), 0, None, id="no memory anywhere"),
        pytest.param(
            topology(node(0), node(1, distances={0: 21}), allowed_memory_nodes={0}),
            1,
            0,
            id="its own is not allowed",
        ),
        pytest.param(topology(node(0), node(1)), 7, None, id="no such node"),
    ],
)
def test_memory_node_for(host: Topology, asked: int, answer: int | None) -> None:
    assert memory_node_for(host, asked) == answer


@pytest.mark.parametrize(
    ("siblings", "cores", "contradicting"),
    [
        pytest.param({0: {0, 2}, 1: {1, 3}, 2: {0, 2}, 3: {1, 3}}, [{0, 2}, {1, 3}], [], id="two threads"),
        pytest.param({}, [{0}, {1}, {2}, {3}], [], id="nobody says anything"),
        pytest.param({0: {0, 2}}, [{0, 2}, {1}, {3}], [], id="named by the other"),
        pytest.param({2: {0, 2}}, [{0, 2}, {1}, {3}], [], id="named by a higher one"),
        pytest.param({0: {0, 2}, 2: {2}}, [{0, 2}, {1}, {3}], [2], id="the other disagrees"),
        pytest.param({0: {0, 1}, 1: {1, 2}, 2: {1, 2}}, [{0, 1}, {2}, {3}], [1], id="a chain"),
        pytest.param({0: {0, 9}}, [{0}, {1}, {2}, {3}], [], id="an offline sibling"),
    ],
)
def test_group_cores(siblings: dict[int, set[int]], cores: list[set[int]], contradicting: list[int]) -> None:
    named = {cpu: frozenset(own) for cpu, own in siblings.items()}
    assert group_cores(range(4), named) == (tuple(map(frozenset, cores)), frozenset(contradicting))


@given(
    st.frozensets(st.integers(0, 20)),
    st.dictionaries(st.integers(0, 20), st.frozensets(st.integers(0, 20)), max_size=20),
)
def test_whatever_cpus_say_each_is_in_one_core(
    online: frozenset[int], siblings: dict[int, frozenset[int]]
) -> None:
    cores, contradicting = group_cores(online, siblings)
    assert sorted(cpu for core in cores for cpu in core) == sorted(online)
    assert [min(core) for core in cores] == sorted(min(core) for core in cores)
    assert contradicting <= online


@pytest.mark.parametrize(
    ("address", "vendor_id", "virtual", "integrated"),
    [
        pytest.param("0000:00:02.0", "0x8086", False, True, id="Intel's integrated"),
        pytest.param("0000:00:02.3", "0x8086", False, True, id="a virtual function of it"),
        pytest.param("0000:03:00.0", "0x8086", False, False, id="Intel's card"),
        pytest.param("0000:00:02.0", "0x8086", True, None, id="whatever the hypervisor put there"),
        pytest.param("0000:c4:00.0", "0x1002", False, None, id="another vendor's"),
        pytest.param("0000:00:02.0", None, False, None, id="nobody's"),
    ],
)
def test_is_integrated(
    address: str, vendor_id: str | None, *, virtual: bool, integrated: bool | None
) -> None:
    assert is_integrated(address, vendor_id=vendor_id, virtual=virtual) is integrated


def test_document_keeps_the_contract() -> None:
    document = topology_document(TWO_THREADS)
    assert list(document)[:2] == ["nodes", "gpus"]
    assert document["nodes"] == [
        {"id": 0, "cpus": "0-1,4-5", "cores": 2, "memory_bytes": GIB},
        {"id": 2, "cpus": "2,6", "cores": 1, "memory_bytes": None},
        {"id": 5, "cpus": "", "cores": 0, "memory_bytes": 0},
    ]
    assert document["gpus"] == [
        {
            "address": "0000:03:00.0",
            "render_node": "/dev/dri/renderD128",
            "vendor_id": "0x8086",
            "device_id": "0xe20b",
            "driver": "xe",
            "numa_node": None,
        }
    ]


def test_document_says_more_beside_it() -> None:
    document = topology_document(TWO_THREADS)
    assert {key: document[key] for key in list(document)[2:]} == {
        "numa": True,
        "online": "0-2,4-6",
        "offline": "3,7",
        "isolated": "6",
        "allowed": "0-2,4",
        "allowed_memory_nodes": "0,2",
        "cores": ["0,4", "1,5", "2,6"],
        "threads_per_core": 2,
        "sockets": [{"id": 0, "cpus": "0-2,4-6"}],
        "distances": {"0": {"2": 21}, "2": {"0": 21}, "5": {}},
        "core_types": {"performance": "0-1", "efficiency": "2"},
        "gpus_without_render_node": [
            {
                "address": "0000:03:00.1",
                "render_node": None,
                "vendor_id": "0x8086",
                "device_id": "0xe20b",
                "driver": "vfio-pci",
                "numa_node": 2,
            }
        ],
        "gpu_details": {
            "0000:03:00.0": {
                "integrated": False,
                "memory_bytes": 12 * GIB,
                "physical_function": None,
                "virtual_functions": 1,
            },
            "0000:03:00.1": {
                "integrated": None,
                "memory_bytes": None,
                "physical_function": "0000:03:00.0",
                "virtual_functions": 0,
            },
        },
        "accelerators": [
            {
                "address": "0000:00:0b.0",
                "device_node": "/dev/accel/accel0",
                "vendor_id": "0x8086",
                "device_id": "0x643e",
                "driver": "intel_vpu",
                "numa_node": 0,
            }
        ],
        "warnings": ["something is odd"],
    }
