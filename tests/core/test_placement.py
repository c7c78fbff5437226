# SPDX-License-Identifier: Apache-2.0
"""Where instances go on the machines of tests/machines.py, and which configurations no machine can hold."""

from collections.abc import Callable
from pathlib import Path

import machines
import pytest
import world
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_scaler.core.books import Books
from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.placement import Layout, normalise_weights, place
from ovms_scaler.core.spec import Memory
from ovms_scaler.core.topology import Node, Topology
from ovms_scaler.errors import ConfigError, Problem
from ovms_scaler.host.sysfs import read_topology

Pool = dict[str, object]
WriteMachine = Callable[[Path], Path]


def place_on(
    topology: Topology, *pools: Pool, book: dict[str, int] | None = None, **tables: object
) -> Layout:
    return place(world.spec(*(pools or ({},)), **tables), topology, Books(ports=book or {}))


def refuse(
    topology: Topology, *pools: Pool, book: dict[str, int] | None = None, **tables: object
) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        place(world.spec(*pools, **tables), topology, Books(ports=book or {}))
    return list(caught.value.problems)


def rows(layout: Layout) -> list[tuple[str, str, int, str, int]]:
    """Id, CPUs, threads, memory nodes and weight of each instance."""
    return [
        (
            one.id,
            format_cpu_list(one.cpus),
            one.inference_threads,
            format_cpu_list(one.memory_nodes),
            one.weight,
        )
        for one in layout.instances
    ]


MACHINES: list[tuple[WriteMachine, list[tuple[str, str, int, str, int]], str]] = [
    (
        machines.xeon_6972p_2s,
        [
            ("chat-numa0", "0-31,192-223", 32, "0", 32),
            ("chat-numa1", "32-63,224-255", 32, "1", 32),
            ("chat-numa2", "64-95,256-287", 32, "2", 32),
            ("chat-numa3", "96-127,288-319", 32, "3", 32),
            ("chat-numa4", "128-159,320-351", 32, "4", 32),
            ("chat-numa5", "160-191,352-383", 32, "5", 32),
        ],
        "two Xeon 6972P in SNC3",
    ),
    (machines.single_node, [("chat-numa0", "0-15", 8, "0", 8)], "one node"),
    (machines.no_numa, [("chat-numa0", "0-7", 4, "", 4)], "no NUMA directory"),
    (
        machines.gaps,
        [
            ("chat-numa0", "0-3", 4, "0", 4),
            ("chat-numa2", "4-7", 4, "2", 4),
            ("chat-numa8", "8-11", 4, "8", 4),
        ],
        "node ids with gaps",
    ),
    (
        machines.uneven,
        [
            ("chat-numa0", "0-42,128-170", 43, "0", 43),
            ("chat-numa1", "43-85,171-213", 43, "1", 43),
            ("chat-numa2", "86-127,214-255", 42, "2", 42),
        ],
        "nodes of unequal size",
    ),
    (
        machines.hbm,
        [("chat-numa0", "0-7,16-23", 8, "0", 8), ("chat-numa1", "8-15,24-31", 8, "1", 8)],
        "nodes of HBM without CPUs",
    ),
    (
        machines.memoryless,
        [
            ("chat-numa0", "0-3,16-19", 4, "0", 4),
            ("chat-numa1", "4-7,20-23", 4, "0", 4),
            ("chat-numa2", "8-11,24-27", 4, "2", 4),
            ("chat-numa3", "12-15,28-31", 4, "0", 4),
        ],
        "nodes without memory",
    ),
    (
        machines.offline_cpu0,
        [("chat-numa0", "1-3,10-11", 3, "0", 3), ("chat-numa1", "4-7,12-15", 4, "1", 4)],
        "cpu0 and others offline",
    ),
    (
        machines.smt_off,
        [("chat-numa0", "0-7", 8, "0", 8), ("chat-numa1", "8-15", 8, "1", 8)],
        "SMT switched off",
    ),
    (machines.hybrid, [("chat-numa0", "0-19", 12, "0", 12)], "performance and efficiency cores"),
    (
        machines.arm64,
        [("chat-numa0", "0-15", 16, "0", 16), ("chat-numa1", "16-31", 16, "1", 16)],
        "arm64 with CPUs that say nothing of their core",
    ),
    (
        machines.four_gpus,
        [(f"chat-numa{node}", f"{3 * node}-{3 * node + 2}", 3, str(node), 3) for node in range(4)],
        "a machine with GPUs",
    ),
]


