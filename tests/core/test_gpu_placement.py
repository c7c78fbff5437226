# SPDX-License-Identifier: Apache-2.0
"""Instances on GPUs: their cores, their groups, and what nobody else notices when a card goes or comes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import pytest
import world
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_scaler.core.books import Books
from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.placement import Layout, place
from ovms_scaler.core.spec import Memory
from ovms_scaler.core.target import Target, render_proxy_files, resolve
from ovms_scaler.core.topology import Gpu, Topology
from ovms_scaler.core.unit import drop_in_path
from ovms_scaler.errors import ConfigError

Pool = dict[str, object]
CHAT: Pool = {"placement": "gpu"}
PAIRS: Pool = {"placement": "hetero"}
CPU: Pool = {"name": "cpu", "listen": "8001"}
A, B, C, D = "0000:03:00.0", "0000:04:00.0", "0000:83:00.0", "0000:84:00.0"
FOUR = (
    world.gpu(A, 0, render=128),
    world.gpu(B, 0, render=129),
    world.gpu(C, 1, render=130),
    world.gpu(D, 1, render=131),
)
EIGHT = world.topology(cores=8)  # CPUs 0-15 and 16-31, in pairs


def on(topology: Topology, *gpus: Gpu) -> Topology:
    return replace(topology, gpus=gpus)


def put(
    *pools: Pool,
    topology: Topology = EIGHT,
    gpus: Iterable[Gpu] = FOUR,
    books: Books | None = None,
    **keys: bool,
) -> Layout:
    return place(world.spec(*pools), on(topology, *gpus), books or Books(), **keys)


def rows(layout: Layout) -> list[tuple[str, str]]:
    return [(one.id, format_cpu_list(one.cpus)) for one in layout.instances]


def only(layout: Layout, name: str) -> Instance:
    (found,) = (one for one in layout.instances if one.id == name)
    return found


def test_each_card_has_an_instance_on_the_highest_cores_of_its_node_and_the_rest_computes() -> None:
    layout = put(CHAT, CPU)
    assert rows(layout) == [
        (f"chat-gpu-{A}", "12-15"),
        (f"chat-gpu-{B}", "8-11"),
        (f"chat-gpu-{C}", "28-31"),
        (f"chat-gpu-{D}", "24-27"),
        ("cpu-numa0", "0-7"),
        ("cpu-numa1", "16-23"),
    ]
    first = layout.instances[0]
    assert (first.device, first.gpus, first.render_nodes) == ("GPU", (A,), ("/dev/dri/renderD128",))
    assert (first.node, first.memory, *first.memory_nodes) == (0, Memory.bind, 0)
    assert (first.inference_threads, first.problem, first.is_waiting) == (2, None, False)
    assert (only(layout, "cpu-numa0").inference_threads, layout.warnings) == (4, ())


@pytest.mark.parametrize(
    ("pool", "topology", "gpus", "expected"),
    [
        pytest.param({"host_cpus_per_gpu": 2}, EIGHT, FOUR[:1], "14-15", id="fewer"),
        pytest.param({"host_cpus_per_gpu": 3}, EIGHT, FOUR[:1], "12-15", id="whole cores"),
        pytest.param({"host_cpus_per_gpu": 100}, EIGHT, FOUR[:1], "8-15", id="half of the node at most"),
        pytest.param({"host_cpus_per_gpu": 100}, EIGHT, FOUR[:2], "12-15", id="half of the node in all"),
        pytest.param({}, world.topology(cores=3), FOUR[:2], "4-5", id="one core at least"),
        pytest.param({"smt": "physical"}, EIGHT, FOUR[:1], "12,14", id="one thread of each core"),
        pytest.param({"reserve_cpus": "15"}, EIGHT, FOUR[:1], "12-14", id="a reserved thread"),
        pytest.param({"reserve_cpus": "12-15"}, EIGHT, FOUR[:1], "8-11", id="reserved cores"),
        pytest.param({}, EIGHT, [world.gpu(A, None)], "12-15", id="node unknown: the first"),
        pytest.param({}, EIGHT, [world.gpu(A, 7)], "12-15", id="node without CPUs: the first"),
        pytest.param({"memory": "preferred"}, EIGHT, FOUR[:1], "12-15", id="memory preferred"),
        pytest.param(
            {}, replace(EIGHT, isolated=frozenset({14, 15})), FOUR[:1], "10-13", id="isolated CPUs"
        ),
        pytest.param(
            {}, replace(EIGHT, allowed=EIGHT.allowed - {15}), FOUR[:1], "12-14", id="not ours to use"
        ),
    ],
)
def test_host_cpus(pool: Pool, topology: Topology, gpus: Iterable[Gpu], expected: str) -> None:
    layout = put({**CHAT, **pool}, topology=topology, gpus=gpus)
    assert format_cpu_list(layout.instances[0].cpus) == expected


def test_node_without_usable_cpus_lends_to_the_nearest() -> None:
    nodes = world.topology(3, cores=4).nodes
    machine = world.topology(3, cores=4)
    far = ((0, 30), (1, 20))
    machine = replace(
        machine,
        nodes=(*nodes[:2], replace(nodes[2], cpus=frozenset(), distances=far)),
        cores=machine.cores[:8],
        online=frozenset(range(16)),
        allowed=frozenset(range(16)),
    )
    one = put(CHAT, topology=machine, gpus=[world.gpu(A, 2)]).instances[0]
    assert (format_cpu_list(one.cpus), one.node, *one.memory_nodes) == ("12-15", 1, 1)


def test_cards_that_are_too_many_for_a_node_wait_and_say_so() -> None:
    layout = put(CHAT, topology=world.topology(1), gpus=[*FOUR[:2], world.gpu(C, 0)])
    assert rows(layout) == [(f"chat-gpu-{A}", "2-3"), (f"chat-gpu-{B}", "0-1"), (f"chat-gpu-{C}", "")]
    last = layout.instances[-1]
    assert last.is_waiting
    assert last.problem == f"no core near GPU {C} is set aside for its host threads"
    assert last.hint == "its node has too few cores for so many GPUs: gpu.exclude, or less in reserve_cpus"


def test_thread_that_one_pool_reserves_is_no_core_for_another() -> None:
    """Each pool may use one thread of the same core; only one of them gets the core."""
    layout = put(
        {**CHAT, "gpus": [A], "reserve_cpus": "15", "host_cpus_per_gpu": 1},
        {**CPU, **CHAT, "gpus": [B], "host_cpus_per_gpu": 1},
        {"name": "numa", "listen": "9002", "nodes": "0", "smt": "physical"},
        gpus=FOUR[:2],
    )
    assert rows(layout) == [
        (f"chat-gpu-{A}", "14"),
        (f"cpu-gpu-{B}", "12-13"),
        ("numa-numa0", "0,2,4,6,8,10"),
    ]


def test_cores_stay_with_a_card_as_long_as_it_may_have_them() -> None:
    before = put(CHAT, CPU, gpus=[FOUR[1]])
    after = put(CHAT, CPU, gpus=FOUR[:2], books=before.books)
    assert rows(before)[0] == (f"chat-gpu-{B}", "12-15")
    assert rows(after)[:2] == [(f"chat-gpu-{A}", "8-11"), (f"chat-gpu-{B}", "12-15")]
    reserved = put({**CHAT, "reserve_cpus": "12"}, CPU, gpus=FOUR[:2], books=after.books)
    assert rows(reserved)[:2] == [(f"chat-gpu-{A}", "8-11"), (f"chat-gpu-{B}", "13-15")]


def test_planned_change_gives_a_card_as_many_cores_as_are_wanted_now() -> None:
    before = put(CHAT, CPU, gpus=FOUR[:1])
    for size, expected in ((2, "14-15"), (8, "8-15")):
        after = put({**CHAT, "host_cpus_per_gpu": size}, CPU, gpus=FOUR[:1], books=before.books)
        assert rows(after)[0] == (f"chat-gpu-{A}", expected)


def test_half_a_core_that_was_kept_becomes_a_whole_one() -> None:
    """While one thread of a core was offline the other was set aside; its sibling must go to nobody."""
    gone = frozenset({15})
    machine = replace(
        EIGHT,
        cores=tuple(core - gone for core in EIGHT.cores),
        nodes=tuple(replace(node, cpus=node.cpus - gone) for node in EIGHT.nodes),
        online=EIGHT.online - gone,
        allowed=EIGHT.allowed - gone,
    )
    pool = {**CHAT, "host_cpus_per_gpu": 2}
    before = put(pool, CPU, topology=machine, gpus=FOUR[:1])
    assert rows(before)[0] == (f"chat-gpu-{A}", "14")
    for planned in (True, False):
        after = put(pool, CPU, gpus=FOUR[:1], books=before.books, planned=planned)
        assert rows(after)[:2] == [(f"chat-gpu-{A}", "14-15" if planned else "14"), ("cpu-numa0", "0-13")]


def test_unbound_instance_leaves_no_core_for_a_card() -> None:
    pools = CHAT, {**CPU, "placement": "whole"}
    with pytest.raises(
        ConfigError, match=rf"'chat' and 'cpu' would share cores: chat-gpu-{A} and cpu-whole"
    ):
        put(*pools, gpus=FOUR[:1])
    plugged = put(*pools, gpus=FOUR[:1], planned=False)
    assert (plugged.instances[0].is_waiting, plugged.instances[1].is_waiting) == (True, False)


# What an instance waits for, or what forbids to start it

DRIVERLESS = world.gpu(A, render=None, driver=None)


@pytest.mark.parametrize(
    ("gpu", "problem", "hint"),
    [
        pytest.param(
            DRIVERLESS,
            f"GPU {A} has no driver",
            "`modprobe xe` (or i915 for older ones); `dmesg` says why one was not bound",
            id="no driver",
        ),
        pytest.param(
            replace(DRIVERLESS, vendor_id="0x1002"),
            f"GPU {A} has no driver",
            "load its driver; `dmesg` says why one was not bound",
            id="no driver of another vendor",
        ),
        pytest.param(
            world.gpu(A, render=None, driver="vfio-pci"),
            f"driver vfio-pci offers no render node for GPU {A}",
            "`dmesg` says why",
            id="no render node",
        ),
    ],
)
def test_card_that_cannot_be_used_is_waited_for(gpu: Gpu, problem: str, hint: str) -> None:
    layout = put({**CHAT, "gpus": [A, B]}, CPU, gpus=[gpu, FOUR[1]])
    one, other = layout.instances[:2]
    assert (one.is_waiting, one.problem, one.hint) == (True, problem, hint)
    assert (one.missing_gpus, one.render_nodes) == ((), ())
    assert (other.is_waiting, other.problem) == (False, None)


def test_address_that_is_not_there_is_waited_for_and_what_there_is_is_said() -> None:
    layout = put({**CHAT, "gpus": [C]}, CPU, gpus=reversed(FOUR[:2]))
    one = layout.instances[0]
    assert (one.id, one.is_waiting, one.missing_gpus) == (f"chat-gpu-{C}", True, (C,))
    assert one.problem == f"there is no GPU at {C}"
    assert one.hint == f"ovms-scalerctl topology; GPUs of this machine: {A}, {B}"
    assert [row[0] for row in rows(layout)[1:]] == ["cpu-numa0", "cpu-numa1"]
    assert C not in layout.books.cards
    (other,) = put({**CHAT, "gpus": [C]}, gpus=[]).instances
    assert other.hint == "ovms-scalerctl topology; GPUs of this machine: none"


def test_card_that_was_pulled_out_is_waited_for() -> None:
    books = put(CHAT).books
    one = put(CHAT, gpus=FOUR[1:], books=books, planned=False).instances[0]
    assert (one.is_waiting, one.missing_gpus, one.render_nodes) == (True, (A,), ())
    assert (one.problem, one.hint) == (
        f"its GPU {A} is not there",
        f'ovms-scalerctl topology; to give it up: gpu.exclude = ["{A}"]',
    )


def test_card_that_may_not_be_opened_is_not_used() -> None:
    layout = put(CHAT, CPU, gpus=[replace(FOUR[0], accessible=False), FOUR[1]])
    one, other = layout.instances[:2]
    assert (one.is_waiting, one.problem, one.hint) == (
        False,
        f"the group render may not read and write /dev/dri/renderD128 of GPU {A}",
        "ls -l /dev/dri/renderD128; udev gives it to the group render with mode 0660",
    )
    assert other.problem is None


def test_pool_without_any_card_leaves_the_rest_alone() -> None:
    layout = put(CHAT, CPU, gpus=[])
    assert rows(layout) == [("cpu-numa0", "0-15"), ("cpu-numa1", "16-31")]
    (warning,) = layout.warnings
    assert warning.startswith("pool 'chat' has no instance: this machine has no GPU; ")


def test_card_that_two_pools_want_is_an_error_of_the_plan_and_a_warning_when_it_is_plugged() -> None:
    pools = {**CHAT, "nodes": "0"}, {**CPU, "placement": "gpu", "gpus": ["0xe20b"]}
    with pytest.raises(ConfigError) as caught:
        put(*pools, gpus=FOUR[:1])
    (problem,) = caught.value.problems
    assert problem.rule == f"must not choose {A} of pool 'chat' for 'cpu' too"
    plugged = put(*pools, gpus=FOUR[:1], planned=False)
    assert rows(plugged) == [(f"chat-gpu-{A}", "12-15")]
    assert plugged.warnings == (f"pool[1].gpus must not choose {A} of pool 'chat' for 'cpu' too",)


# Cards that come and go

MIXES: list[tuple[Pool, ...]] = [
    (CHAT, CPU),
    (PAIRS, CPU),
    ({**CHAT, "nodes": "0"}, {**PAIRS, "name": "pairs", "nodes": "1"}, CPU),
    (CHAT, {"name": "cpu"}),  # behind one URL
]


def target(
    *pools: Pool, gpus: Iterable[Gpu] = FOUR, books: Books | None = None, planned: bool = True
) -> Target:
    spec = world.spec(*pools)
    models = {pool.name: world.model() for pool in spec.pool}
    return resolve(spec, on(EIGHT, *gpus), models, books or Books(), planned=planned)


def nginx_conf(wanted: Target) -> str:
    return render_proxy_files(wanted, {}).files["nginx.conf"]


def drop_ins(wanted: Target) -> Mapping[str, str]:
    return {
        name: one.files[drop_in_path(name)]
        for name, one in wanted.wanted.items()
        if not one.instance.is_waiting
    }


@settings(max_examples=30, deadline=None)
@given(
    mix=st.sampled_from(MIXES),
    steps=st.lists(
        st.tuples(st.sets(st.sampled_from([0, 1, 2, 3])), st.permutations(range(128, 132))), max_size=6
    ),
)
def test_cards_that_go_and_come_move_nobody_else(
    mix: tuple[Pool, ...], steps: list[tuple[set[int], list[int]]]
) -> None:
    first = now = target(*mix)
    assert not any(one.is_waiting for one in first.instances)
    for there, renders in steps:
        gpus = [replace(FOUR[k], render_node=f"/dev/dri/renderD{renders[k]}") for k in sorted(there)]
        now = target(*mix, gpus=gpus, books=now.books, planned=False)
        away = {one.address for k, one in enumerate(FOUR) if k not in there}
        assert now.books == first.books
        assert now.wanted.keys() == first.wanted.keys()
        assert now.proxy == first.proxy
        assert nginx_conf(now) == nginx_conf(first)
        for name, one in now.wanted.items():
            before, is_hit = first.wanted[name].instance, bool(away.intersection(one.instance.gpus))
            assert one.instance.is_waiting is is_hit
            assert (one.files == {}) is is_hit
            same = (
                "id",
                "port",
                "cpus",
                "gpus",
                "device",
                "weight",
                "node",
                "memory_nodes",
                "inference_threads",
            )
            for field in same:
                assert getattr(one.instance, field) == getattr(before, field)
            if not one.instance.gpus:
                assert one.files == first.wanted[name].files
    # With the same renderD numbers everything is as it was, also for a planned change.
    for planned in (False, True):
        again = target(*mix, books=now.books, planned=planned)
        assert again == first
        assert drop_ins(again) == drop_ins(first)


def test_planned_change_while_a_card_is_away_keeps_its_place() -> None:
    first = target(CHAT, CPU)
    away = target(CHAT, CPU, gpus=FOUR[1:], books=first.books)
    assert away.books == first.books
    assert away.wanted[f"chat-gpu-{A}"].instance.is_waiting
    assert drop_ins(away) == {name: text for name, text in drop_ins(first).items() if A not in name}
    assert target(CHAT, CPU, books=away.books) == first


def test_new_card_takes_no_core_from_instances_on_cpus_until_the_next_planned_change() -> None:
    first = put(CHAT, CPU, gpus=FOUR[:1])
    plugged = put(CHAT, CPU, gpus=FOUR[:2], books=first.books, planned=False)
    new = only(plugged, f"chat-gpu-{B}")
    assert (new.is_waiting, new.problem, new.hint) == (
        True,
        f"no core near GPU {B} is set aside for its host threads",
        "`ovms-scalerctl reload` sets some aside, by changing the instances there one at a time",
    )
    assert [one for one in plugged.instances if one != new] == list(first.instances)
    # It is remembered that it wants some, but not given any by looking again.
    assert put(CHAT, CPU, gpus=FOUR[:2], books=plugged.books, planned=False) == plugged
    planned = put(CHAT, CPU, gpus=FOUR[:2], books=plugged.books)
    assert rows(planned) == [
        (f"chat-gpu-{A}", "12-15"),
        (f"chat-gpu-{B}", "8-11"),
        ("cpu-numa0", "0-7"),
        ("cpu-numa1", "16-31"),
    ]
    assert only(planned, f"chat-gpu-{B}").port == new.port


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        pytest.param({"nodes": "1"}, "8-11", id="a node that nobody computes on"),
        pytest.param({"nodes": "1", "smt": "physical"}, "8-11", id="the same"),
        pytest.param({"smt": "physical"}, "", id="second threads of cores in use are none"),
        pytest.param({"reserve_cpus": "0-3"}, "0-3", id="reserved by those who compute"),
        pytest.param({"reserve_cpus": "0,2-3"}, "2-3", id="whole cores only"),
    ],
)
def test_new_card_borrows_cores_that_nobody_uses_and_keeps_them(cpu: Pool, expected: str) -> None:
    first = put(CHAT, {**CPU, **cpu}, gpus=FOUR[:1])
    plugged = put(CHAT, {**CPU, **cpu}, gpus=FOUR[:2], books=first.books, planned=False)
    new = only(plugged, f"chat-gpu-{B}")
    assert (format_cpu_list(new.cpus), new.is_waiting) == (expected, not expected)
    assert [one for one in plugged.instances if one != new] == list(first.instances)
    away = put(CHAT, {**CPU, **cpu}, gpus=FOUR[:1], books=plugged.books, planned=False)
    assert only(away, f"chat-gpu-{B}").cpus == new.cpus


def test_new_cards_of_two_pools_borrow_no_core_twice() -> None:
    pools = (
        {**CHAT, "gpus": [A], "reserve_cpus": "15", "host_cpus_per_gpu": 1},
        {**CHAT, "name": "code", "listen": "9002", "gpus": [B], "host_cpus_per_gpu": 1},
        {**CPU, "nodes": "1"},
    )
    plugged = put(*pools, gpus=FOUR[:2], books=put(*pools, gpus=[]).books, planned=False)
    assert rows(plugged)[:2] == [(f"chat-gpu-{A}", "14"), (f"code-gpu-{B}", "12-13")]


def test_discrete_card_that_is_plugged_takes_nothing_from_an_integrated_one_in_use() -> None:
    integrated = world.gpu("0000:00:02.0", integrated=True)
    first = put(CHAT, gpus=[integrated])
    plugged = put(CHAT, gpus=[integrated, FOUR[0]], books=first.books, planned=False)
    assert plugged.instances[0] == first.instances[0]
    assert [one.id for one in plugged.instances[1:]] == [f"chat-gpu-{A}"]
    planned = put(CHAT, gpus=[integrated, FOUR[0]], books=plugged.books)
    assert [one.id for one in planned.instances] == [f"chat-gpu-{A}"]


def test_card_that_no_pool_uses_any_more_is_forgotten_by_a_planned_change_only() -> None:
    first = put(CHAT, gpus=FOUR[:2])
    spec = world.spec(CHAT, gpu={"exclude": [B]})
    for planned, expected in ((False, {A, B}), (True, {A})):
        layout = place(spec, on(EIGHT, *FOUR[:2]), first.books, planned=planned)
        assert layout.books.cards.keys() == expected
    nobody = put(CPU, gpus=FOUR[:2], books=first.books)
    assert (nobody.books.cards, rows(nobody)[0]) == ({}, ("cpu-numa0", "0-15"))


def test_ids_and_ports_of_remembered_ones_outlive_their_pool() -> None:
    first = put(CHAT, CPU)
    without = put(CPU, books=first.books)
    again = put(CHAT, CPU, books=without.books)
    assert [(one.id, one.port) for one in again.instances] == [(one.id, one.port) for one in first.instances]


# Several cards for one instance


def groups(layout: Layout) -> dict[str, tuple[str, ...]]:
    return {one.id: one.gpus for one in layout.instances if "-hetero" in one.id}


def test_groups_are_of_one_node() -> None:
    crossed = (replace(FOUR[1], numa_node=1), replace(FOUR[2], numa_node=0))
    layout = put(PAIRS, CPU, gpus=[FOUR[0], *crossed, FOUR[3]])
    assert groups(layout) == {"chat-hetero0": (A, C), "chat-hetero1": (B, D)}
    one = layout.instances[0]
    assert (one.device, one.node, *one.memory_nodes) == ("HETERO:GPU.0,GPU.1", 0, 0)
    assert one.render_nodes == ("/dev/dri/renderD128", "/dev/dri/renderD130")
    assert (format_cpu_list(one.cpus), one.inference_threads) == ("8-15", 4)


def test_left_over_cards_form_groups_across_nodes_and_the_last_serves_nobody() -> None:
    three = [*FOUR[:3], *(replace(FOUR[3], address=f"0000:9{k}:00.0") for k in range(2))]
    layout = put({**PAIRS, "gpus_per_instance": 2}, gpus=three)
    assert groups(layout) == {"chat-hetero0": (A, B), "chat-hetero1": (C, "0000:90:00.0")}
    assert layout.warnings == ("pool 'chat': GPU 0000:91:00.0 is left over, as an instance needs 2",)
    layout = put(PAIRS, gpus=[FOUR[0], FOUR[2]])
    one = layout.instances[0]
    assert (one.gpus, one.node, *sorted(one.memory_nodes)) == ((A, C), None, 0, 1)
    assert format_cpu_list(one.cpus) == "12-15,28-31"


def test_three_cards_for_one_instance() -> None:
    layout = put({**PAIRS, "gpus_per_instance": 3})
    assert groups(layout) == {"chat-hetero0": (A, B, C)}
    assert layout.instances[0].device == "HETERO:GPU.0,GPU.1,GPU.2"
    assert layout.warnings == (f"pool 'chat': GPU {D} is left over, as an instance needs 3",)


def test_losing_one_card_makes_its_instance_wait_and_regroups_nobody() -> None:
    first = put(PAIRS)
    for planned in (False, True):
        layout = put(PAIRS, gpus=FOUR[1:], books=first.books, planned=planned)
        assert groups(layout) == groups(first)
        assert [one.is_waiting for one in layout.instances] == [True, False]
        assert layout.instances[0].missing_gpus == (A,)
        assert layout.instances[0].render_nodes == ("/dev/dri/renderD129",)


def test_new_card_regroups_nobody_and_pairs_with_one_that_is_left_over() -> None:
    first = put(PAIRS, gpus=[FOUR[1], *FOUR[2:]])
    assert groups(first) == {"chat-hetero0": (C, D)}
    plugged = put(PAIRS, books=first.books, planned=False)
    assert groups(plugged) == {"chat-hetero0": (C, D), "chat-hetero1": (A, B)}
    assert plugged.instances[0] == first.instances[0]


def test_card_that_is_left_over_and_away_is_in_no_new_group() -> None:
    first = put(PAIRS, gpus=FOUR[:1])
    other = put(PAIRS, gpus=FOUR[1:2], books=first.books, planned=False)
    assert groups(other) == {}
    assert other.warnings == (f"pool 'chat': GPU {A}, {B} is left over, as an instance needs 2",)
    both = put(PAIRS, gpus=FOUR[:2], books=other.books, planned=False)
    assert groups(both) == {"chat-hetero0": (A, B)}


def test_group_of_which_one_card_has_no_cores_waits() -> None:
    cpu = {**CPU, "nodes": "0"}
    first = put(PAIRS, cpu, gpus=FOUR[:1])
    plugged = put(PAIRS, cpu, gpus=FOUR[:2], books=first.books, planned=False)
    assert groups(plugged) == {"chat-hetero0": (A, B)}
    assert (plugged.instances[0].is_waiting, format_cpu_list(plugged.instances[0].cpus)) == (True, "12-15")


def test_new_cards_do_not_complete_a_group_that_lost_one() -> None:
    first = put(PAIRS, gpus=FOUR[:2])
    other = put(PAIRS, gpus=FOUR[1:], books=first.books, planned=False)
    assert groups(other) == {"chat-hetero0": (A, B), "chat-hetero1": (C, D)}
    assert other.instances[0].is_waiting


def test_excluded_card_dissolves_its_group_at_the_next_planned_change() -> None:
    first = put(PAIRS)
    spec = world.spec(PAIRS, gpu={"exclude": [A]})
    layout = place(spec, on(EIGHT, *FOUR), first.books)
    assert groups(layout) == {"chat-hetero1": (C, D)}
    assert layout.instances[0].port == first.instances[1].port
    assert layout.warnings == (f"pool 'chat': GPU {B} is left over, as an instance needs 2",)


def test_more_cards_for_one_instance_are_grouped_anew() -> None:
    first = put(PAIRS)
    assert groups(put({**PAIRS, "gpus_per_instance": 4}, books=first.books)) == {
        "chat-hetero0": (A, B, C, D)
    }


def test_groups_of_several_pools_are_kept_apart() -> None:
    pools = {**PAIRS, "nodes": "1"}, {**PAIRS, "name": "chat-hetero0", "listen": "8001", "nodes": "0"}
    first = put(*pools)
    assert groups(first) == {"chat-hetero0": (C, D), "chat-hetero0-hetero0": (A, B)}
    assert put(*pools, books=first.books) == first


def test_ten_groups_are_in_order_of_their_numbers() -> None:
    many = [world.gpu(f"0000:{k:02x}:00.0", render=128 + k) for k in range(1, 25)]
    layout = put(PAIRS, topology=world.topology(1, cores=32), gpus=many)
    assert [one.id for one in layout.instances] == [f"chat-hetero{k}" for k in range(12)]


# Any machine, any mix

SIZES = st.lists(st.integers(min_value=1, max_value=6), min_size=1, max_size=4)
NODE = st.integers(min_value=0, max_value=3)
HOST_POOLS: list[Callable[[str], list[Pool]]] = [
    lambda _: [],
    lambda reserved: [{**CPU, "reserve_cpus": reserved}],
    lambda reserved: [{**CPU, "smt": "physical", "reserve_cpus": reserved}],
    lambda _: [{**CPU, "nodes": "0", "instances_per_node": 2}],
]
GPU_POOLS: list[list[Pool]] = [
    [CHAT],
    [PAIRS],
    [{**CHAT, "host_cpus_per_gpu": 1}],
    [{**CHAT, "gpus": ["0x0000"], "reserve_cpus": "1"}, {**PAIRS, "name": "pairs", "gpus": ["0x0001"]}],
    [
        {**CHAT, "nodes": "0", "smt": "physical"},
        {**CHAT, "name": "rest", "nodes": "1-3", "reserve_cpus": "0-2"},
    ],
]


def machine(sizes: list[int], threads: int) -> Topology:
    """Cores of so many threads, numbered as Linux does: all first threads, then all second ones."""
    total = sum(sizes)
    cores = [frozenset(first + total * k for k in range(threads)) for first in range(total)]
    bounds = [sum(sizes[:node]) for node in range(len(sizes) + 1)]
    small = world.topology(len(sizes))
    everything = frozenset().union(*cores)
    return replace(
        small,
        nodes=tuple(
            replace(node, cpus=frozenset().union(*cores[bounds[node.id] : bounds[node.id + 1]]))
            for node in small.nodes
        ),
        cores=tuple(sorted(cores, key=min)),
        online=everything,
        allowed=everything,
    )


def check_cores(layout: Layout, topology: Topology) -> None:
    owners: dict[frozenset[int], str] = {}
    for one in layout.instances:
        for cpu in one.cpus if not one.is_waiting else ():
            assert owners.setdefault(topology.core_of(cpu), one.id) == one.id


def check(layout: Layout, topology: Topology) -> None:
    """No core in two instances; cards have whole cores of their own, of half of the node or one each."""
    check_cores(layout, topology)
    used = [address for one in layout.instances for address in one.gpus if not one.is_waiting]
    assert len(set(used)) == len(used)
    cards = layout.books.cards.values()
    for node in topology.nodes:
        local = [card for card in cards if card.host_cpus & node.cpus]
        taken = sum(len(topology.cores_in(card.host_cpus)) for card in local)
        assert taken <= max(len(topology.cores_in(node.cpus)) // 2, len(local))


@settings(max_examples=120, deadline=None)
@given(
    sizes=SIZES,
    threads=st.integers(min_value=1, max_value=2),
    cards=st.lists(st.tuples(st.none() | NODE, st.integers(0, 1)), max_size=6),
    host=st.sampled_from(HOST_POOLS),
    gpu_pools=st.sampled_from(GPU_POOLS),
    reserved=st.sets(st.integers(min_value=0, max_value=12), max_size=4),
    hidden=st.lists(st.sets(st.integers(0, 5)), max_size=3),
)
def test_no_core_is_ever_in_two_instances(
    sizes: list[int],
    threads: int,
    cards: list[tuple[int | None, int]],
    host: Callable[[str], list[Pool]],
    gpu_pools: list[Pool],
    reserved: set[int],
    hidden: list[set[int]],
) -> None:
    topology = machine(sizes, threads)
    pools = [*host(format_cpu_list(reserved)), *gpu_pools]
    gpus = [
        world.gpu(f"0000:{k:02x}:00.0", node, render=128 + k, device_id=f"0x000{kind}")
        for k, (node, kind) in enumerate(cards)
    ]
    try:
        layout = put(*pools, topology=topology, gpus=gpus)
        # With fewer cards each may take more cores, so that none are left for CPUs.
        now = put(*pools, topology=topology, gpus=gpus[: len(gpus) // 2])
    except ConfigError as error:
        rules = {problem.rule.split(",")[0] for problem in error.problems}
        assert rules <= {"has no node with a usable CPU"} or all("must be" in rule for rule in rules)
        return
    check(layout, topology)
    # Whatever the order in which the cards are found, and planned once more: the same.
    assert put(*pools, topology=topology, gpus=reversed(gpus)) == layout
    assert put(*pools, topology=topology, gpus=gpus, books=layout.books) == layout
    # Cards that were hidden at first are plugged one after another.
    for away in [*hidden, set()]:
        there = [one for k, one in enumerate(gpus) if k not in away]
        before = {one.id: one for one in now.instances}
        now = put(*pools, topology=topology, gpus=there, books=now.books, planned=False)
        for one in now.instances:
            if not one.gpus and one.id in before:
                assert one == before[one.id]
        check_cores(now, topology)
