# SPDX-License-Identifier: Apache-2.0
"""What the host is made of: NUMA nodes, physical cores, sockets, memory, distances and GPUs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ovms_scaler.core.cpulist import format_cpu_list


class CoreType(StrEnum):
    """The two kinds of core of a hybrid processor."""

    PERFORMANCE = "performance"
    EFFICIENCY = "efficiency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A NUMA node that is online.

    ``cpus`` are the online ones. ``memory_bytes`` is the node's MemTotal: None when unknown, 0 for a node
    without memory. ``distances`` are (node id, distance) pairs to the other online nodes, ascending by id,
    empty when unknown.
    """

    id: int
    cpus: frozenset[int]
    memory_bytes: int | None
    distances: tuple[tuple[int, int], ...] = ()

    @property
    def has_memory(self) -> bool:
        """False only for a node known to have none."""
        return self.memory_bytes != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A display controller on the PCI bus, named by address: renderD numbers change from boot to boot.

    ``render_node`` is None where no driver offers one. Ids are as sysfs prints them ("0x8086"); what sysfs
    does not say is None. ``integrated`` is known for Intel's on bare metal only. ``memory_bytes`` is the
    card's own memory. A function that SR-IOV made of another card names it in ``physical_function``, and
    that one counts such ``virtual_functions``. ``accessible`` says whether the group render may open the
    render node; None where that cannot be seen.
    """

    address: str
    render_node: str | None
    vendor_id: str | None
    device_id: str | None
    driver: str | None
    numa_node: int | None
    integrated: bool | None = None
    memory_bytes: int | None = None
    physical_function: str | None = None
    virtual_functions: int = 0
    accessible: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A compute accelerator, such as an NPU, with a device node below /dev/accel; listed, not used."""

    address: str
    device_node: str
    vendor_id: str | None
    device_id: str | None
    driver: str | None
    numa_node: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """A host as seen at one moment.

    nodes: ascending by id; a host without NUMA is one node 0 with every online CPU.
    cores: the online SMT siblings of each physical core, ascending by lowest CPU; in all, ``online``.
    packages: (socket id, online CPUs) ascending by id; empty when unknown.
    offline: CPUs that are present and not online.
    allowed: online CPUs that PID 1 and the instances' slice (else the root cgroup) may use; isolated ones
    are not taken out here.
    allowed_memory_nodes: nodes with memory that both may allocate from.
    cpu_flags: "flags" or "Features" of /proc/cpuinfo; empty when unknown.
    core_types: (cpu, type) pairs of a hybrid processor ascending by CPU, otherwise empty.
    numa: whether the kernel shows NUMA nodes at all.
    gpus: ascending by PCI address, those without a render node included.
    accelerators: ascending by PCI address.
    warnings: what was missing or contradictory, one sentence each, for people.
    """

    nodes: tuple[Node, ...]
    cores: tuple[frozenset[int], ...]
    packages: tuple[tuple[int, frozenset[int]], ...] = ()
    online: frozenset[int]
    offline: frozenset[int] = frozenset()
    isolated: frozenset[int] = frozenset()
    allowed: frozenset[int]
    allowed_memory_nodes: frozenset[int]
    cpu_flags: frozenset[str] = frozenset()
    core_types: tuple[tuple[int, CoreType], ...] = ()
    numa: bool = True
    gpus: tuple[Gpu, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()
    warnings: tuple[str, ...] = ()
    # Looking a CPU up in the tuples would make every pass quadratic in the number of CPUs.
    _core_of: Mapping[int, frozenset[int]] = field(init=False, repr=False, compare=False)
    _node_of: Mapping[int, Node] = field(init=False, repr=False, compare=False)
    _node_by_id: Mapping[int, Node] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_core_of", {cpu: core for core in self.cores for cpu in core})
        object.__setattr__(self, "_node_of", {cpu: node for node in self.nodes for cpu in node.cpus})
        object.__setattr__(self, "_node_by_id", {node.id: node for node in self.nodes})

    def node(self, node_id: int) -> Node | None:
        return self._node_by_id.get(node_id)

    def node_of(self, cpu: int) -> Node | None:
        """The node that holds an online CPU; None when it is offline or on no known node."""
        return self._node_of.get(cpu)

    def core_of(self, cpu: int) -> frozenset[int]:
        """The online siblings of a CPU, itself included; empty when it is not online."""
        return self._core_of.get(cpu, frozenset())

    def cores_in(self, cpus: Iterable[int]) -> tuple[frozenset[int], ...]:
        """What ``cpus`` holds of each physical core, ascending by lowest CPU, offline ones left out."""
        wanted = frozenset(cpus)
        touched = {core for cpu in wanted if (core := self._core_of.get(cpu))}
        return tuple(sorted((core & wanted for core in touched), key=min))


def group_cores(
    online: Iterable[int], siblings: Mapping[int, frozenset[int]]
) -> tuple[tuple[frozenset[int], ...], frozenset[int]]:
    """Make physical cores of what each CPU says its siblings are, and name the CPUs that contradict others.

    A CPU that says nothing belongs to whoever names it, else to a core of its own. Of two CPUs that
    contradict one another the lower is believed, so that every online CPU is in exactly one core.
    """
    left = set(online)
    said = dict(siblings)
    for cpu in sorted(siblings):
        for other in siblings[cpu]:
            said.setdefault(other, siblings[cpu])
    cores: list[frozenset[int]] = []
    contradicting: set[int] = set()
    for cpu in sorted(left):
        if cpu not in left:
            continue
        named = said.get(cpu, frozenset()) | {cpu}
        core = frozenset(named & left)
        contradicting.update(other for other in core if said.get(other, named) != named)
        left -= core
        cores.append(core)
    return tuple(cores), frozenset(contradicting)


def is_integrated(address: str, *, vendor_id: str | None, virtual: bool) -> bool | None:
    """Whether a GPU shares the processor's memory.

    Intel's integrated graphics, and its virtual functions, are always device 2 of the first bus (QEMU's
    docs/igd-assign.txt). A hypervisor may put any card there, and other vendors have no
    such rule.
    """
    if vendor_id != "0x8086" or virtual:
        return None
    return address.startswith("0000:00:02.")


def memory_node_for(topology: Topology, node_id: int) -> int | None:
    """The node whose memory the CPUs (or the GPU) of a node are to use.

    It is the node itself when it has memory that may be used, else the nearest node that has, the lowest id
    among equals. None when there is no such node, or when several are left and no distance tells them apart.
    """
    candidates = topology.allowed_memory_nodes
    if node_id in candidates:
        return node_id
    if len(candidates) <= 1:
        return min(candidates, default=None)
    distances = ((_distance(topology, node_id, other), other) for other in candidates)
    nearest = min(((far, other) for far, other in distances if far is not None), default=None)
    return nearest[1] if nearest else None


def _distance(topology: Topology, origin: int, other: int) -> int | None:
    for one, two in ((origin, other), (other, origin)):
        node = topology.node(one)
        if node is not None and (distance := dict(node.distances).get(two)) is not None:
            return distance
    return None


def topology_document(topology: Topology) -> dict[str, object]:
    """The JSON of ``ovms-scalerctl topology --json``.

    The entries of "nodes" and "gpus" are relied on from outside and hold nothing else; what people find
    useful beside them stands in keys of its own.
    """
    kinds = sorted({kind for _, kind in topology.core_types}, reverse=True)
    return {
        "nodes": [_node_document(topology, node) for node in topology.nodes],
        "gpus": [_device_document(gpu) for gpu in topology.gpus if gpu.render_node is not None],
        "numa": topology.numa,
        "online": format_cpu_list(topology.online),
        "offline": format_cpu_list(topology.offline),
        "isolated": format_cpu_list(topology.isolated),
        "allowed": format_cpu_list(topology.allowed),
        "allowed_memory_nodes": format_cpu_list(topology.allowed_memory_nodes),
        "cores": [format_cpu_list(core) for core in topology.cores],
        "threads_per_core": max((len(core) for core in topology.cores), default=0),
        "sockets": [{"id": number, "cpus": format_cpu_list(cpus)} for number, cpus in topology.packages],
        "distances": {
            str(node.id): {str(other): distance for other, distance in node.distances}
            for node in topology.nodes
        },
        "core_types": {
            kind.value: format_cpu_list(cpu for cpu, own in topology.core_types if own is kind)
            for kind in kinds
        },
        "gpus_without_render_node": [
            _device_document(gpu) for gpu in topology.gpus if gpu.render_node is None
        ],
        "gpu_details": {gpu.address: _gpu_details(gpu) for gpu in topology.gpus},
        "accelerators": [_device_document(accelerator) for accelerator in topology.accelerators],
        "warnings": list(topology.warnings),
    }


def _node_document(topology: Topology, node: Node) -> dict[str, object]:
    return {
        "id": node.id,
        "cpus": format_cpu_list(node.cpus),
        "cores": len(topology.cores_in(node.cpus)),
        "memory_bytes": node.memory_bytes,
    }


def _device_document(device: Gpu | Accelerator) -> dict[str, object]:
    node = (
        {"render_node": device.render_node}
        if isinstance(device, Gpu)
        else {"device_node": device.device_node}
    )
    return {
        "address": device.address,
        **node,
        "vendor_id": device.vendor_id,
        "device_id": device.device_id,
        "driver": device.driver,
        "numa_node": device.numa_node,
    }


def _gpu_details(gpu: Gpu) -> dict[str, object]:
    return {
        "integrated": gpu.integrated,
        "memory_bytes": gpu.memory_bytes,
        "physical_function": gpu.physical_function,
        "virtual_functions": gpu.virtual_functions,
    }
