# SPDX-License-Identifier: Apache-2.0
"""The machine as it is drawn: sockets, their nodes, whose each core is, memory, GPUs beside their node."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.quantities import format_bytes, format_share, format_used
from ovms_scaler.page.cards import Card, read_cards, to_percent
from ovms_scaler.page.cores import Core, cores_of, read_cores
from ovms_scaler.page.marks import Mark
from ovms_scaler.page.reading import (
    Document,
    parse_cpus,
    read_cpus,
    read_id,
    read_list,
    read_number,
    read_table,
    read_text,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """An instance, or a kind of core that is nobody's, and how many cores of a node it has."""

    mark: Mark | None
    name: str
    kind: str
    cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An instance's part of a node's memory, in percent of it; without an instance, everybody else's."""

    mark: Mark | None
    title: str
    left_percent: float
    width_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A NUMA node; figures that are None are unknown. ``memory`` is "" where there is none at all."""

    id: int | None
    title: str
    cpus: str
    cores: tuple[Core, ...]
    owners: tuple[Owner, ...]
    cpu: str | None
    cpu_percent: float | None
    memory: str | None
    memory_parts: tuple[Part, ...]
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """Nodes that stand together; ``title`` is "" where the machine does not say in which socket."""

    title: str
    nodes: tuple[NodeView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """``loose`` are cards of which the node is not known; ``offline`` are CPUs."""

    summary: str
    sockets: tuple[Socket, ...]
    loose: tuple[Card, ...]
    offline: str


def read_machine(topology: Document, measures: Document, marks: Sequence[Mark]) -> Machine:
    """The drawing of a topology document, with what measures say of it."""
    cores = read_cores(topology, marks)
    cards = read_cards(topology, measures, marks, cores)
    measured = {read_id(one, "id"): one for one in read_list(measures, "nodes")}
    memory = {
        read_text(one, "id"): read_table(one, "memory_by_node") for one in read_list(measures, "instances")
    }
    nodes = []
    for entry in read_list(topology, "nodes"):
        number, cpus = read_id(entry, "id"), read_cpus(entry, "cpus")
        own = {mark: read_number(memory.get(mark.name, {}), str(number)) or 0.0 for mark in marks}
        beside = tuple(sorted((one for one in cards if one.node == number), key=lambda one: one.address))
        nodes.append(_node(entry, measured.get(number, {}), cores_of(cpus, cores), own, beside))
    placed = {node.id for node in nodes}
    return Machine(
        summary=_summary(topology, nodes, cards),
        sockets=_by_socket(topology, nodes),
        loose=tuple(card for card in cards if card.node not in placed),
        offline=format_cpu_list(read_cpus(topology, "offline")),
    )


def _node(
    entry: Document,
    measured: Document,
    cores: tuple[Core, ...],
    memory: Mapping[Mark, float],
    cards: tuple[Card, ...],
) -> NodeView:
    share = read_number(measured, "cpu_share")
    return NodeView(
        id=read_id(entry, "id"),
        title=f"Node {read_id(entry, 'id')}",
        cpus=format_cpu_list(read_cpus(entry, "cpus")),
        cores=cores,
        owners=_owners(cores, cards),
        cpu=None if share is None else format_share(share),
        cpu_percent=None if share is None else to_percent(share),
        memory=_memory(entry, measured),
        memory_parts=_parts(entry, measured, memory),
        cards=cards,
    )


def _owners(cores: Iterable[Core], cards: Iterable[Card]) -> tuple[Owner, ...]:
    """Who has how many, in the order of the cores; what a card beside the node says is left to it."""
    counts: dict[tuple[Mark | None, str], int] = {}
    for core in cores:
        counts[core.mark, core.kind] = counts.get((core.mark, core.kind), 0) + 1
    told = {card.mark for card in cards}
    return tuple(
        Owner(mark=mark, name=mark.name if mark else kind, kind=kind, cores=count)
        for (mark, kind), count in counts.items()
        if mark is None or mark not in told
    )


def _memory(entry: Document, measured: Document) -> str | None:
    """Used and all of a node's memory; "" for a node that has none."""
    size = read_number(measured, "memory_bytes")
    size = read_number(entry, "memory_bytes") if size is None else size
    used = read_number(measured, "memory_used_bytes")
    if size is None:
        return None if used is None else f"{format_bytes(used)} used"
    if size == 0:
        return ""
    return f"\N{EN DASH} of {format_bytes(size)}" if used is None else format_used(used, size)


def _parts(entry: Document, measured: Document, memory: Mapping[Mark, float]) -> tuple[Part, ...]:
    size = read_number(measured, "memory_bytes") or read_number(entry, "memory_bytes")
    if not size:
        return ()
    parts: list[Part] = []
    known = left = 0.0
    for mark, own in memory.items():
        parts.append(_part(mark, own, size, left))
        known, left = known + own, left + parts[-1].width_percent
    others = (read_number(measured, "memory_used_bytes") or 0.0) - known
    parts.append(_part(None, others, size, left))
    return tuple(part for part in parts if part.width_percent > 0)


def _part(mark: Mark | None, own: float, size: float, left: float) -> Part:
    name = mark.name if mark else "everybody else"
    return Part(
        mark=mark,
        title=f"{name}: {format_bytes(max(own, 0.0))}",
        left_percent=round(left, 1),
        width_percent=round(min(to_percent(own / size), 100.0 - left), 1),
    )


def _by_socket(topology: Document, nodes: Sequence[NodeView]) -> tuple[Socket, ...]:
    """Nodes below their sockets, if there are several and each node with CPUs is in exactly one."""
    sockets = [(read_id(entry, "id"), read_cpus(entry, "cpus")) for entry in read_list(topology, "sockets")]
    homes = {
        node.title: [number for number, cpus in sockets if cpus & parse_cpus(node.cpus)] for node in nodes
    }
    if len(sockets) < 2 or any(len(homes[node.title]) != 1 for node in nodes if node.cpus):
        return (Socket(title="", nodes=tuple(nodes)),) if nodes else ()
    found = [
        Socket(title=f"Socket {number}", nodes=tuple(n for n in nodes if homes[n.title] == [number]))
        for number, _ in sockets
    ]
    without_cpus = tuple(node for node in nodes if not homes[node.title])
    found += [Socket(title="Memory without CPUs", nodes=without_cpus)] if without_cpus else []
    return tuple(socket for socket in found if socket.nodes)


def _summary(topology: Document, nodes: Sequence[NodeView], cards: Sequence[Card]) -> str:
    cpus = len(read_cpus(topology, "online"))
    cores = sum(len(node.cores) for node in nodes)
    counts = [
        (len(read_list(topology, "sockets")), "socket"),
        (len(nodes), "node"),
        (cores, "core"),
        (cpus, "CPU"),
        (sum(card.is_there for card in cards), "GPU"),
    ]
    return ", ".join(f"{count:,} {noun}{'' if count == 1 else 's'}" for count, noun in counts if count)
