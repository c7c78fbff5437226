# SPDX-License-Identifier: Apache-2.0
"""The machine, for people."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table

from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.topology import Node, Topology
from ovms_scaler.ctl.tables import cell, indented, make_table, stack

GIB = 1024**3


def render_topology(topology: Topology) -> RenderableType:
    """Nodes, CPUs that stand apart, GPUs and warnings."""
    parts: list[RenderableType] = [_render_nodes(topology), "", *_render_cpus(topology)]
    if topology.gpus:
        parts += ["", _render_gpus(topology)]
    if topology.warnings:
        parts += ["", cell("Warnings", "bold yellow"), *(indented(text) for text in topology.warnings)]
    return stack(*parts)


def _render_nodes(topology: Topology) -> Table:
    table = make_table(
        "Node", "CPUs", "Cores", "Memory", "Socket", "Distance", right=("Node", "Cores", "Memory")
    )
    for node in topology.nodes:
        table.add_row(
            cell(node.id),
            cell(format_cpu_list(node.cpus)),
            cell(len(topology.cores_in(node.cpus))),
            cell(_memory(node)),
            cell(_sockets(topology, node)),
            cell(_distances(node)),
        )
    return table


def _memory(node: Node) -> str | None:
    if node.memory_bytes is None:
        return None
    return f"{node.memory_bytes / GIB:.1f} GiB" if node.memory_bytes else "none"


def _sockets(topology: Topology, node: Node) -> str:
    return format_cpu_list(number for number, cpus in topology.packages if cpus & node.cpus and number >= 0)


def _distances(node: Node) -> str:
    """Other nodes by distance, the nearest first: "12 to 1-2, 21 to 3-5"."""
    groups: dict[int, list[int]] = {}
    for other, distance in node.distances:
        groups.setdefault(distance, []).append(other)
    return ", ".join(f"{distance} to {format_cpu_list(groups[distance])}" for distance in sorted(groups))


def _render_cpus(topology: Topology) -> Iterator[RenderableType]:
    threads = max((len(core) for core in topology.cores), default=0)
    yield cell(
        f"{len(topology.online)} CPUs online on {len(topology.cores)} cores, "
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


def _render_gpus(topology: Topology) -> Table:
    table = make_table("GPU", "Render node", "Vendor:device", "Driver", "Node", right=("Node",))
    for gpu in topology.gpus:
        ids = ":".join((one or "?").removeprefix("0x") for one in (gpu.vendor_id, gpu.device_id))
        table.add_row(
            cell(gpu.address), cell(gpu.render_node), cell(ids), cell(gpu.driver), cell(gpu.numa_node)
        )
    return table
