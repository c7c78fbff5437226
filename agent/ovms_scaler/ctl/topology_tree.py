# SPDX-License-Identifier: Apache-2.0
"""A machine as a tree of sockets, NUMA nodes, GPUs and accelerators, for people."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.topology import Accelerator, Gpu, Node, Topology
from ovms_scaler.ctl.tables import cell, make_table

GIB = 1024**3

# They keep a device for guests: driver-api/vfio.rst of the kernel's documentation.
_FOR_GUESTS = frozenset({"vfio-pci", "xe-vfio-pci", "pci-stub"})

Cells = tuple[str, str, str, str]
"""CPUs, cores, memory and distances of nodes; device node and id, driver, memory and kind of devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A row and what stands below it."""

    name: str
    cells: Cells
    children: Sequence["Branch"] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guides:
    """What leads to a row, and what stands below that before the rows of its children."""

    child: tuple[str, str]
    last: tuple[str, str]


_LINES = Guides(child=("├─", "│ "), last=("└─", "  "))
_ASCII = Guides(child=("|-", "| "), last=("`-", "  "))


def render_tree(topology: Topology) -> Table:
    """One table, so that the columns of all rows are aligned."""
    names = ["", "CPUs", "Cores", "Memory", "Distance"]
    if topology.gpus or topology.accelerators:
        names = ["", "CPUs\nDevice node, id", "Cores\nDriver", "Memory", "Distance\nKind"]
    table = make_table(*names, right=("Memory",))
    table.columns[0].no_wrap = True
    # Lines cannot be printed in an encoding that has none.
    guides = _LINES if (sys.stdout.encoding or "").lower().startswith("utf") else _ASCII
    for name, cells in _rows(_grow(topology), guides):
        table.add_row(cell(name), *(cell(text) if text else "" for text in cells))
    return table


def _rows(branch: Branch, guides: Guides, lead: str = "", below: str = "") -> Iterator[tuple[str, Cells]]:
    yield lead + branch.name, branch.cells
    for child in branch.children:
        first, rest = guides.last if child is branch.children[-1] else guides.child
        yield from _rows(child, guides, below + first, below + rest)


def _grow(topology: Topology) -> Branch:
    """The whole machine; what is on no known node stands below the machine itself."""
    devices = _grow_devices(topology)
    nodes = {
        node.id: Branch(
            name=f"node {node.id}",
            cells=(*_sum(topology, [node]), _distances(node)),
            children=devices.pop(node.id, []),
        )
        for node in topology.nodes
    }
    children: list[Branch] = []
    for number, own in _nodes_by_socket(topology).items():
        below = [nodes.pop(node.id) for node in own]
        children.append(Branch(name=f"socket {number}", cells=(*_sum(topology, own), ""), children=below))
    children += nodes.values()
    children += [device for own in devices.values() for device in own]
    return Branch(name="machine", cells=(*_sum(topology, topology.nodes), ""), children=children)


def _nodes_by_socket(topology: Topology) -> Mapping[int, Sequence[Node]]:
    """Empty unless there are several sockets, and every node with CPUs is in one of them."""
    sockets = {number: [n for n in topology.nodes if n.cpus & cpus] for number, cpus in topology.packages}
    placed = [node.id for own in sockets.values() for node in own]
    return sockets if len(sockets) > 1 and len(placed) == len(set(placed)) else {}


def _sum(topology: Topology, nodes: Sequence[Node]) -> tuple[str, str, str]:
    """CPUs, cores and memory; a size that is unknown makes the sum unknown."""
    cpus = frozenset(cpu for node in nodes for cpu in node.cpus)
    sizes = [node.memory_bytes for node in nodes]
    total = None if None in sizes else sum(size for size in sizes if size)
    return format_cpu_list(cpus) or "-", str(len(topology.cores_in(cpus))), _memory(total, nothing="none")


def _memory(size: int | None, *, nothing: str) -> str:
    if size is None:
        return "-"
    return f"{size / GIB:.1f} GiB" if size else nothing


def _distances(node: Node) -> str:
    """Other nodes by distance, the nearest first: "12 to 1-2, 21 to 3-5"."""
    groups: dict[int, list[int]] = {}
    for other, distance in node.distances:
        groups.setdefault(distance, []).append(other)
    return (
        ", ".join(f"{distance} to {format_cpu_list(groups[distance])}" for distance in sorted(groups)) or "-"
    )


def _grow_devices(topology: Topology) -> dict[int | None, list[Branch]]:
    """Node -> GPUs, then accelerators; functions of SR-IOV stand below the GPU they are of."""
    split = {gpu.address for gpu in topology.gpus if gpu.physical_function is None}
    functions: dict[str, list[Branch]] = {}
    homes: dict[int | None, list[Branch]] = {}
    devices: list[Gpu | Accelerator] = [*topology.gpus, *topology.accelerators]
    width = max((len(_device_node(device)) for device in devices), default=0)
    for device in devices:
        physical = device.physical_function if isinstance(device, Gpu) else None
        own = functions.setdefault(device.address, []) if device.address in split else []
        branch = _grow_device(device, width=width, nested=physical in split, children=own)
        if physical in split and physical is not None:
            functions.setdefault(physical, []).append(branch)
        else:
            homes.setdefault(device.numa_node, []).append(branch)
    return homes


def _grow_device(
    device: Gpu | Accelerator, *, width: int, nested: bool, children: Sequence[Branch]
) -> Branch:
    ids = ":".join((one or "?").removeprefix("0x") for one in (device.vendor_id, device.device_id))
    gpu = device if isinstance(device, Gpu) else None
    return Branch(
        name=device.address,
        cells=(
            f"{_device_node(device):{width}} {ids}",
            device.driver or "-",
            _memory(gpu.memory_bytes, nothing="-") if gpu else "-",
            ", ".join(_kinds(gpu, nested=nested)) if gpu else "accelerator",
        ),
        children=children,
    )


def _device_node(device: Gpu | Accelerator) -> str:
    path = device.render_node if isinstance(device, Gpu) else device.device_node
    return path.rpartition("/")[2] if path else "-"


def _kinds(gpu: Gpu, *, nested: bool) -> Iterator[str]:
    """What it is, and why it cannot be used."""
    if gpu.physical_function is not None:
        yield "VF" if nested else f"VF of {gpu.physical_function}"
    else:
        yield {True: "integrated", False: "discrete", None: "GPU"}[gpu.integrated]
    if gpu.virtual_functions:
        yield f"{gpu.virtual_functions} VF{'' if gpu.virtual_functions == 1 else 's'}"
    if gpu.render_node is None:
        if gpu.driver is None:
            yield "no driver"
        else:
            yield "for guests" if gpu.driver in _FOR_GUESTS else "renders nothing"
    elif gpu.accessible is False:
        yield "no access"