@pytest.mark.parametrize(
    ("write", "expected"), [pytest.param(write, expected, id=name) for write, expected, name in MACHINES]
)
def test_place_gives_each_node_with_cpus_an_instance(
    tmp_path: Path, write: WriteMachine, expected: list[tuple[str, str, int, str, int]]
) -> None:
    layout = place_on(read_topology(write(tmp_path)))
    assert rows(layout) == expected
    assert [one.port for one in layout.instances] == list(range(8003, 8003 + len(expected)))
    assert {one.memory for one in layout.instances} == {Memory.bind if expected[0][3] else None}


def test_weights_of_equal_nodes_are_1_and_of_unequal_ones_their_cores(tmp_path: Path) -> None:
    spec = world.spec({})
    equal = place(spec, read_topology(machines.xeon_6972p_2s(tmp_path / "equal")), Books())
    assert set(normalise_weights(spec, equal.instances).values()) == {1}
    unequal = place(spec, read_topology(machines.uneven(tmp_path / "unequal")), Books())
    assert list(normalise_weights(spec, unequal.instances).values()) == [43, 43, 42]


def test_given_weights_are_kept_as_written() -> None:
    spec = world.spec({"weight": 10})
    layout = place(spec, world.topology(), Books())
    assert normalise_weights(spec, layout.instances) == {"chat-numa0": 10, "chat-numa1": 10}


def test_weights_of_no_instance_are_none() -> None:
    assert normalise_weights(world.spec({}), []) == {}


@pytest.mark.parametrize(
    ("node", "nearest"), [(1, 0), (3, 0)], ids=["one is nearest", "lowest id of equally near ones"]
)
def test_place_on_a_node_without_memory_says_whose_it_uses(tmp_path: Path, node: int, nearest: int) -> None:
    layout = place_on(read_topology(machines.memoryless(tmp_path)))
    assert (
        f"pool 'chat': node {node} has no memory that may be used; its instances use that of node "
        f"{nearest}, the nearest"
    ) in layout.warnings


def test_place_without_a_known_nearest_memory_binds_none() -> None:
    cpus = [frozenset({0}), frozenset({1}), frozenset({2})]
    everything = frozenset({0, 1, 2})
    topology = Topology(
        nodes=tuple(Node(id=n, cpus=own, memory_bytes=0 if n == 0 else 2**30) for n, own in enumerate(cpus)),
        cores=tuple(cpus),
        online=everything,
        allowed=everything,
        allowed_memory_nodes=frozenset({1, 2}),
    )
    layout = place_on(topology)
    assert (layout.instances[0].memory, layout.instances[0].memory_nodes) == (None, frozenset())
    assert layout.warnings == (
        "pool 'chat': memory of the instances on node 0 is not bound: the node has none that may be used, "
        "and no nearest one is known",
    )


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        pytest.param(
            {"smt": "physical"},
            [("chat-numa0", "0-7", 8, "0", 8), ("chat-numa1", "8-15", 8, "1", 8)],
            id="one thread of each core",
        ),
        pytest.param(
            {"reserve_cpus": "0"},
            [("chat-numa0", "1-7,16-23", 8, "0", 8), ("chat-numa1", "8-15,24-31", 8, "1", 8)],
            id="one thread of a core is reserved: its sibling still computes",
        ),
        pytest.param(
            {"reserve_cpus": "0", "smt": "physical"},
            [("chat-numa0", "1-7,16", 8, "0", 8), ("chat-numa1", "8-15", 8, "1", 8)],
            id="the first thread is reserved and one of each core is wanted",
        ),
        pytest.param(
            {"reserve_cpus": "0,16,8,24"},
            [("chat-numa0", "1-7,17-23", 7, "0", 7), ("chat-numa1", "9-15,25-31", 7, "1", 7)],
            id="a whole core of each node is reserved",
        ),
        pytest.param(
            {"reserve_cpus": "4000"},
            [("chat-numa0", "0-7,16-23", 8, "0", 8), ("chat-numa1", "8-15,24-31", 8, "1", 8)],
            id="a CPU that does not exist is reserved",
        ),
        pytest.param({"nodes": "1"}, [("chat-numa1", "8-15,24-31", 8, "1", 8)], id="one node selected"),
        pytest.param(
            {"instances_per_node": 3, "nodes": "0"},
            [
                ("chat-numa0.0", "0-2,16-18", 3, "0", 3),
                ("chat-numa0.1", "3-5,19-21", 3, "0", 3),
                ("chat-numa0.2", "6-7,22-23", 2, "0", 2),
            ],
            id="shares of whole cores, the larger first",
        ),
        pytest.param(
            {"placement": "whole"}, [("chat-whole", "", 16, "", 16)], id="one unbound instance for all"
        ),
        pytest.param(
            {"weight": 5, "nodes": "0"}, [("chat-numa0", "0-7,16-23", 8, "0", 5)], id="weight given"
        ),
    ],
)
def test_place_follows_the_pool(
    tmp_path: Path, pool: Pool, expected: list[tuple[str, str, int, str, int]]
) -> None:
    assert rows(place_on(read_topology(machines.hbm(tmp_path)), pool)) == expected


