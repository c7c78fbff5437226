# SPDX-License-Identifier: Apache-2.0
"""What fits into a node's memory, what surely does not, and what is not known well enough to say."""

from dataclasses import replace

import pytest
import world

from ovms_scaler.core.books import Books
from ovms_scaler.core.fit import GIB, Misfit, judge
from ovms_scaler.core.placement import place
from ovms_scaler.core.topology import Topology

# Two nodes; what is asked for below is measured against 64 GiB on each.
MACHINE = world.topology()


def machine(*memory: int | None, flags: frozenset[str] = frozenset({"amx_bf16"})) -> Topology:
    nodes = tuple(replace(node, memory_bytes=own) for node, own in zip(MACHINE.nodes, memory, strict=True))
    return replace(MACHINE, nodes=nodes, cpu_flags=flags)


BIG = machine(64 * GIB, 64 * GIB)
OLD = machine(64 * GIB, 64 * GIB, flags=frozenset({"avx2"}))


def verdict(
    weights_gib: float | None,
    *,
    topology: Topology = BIG,
    sharing: int = 1,
    pool: dict[str, object] | None = None,
) -> Misfit | None:
    spec = world.spec(pool or {})
    instance = place(spec, topology, Books()).instances[0]
    weights = None if weights_gib is None else int(weights_gib * GIB)
    return judge(instance, spec.pool[0], world.model(weights_bytes=weights), topology, sharing=sharing)


@pytest.mark.parametrize(
    ("weights_gib", "topology", "sharing", "pool"),
    [
        pytest.param(63, BIG, 1, {}, id="exactly: weights and the reserve"),
        pytest.param(31.5, OLD, 1, {}, id="exactly: weights unpacked to 32 bits"),
        pytest.param(31, BIG, 2, {}, id="exactly: half of the node"),
        pytest.param(23, BIG, 1, {"graph": {"cache_size": 40}}, id="exactly: with the cache"),
        pytest.param(126, BIG, 1, {"placement": "whole"}, id="exactly: unbound, all memory"),
        pytest.param(None, BIG, 1, {}, id="weights unknown"),
        pytest.param(900, machine(None, None), 1, {}, id="memory unknown"),
        pytest.param(
            900, machine(None, 64 * GIB), 1, {"placement": "whole"}, id="memory of one node unknown"
        ),
    ],
)
def test_fits_or_cannot_be_told(
    weights_gib: float | None, topology: Topology, sharing: int, pool: dict[str, object]
) -> None:
    assert verdict(weights_gib, topology=topology, sharing=sharing, pool=pool) is None


@pytest.mark.parametrize(
    ("weights_gib", "topology", "sharing", "pool", "certain", "text"),
    [
        pytest.param(
            64, BIG, 1, {}, True,
            "instance 'chat-numa0' needs 65.0 GiB (weights 64.0 GiB, cache 0.0 GiB, reserve 1.0 GiB) and "
            "has 64.0 GiB of the memory of node 0",
            id="even the least is too much",
        ),
        pytest.param(
            32, OLD, 1, {}, False,
            "instance 'chat-numa0' needs 33.0 GiB to 65.0 GiB (weights 32.0 GiB, cache 0.0 GiB, reserve "
            "1.0 GiB) and has 64.0 GiB of the memory of node 0",
            id="the type of the weights decides",
        ),
        pytest.param(
            32, BIG, 2, {}, True,
            "instance 'chat-numa0' needs 33.0 GiB (weights 32.0 GiB, cache 0.0 GiB, reserve 1.0 GiB) and "
            "has 32.0 GiB as its part of the memory of node 0",
            id="two share a node",
        ),
        pytest.param(
            24, BIG, 1, {"graph": {"cache_size": 40}}, True,
            "instance 'chat-numa0' needs 65.0 GiB (weights 24.0 GiB, cache 40.0 GiB, reserve 1.0 GiB) and "
            "has 64.0 GiB of the memory of node 0",
            id="the cache is too large",
        ),
        pytest.param(
            64, BIG, 1, {"memory": "preferred"}, False,
            "instance 'chat-numa0' needs 65.0 GiB (weights 64.0 GiB, cache 0.0 GiB, reserve 1.0 GiB) and "
            "has 64.0 GiB of the memory of node 0",
            id="memory may come from elsewhere",
        ),
        pytest.param(
            128, BIG, 1, {"placement": "whole"}, True,
            "instance 'chat-whole' needs 129.0 GiB (weights 128.0 GiB, cache 0.0 GiB, reserve 1.0 GiB) and "
            "has 128.0 GiB of the memory of the machine",
            id="too much for the machine",
        ),
    ],
)  # fmt: skip
def test_does_not_fit(
    weights_gib: float,
    topology: Topology,
    sharing: int,
    pool: dict[str, object],
    text: str,
    *,
    certain: bool,
) -> None:
    misfit = verdict(weights_gib, topology=topology, sharing=sharing, pool=pool)
    assert misfit is not None
    assert (misfit.certain, misfit.text) == (certain, text)
    assert "smaller weights" in misfit.hint


