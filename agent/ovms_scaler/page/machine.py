# SPDX-License-Identifier: Apache-2.0
"""The machine as it is drawn: sockets, their nodes, whose each core is, memory, GPUs beside their node."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.quantities import format_bytes, format_share, format_used
from ovms_scaler.page.cards import Card, read_cards, to_percent
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
    read_texts,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """A physical core: ``mark`` is whose it is; if nobody's, ``kind`` is "free", "isolated" or "closed"."""

    cpus: str
    mark: Mark | None
    kind: str


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
    cards = read_cards(topology, measures, marks)
    holders = _holders(topology, marks)
    nodes = [
        _read_node(entry, topology, measures, holders, marks, cards)
        for entry in read_list(topology, "nodes")
    ]
    placed = {node.id for node in nodes}
    return Machine(
        summary=_summary(topology, nodes, cards),
        sockets=_by_socket(topology, nodes),
        loose=tuple(card for card in cards if card.node not in placed),
        offline=format_cpu_list(read_cpus(topology, "offline")),
    )


def _holders(topology: Document, marks: Iterable[Mark]) -> Mapping[int, Mark]:
    """Whose each CPU is. One that is bound to none has what nobody else has."""
    holders: dict[int, Mark] = {}
    unbound = [mark for mark in marks if mark.is_unbound]
    for mark in marks:
        for cpu in mark.cpus:
            holders.setdefault(cpu, mark)
    if unbound:
        for cpu in read_cpus(topology, "allowed"):
            holders.setdefault(cpu, unbound[0])
    return holders


def _read_node(
    entry: Document,
    topology: Document,
    measures: Document,
    holders: Mapping[int, Mark],
    marks: Sequence[Mark],
    cards: Sequence[Card],
) -> NodeView:
    number, cpus = read_id(entry, "id"), read_cpus(entry, "cpus")
    cores = _cores(cpus, topology, holders)
    measured = next((one for one in read_list(measures, "nodes") if read_id(one, "id") == number), {})
    share = read_number(measured, "cpu_share")
    own = tuple(sorted((card for card in cards if card.node == number), key=lambda card: card.address))
    return NodeView(
        id=number,
        title=f"Node {number}",
        cpus=format_cpu_list(cpus),
        cores=cores,
        owners=_owners(cores, own),
        cpu=None if share is None else format_share(share),
        cpu_percent=None if share is None else to_percent(share),
        memory=_memory(entry, measured),
        memory_parts=_parts(number, entry, measured, measures, marks),
        cards=own,
    )


def _cores(cpus: frozenset[int], topology: Document, holders: Mapping[int, Mark]) -> tuple[Core, ...]:
    """The node's physical cores by their lowest CPU; a CPU without a known core is one by itself."""
    isolated, allowed = read_cpus(topology, "isolated"), read_cpus(topology, "allowed")
    known = [parse_cpus(text) & cpus for text in read_texts(topology, "cores")]
    left = cpus - frozenset().union(*known)
    siblings = sorted([core for core in known if core] + [frozenset({cpu}) for cpu in left], key=min)
    cores = []
    for core in siblings:
        mark = next((holders[cpu] for cpu in sorted(core) if cpu in holders), None)
        kind = "isolated" if core <= isolated else "free" if core & allowed or not allowed else "closed"
        cores.append(Core(cpus=format_cpu_list(core), mark=mark, kind="" if mark else kind))
    return tuple(cores)


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


def _parts(
    number: int | None, entry: Document, measured: Document, measures: Document, marks: Iterable[Mark]
) -> tuple[Part, ...]:
    size = read_number(measured, "memory_bytes") or read_number(entry, "memory_bytes")
    if not size:
        return ()
    of_instance = {
        read_text(one, "id"): read_table(one, "memory_by_node") for one in read_list(measures, "instances")
    }
    parts: list[Part] = []
    known = left = 0.0
    for mark in marks:
        own = read_number(of_instance.get(mark.name, {}), str(number)) or 0.0
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