def test_place_leaves_isolated_cpus_and_those_of_others_alone(tmp_path: Path) -> None:
    machine = machines.Machine(
        cores=machines.number_cores({0: 4, 1: 4}), isolated={4, 12}, slice_cpuset=range(1, 16)
    )
    layout = place_on(read_topology(machines.write_machine(tmp_path, machine)))
    assert [row[1:3] for row in rows(layout)] == [("1-3,8-11", 4), ("5-7,13-15", 3)]


def test_place_gives_a_fully_reserved_node_no_instance_and_says_so() -> None:
    layout = place_on(world.topology(), {"reserve_cpus": "4-7"})
    assert [one.id for one in layout.instances] == ["chat-numa0"]
    assert layout.warnings == (
        "pool 'chat': node 1 gets no instance: each of its CPUs 4-7 is reserved, "
        "isolated, set aside for GPUs or not ours to use",
    )


REFUSED = [
    pytest.param(
        [{"nodes": "0,7"}],
        ["pool[0].nodes: names node 7, which this machine does not have\n  hint: it has 0-3"],
        id="unknown node",
    ),
    pytest.param(
        [{"nodes": "2"}],
        ["pool[0].nodes: names node 2, which has no CPUs"],
        id="node without CPUs",
    ),
    pytest.param(
        [{"instances_per_node": 9}],
        [
            "pool[0].instances_per_node: must be 8 or less, the number of usable cores of node "
            f"{node}, not 9"
            for node in (0, 1)
        ],
        id="more instances than cores",
    ),
    pytest.param(
        [{"reserve_cpus": "0-31"}],
        [
            "pool[0]: has no node with a usable CPU\n"
            "  hint: look at nodes, reserve_cpus and `ovms-scalerctl topology`"
        ],
        id="everything reserved",
    ),
    pytest.param(
        [{}, {"name": "code", "nodes": "1", "listen": "8001"}],
        [
            "pool: 'chat' and 'code' would share cores: chat-numa1 and code-numa1 both want "
            "CPUs 8-15,24-31\n"
            '  hint: give each pool nodes of its own (nodes = "..."); no core ever serves two instances'
        ],
        id="two pools on one node",
    ),
    pytest.param(
        [
            {"nodes": "0", "reserve_cpus": "0-6,16-22", "smt": "physical"},
            {"name": "code", "nodes": "0", "reserve_cpus": "0-15", "listen": "8001"},
        ],
        [
            "pool: 'chat' and 'code' would share cores: chat-numa0 and code-numa0 both want CPUs 7,23\n"
            '  hint: give each pool nodes of its own (nodes = "..."); no core ever serves two instances'
        ],
        id="two pools on two threads of one core",
    ),
    pytest.param(
        [{"nodes": "0"}, {"name": "all", "placement": "whole", "listen": "8001"}],
        [
            "pool: 'chat' and 'all' would share cores: chat-numa0 and all-whole both want CPUs 0-7,16-23\n"
            '  hint: give each pool nodes of its own (nodes = "..."); no core ever serves two instances'
        ],
        id="an unbound instance beside a bound one",
    ),
    pytest.param(
        [{"nodes": "9"}, {"name": "code", "reserve_cpus": "0-31", "listen": "8001"}],
        [
            "pool[0].nodes: names node 9, which this machine does not have\n  hint: it has 0-3",
            "pool[1]: has no node with a usable CPU\n"
            "  hint: look at nodes, reserve_cpus and `ovms-scalerctl topology`",
        ],
        id="two pools that are wrong are both named",
    ),
]


@pytest.mark.parametrize(("pools", "expected"), REFUSED)
def test_place_refuses(tmp_path: Path, pools: list[Pool], expected: list[str]) -> None:
    problems = refuse(read_topology(machines.hbm(tmp_path)), *pools)
    assert [str(problem) for problem in problems] == expected


def test_place_remembers_ports_of_nodes_that_vanish_and_come_back() -> None:
    three = place_on(world.topology(3))
    assert dict(three.books.ports) == {"chat-numa0": 8003, "chat-numa1": 8004, "chat-numa2": 8005}
    one = place_on(world.topology(1), book=dict(three.books.ports))
    assert one.books.ports == three.books.ports
    four = place_on(world.topology(4), book=dict(one.books.ports))
    assert [instance.port for instance in four.instances] == [8003, 8004, 8005, 8006]