@pytest.mark.parametrize("flag", ["amx_bf16", "amx_fp16", "avx512_fp16"])
def test_weights_of_16_bits_stay_as_they_are_on_a_cpu_that_computes_them(flag: str) -> None:
    assert verdict(60, topology=machine(64 * GIB, 64 * GIB, flags=frozenset({"avx2", flag}))) is None


def test_memory_of_the_node_that_lends_it_counts() -> None:
    """A node without memory uses that of the nearest: its size is what must do."""
    machine_without = replace(machine(0, 64 * GIB), allowed_memory_nodes=frozenset({1}))
    misfit = verdict(64, topology=machine_without)
    assert misfit is not None
    assert misfit.text.endswith("has 64.0 GiB of the memory of node 1")


# On GPUs: the card's memory counts, the host's does not.

A, B = "0000:03:00.0", "0000:04:00.0"


def on_gpus(
    weights_gib: float | None, *memory_gib: float | None, pool: dict[str, object] | None = None
) -> Misfit | None:
    """What does not fit on the first instance; ``memory_gib`` of one card or two."""
    cards = [
        world.gpu(address, memory_bytes=None if size is None else int(size * GIB))
        for address, size in zip((A, B), memory_gib, strict=False)
    ]
    spec = world.spec({"placement": "gpu", **(pool or {})})
    topology = replace(BIG, gpus=tuple(cards))
    instance = place(spec, topology, Books()).instances[0]
    weights = None if weights_gib is None else int(weights_gib * GIB)
    return judge(instance, spec.pool[0], world.model(weights_bytes=weights), topology, sharing=1)


HETERO = {"placement": "hetero"}


@pytest.mark.parametrize(
    ("weights_gib", "memory_gib", "pool"),
    [
        pytest.param(12, [12], {}, id="exactly"),
        pytest.param(8, [12], {"graph": {"cache_size": 4}}, id="exactly: with the cache"),
        pytest.param(24, [12, 12], HETERO, id="exactly: on two cards"),
        pytest.param(None, [12], {}, id="weights unknown"),
        pytest.param(900, [None], {}, id="memory unknown"),
        pytest.param(900, [12, None], HETERO, id="memory of one card unknown"),
    ],
)
def test_fits_on_gpus_or_cannot_be_told(
    weights_gib: float | None, memory_gib: list[float | None], pool: dict[str, object]
) -> None:
    assert on_gpus(weights_gib, *memory_gib, pool=pool) is None


@pytest.mark.parametrize(
    ("weights_gib", "memory_gib", "pool", "text"),
    [
        pytest.param(
            12.5,
            [12, 48],
            {},
            f"instance 'chat-gpu-{A}' needs 12.5 GiB (weights 12.5 GiB, cache 0.0 GiB), and GPU {A} has "
            "12.0 GiB",
            id="weights",
        ),
        pytest.param(
            8,
            [12],
            {"graph": {"cache_size": 5}},
            f"instance 'chat-gpu-{A}' needs 13.0 GiB (weights 8.0 GiB, cache 5.0 GiB), and GPU {A} has "
            "12.0 GiB",
            id="cache",
        ),
        pytest.param(
            25,
            [12, 12],
            HETERO,
            "instance 'chat-hetero0' needs 25.0 GiB (weights 25.0 GiB, cache 0.0 GiB), and GPU "
            f"{A}, {B} has 24.0 GiB",
            id="two cards",
        ),
    ],
)
def test_does_not_fit_on_gpus(
    weights_gib: float, memory_gib: list[float], pool: dict[str, object], text: str
) -> None:
    misfit = on_gpus(weights_gib, *memory_gib, pool=pool)
    assert misfit is not None
    assert (misfit.certain, misfit.text) == (True, text)
    assert misfit.hint == (
        "use smaller weights (int8, int4), a smaller graph.cache_size, or one instance on several GPUs with "
        'placement = "hetero"'
    )
