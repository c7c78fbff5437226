# SPDX-License-Identifier: Apache-2.0
"""The machine, for people."""

from collections.abc import Iterable, Iterator

from rich.console import RenderableType

from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.topology import Topology
from ovms_scaler.ctl.tables import cell, indented, stack
from ovms_scaler.ctl.topology_tree import render_tree


def render_topology(topology: Topology) -> RenderableType:
    """What it is made of, CPUs that stand apart, and warnings."""
    parts: list[RenderableType] = [render_tree(topology), "", *_render_cpus(topology)]
    if topology.warnings:
        parts += ["", cell("Warnings", "bold yellow"), *(indented(text) for text in topology.warnings)]
    return stack(*parts)


def _render_cpus(topology: Topology) -> Iterator[RenderableType]:
    threads = max((len(core) for core in topology.cores), default=0)
    yield cell(
        f"{len(topology.online)} CPUs online on {len(topology.cores)} cores{_sockets(topology.packages)}, "
        f"{threads} thread{'' if threads == 1 else 's'} per core at most"
    )
    if not topology.numa:
        yield cell("This kernel shows no NUMA nodes: the whole machine is taken for node 0.")
    apart = (
        ("offline", topology.offline),
        ("isolated, not used", topology.isolated & topology.online),
        ("not ours to use", topology.online - topology.allowed),
    )
    for what, cpus in apart:
        if cpus:
            yield indented(f"{what}: {format_cpu_list(cpus)}")
    for kind in dict.fromkeys(kind for _, kind in topology.core_types):
        own = format_cpu_list(cpu for cpu, other in topology.core_types if other is kind)
        yield indented(f"{kind.value} cores: {own}")
    closed = {node.id for node in topology.nodes if node.memory_bytes} - topology.allowed_memory_nodes
    if closed:
        yield indented(f"memory not ours to use: nodes {format_cpu_list(closed)}")


def _sockets(packages: Iterable[object]) -> str:
    count = len(tuple(packages))
    return f" of {count} socket{'' if count == 1 else 's'}" if count else ""