def test_place_gives_the_port_of_a_vanished_instance_to_nobody_else() -> None:
    layout = place_on(world.topology(), book={"gone-numa0": 8003, "chat-numa1": 9000})
    assert dict(layout.books.ports) == {"gone-numa0": 8003, "chat-numa1": 9000, "chat-numa0": 8004}


def test_place_never_gives_an_instance_the_port_of_the_clients() -> None:
    layout = place_on(world.topology(), {"listen": "127.0.0.1:8003"})
    assert [one.port for one in layout.instances] == [8004, 8005]


def test_place_refuses_clients_on_the_port_that_an_instance_has() -> None:
    problems = refuse(world.topology(), {"listen": "8004"}, book={"chat-numa1": 8004})
    assert [str(problem) for problem in problems] == [
        "pool[0].listen: must not be 8004, which is the port of instance 'chat-numa1'\n"
        "  hint: ports are remembered; choose another one"
    ]


def test_place_never_gives_an_instance_the_port_of_the_agent() -> None:
    layout = place_on(world.topology(), engine={"first_port": 8002})
    assert [one.port for one in layout.instances] == [8003, 8004]
    layout = place_on(world.topology(), engine={"first_port": 8002}, admin={"listen": ""})
    assert [one.port for one in layout.instances] == [8002, 8003]


def test_place_refuses_the_agent_on_the_port_that_an_instance_has() -> None:
    problems = refuse(world.topology(), {}, book={"chat-numa1": 8002})
    assert [str(problem) for problem in problems] == [
        "admin.listen: must not be 8002, which is the port of instance 'chat-numa1'\n"
        "  hint: ports are remembered; choose another one"
    ]


def test_place_refuses_to_run_out_of_ports() -> None:
    book = {f"old{port}": port for port in range(65000, 65535)}
    problems = refuse(world.topology(), {}, book=book, engine={"first_port": 65000})
    assert [str(problem) for problem in problems] == [
        "engine.first_port: must leave a port for each of 2 instances, not 65000"
    ]


def test_place_is_the_same_for_equal_input(tmp_path: Path) -> None:
    topology = read_topology(machines.xeon_6972p_2s(tmp_path))
    assert place_on(topology) == place_on(topology)


@settings(max_examples=80, deadline=None)
@given(
    cores=st.lists(st.integers(min_value=0, max_value=6), min_size=1, max_size=5),
    threads=st.integers(min_value=1, max_value=3),
    per_node=st.integers(min_value=1, max_value=3),
    reserved=st.sets(st.integers(min_value=0, max_value=40)),
    physical=st.booleans(),
)
def test_place_on_any_machine_shares_no_core_and_wastes_none(
    cores: list[int], threads: int, per_node: int, reserved: set[int], *, physical: bool
) -> None:
    numbered = machines.number_cores(dict(enumerate(cores)), threads=threads)
    nodes = tuple(
        Node(id=node, cpus=frozenset(cpu for core in own for cpu in core), memory_bytes=2**30)
        for node, own in numbered.items()
    )
    everything = frozenset(cpu for node in nodes for cpu in node.cpus)
    topology = Topology(
        nodes=nodes,
        cores=tuple(sorted((frozenset(core) for own in numbered.values() for core in own), key=min)),
        online=everything,
        allowed=everything,
        allowed_memory_nodes=frozenset(node.id for node in nodes),
    )
    pool: Pool = {"instances_per_node": per_node, "reserve_cpus": format_cpu_list(reserved)}
    pool |= {"smt": "physical"} if physical else {}
    try:
        instances = place_on(topology, pool).instances
    except ConfigError:
        usable = [len(topology.cores_in(node.cpus - reserved)) for node in nodes]
        assert not any(usable) or any(0 < count < per_node for count in usable)
        return
    used = [
        core for one in instances for core in map(topology.core_of, map(min, topology.cores_in(one.cpus)))
    ]
    assert len(used) == len(set(used)) == len(topology.cores_in(everything - reserved))
    assert sum(one.inference_threads for one in instances) == len(used)
    assert all(one.cpus and not one.cpus & reserved for one in instances)
    assert all(_one_thread_each(topology, one) for one in instances if physical)


def _one_thread_each(topology: Topology, instance: Instance) -> bool:
    return all(len(part) == 1 for part in topology.cores_in(instance.cpus))
