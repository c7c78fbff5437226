# SPDX-License-Identifier: Apache-2.0
"""Whether an instance fits into the memory of its node before anything is started."""

from dataclasses import dataclass

from ovms_scaler.core.instance import Instance
from ovms_scaler.core.model import ModelFacts
from ovms_scaler.core.spec import Memory, Pool
from ovms_scaler.core.topology import Topology

GIB = 1024**3
# What the process needs beside weights and cache: libraries, activations, tokenizer, compile-time buffers.
RESERVE_BYTES = 1 * GIB
# With one of these the CPU plugin computes 16-bit weights as they are; without, it unpacks them to 32 bits.
NATIVE_16_BIT = frozenset({"amx_bf16", "amx_fp16", "avx512_fp16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """``certain`` when even the least need is above what there is; else the weights' type decides."""

    certain: bool
    text: str
    hint: str


def judge(
    instance: Instance, pool: Pool, model: ModelFacts, topology: Topology, *, sharing: int
) -> Misfit | None:
    """What does not fit, or None. ``sharing`` instances have equal parts of the same memory nodes.

    The engine copies the weights into its own memory at the first inference (measured: 1.04 times the file
    where 16-bit weights are computed natively, 2.04 times where they are unpacked). The type of the
    weights is not in a model's file size: below the smaller factor nothing can help, between the two it
    may fit.
    """
    if instance.gpus:
        return _judge_gpus(instance, pool, model, topology)
    available = _available(instance, topology, sharing)
    if available is None or model.weights_bytes is None:
        return None
    cache = (pool.graph.cache_size or 0) * GIB
    factor = 1 if topology.cpu_flags & NATIVE_16_BIT else 2
    least = least_bytes(pool, model.weights_bytes)
    most = model.weights_bytes * factor + cache + RESERVE_BYTES
    if most <= available:
        return None
    certain = least > available and pool.memory is Memory.bind
    return Misfit(
        certain=certain,
        text=f"instance {instance.id!r} needs {_gib(least)}{'' if least == most else f' to {_gib(most)}'} "
        f"(weights {_gib(model.weights_bytes)}, cache {_gib(cache)}, reserve {_gib(RESERVE_BYTES)}) and has "
        f"{_gib(available)}{' as its part' if sharing > 1 else ''} of the memory of {_where(instance)}",
        hint="use smaller weights (int8, int4), a smaller graph.cache_size, fewer instances_per_node, or "
        'memory = "preferred"',
    )


def least_bytes(pool: Pool, weights_bytes: int) -> int:
    """What an instance on CPUs needs in any case: its weights once, its cache and what else it has."""
    return weights_bytes + (pool.graph.cache_size or 0) * GIB + RESERVE_BYTES


def _judge_gpus(instance: Instance, pool: Pool, model: ModelFacts, topology: Topology) -> Misfit | None:
    """Weights are computed as they are; what the host has does not matter, as they are not kept there."""
    sizes = [gpu.memory_bytes for gpu in topology.gpus if gpu.address in instance.gpus]
    available = sum(size or 0 for size in sizes)
    if model.weights_bytes is None or not sizes or None in sizes:
        return None
    cache = (pool.graph.cache_size or 0) * GIB
    if model.weights_bytes + cache <= available:
        return None
    return Misfit(
        certain=True,
        text=f"instance {instance.id!r} needs {_gib(model.weights_bytes + cache)} (weights "
        f"{_gib(model.weights_bytes)}, cache {_gib(cache)}), and GPU {', '.join(instance.gpus)} has "
        f"{_gib(available)}",
        hint="use smaller weights (int8, int4), a smaller graph.cache_size, or one instance on several GPUs "
        'with placement = "hetero"',
    )


def _available(instance: Instance, topology: Topology, sharing: int) -> int | None:
    nodes = [
        node for node in topology.nodes if not instance.memory_nodes or node.id in instance.memory_nodes
    ]
    sizes = [node.memory_bytes for node in nodes]
    if any(size is None for size in sizes) or not sizes:
        return None
    return sum(size or 0 for size in sizes) // max(1, sharing)


def _where(instance: Instance) -> str:
    return f"node {min(instance.memory_nodes)}" if instance.memory_nodes else "the machine"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
