# SPDX-License-Identifier: Apache-2.0
"""Instances on GPUs: which cards form one, and which cores are set aside for their host threads."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ovms_scaler.core.books import Books, Card
from ovms_scaler.core.cpulist import parse_cpu_list
from ovms_scaler.core.gpus import Candidate, GpuShares
from ovms_scaler.core.instance import Cores, Instance
from ovms_scaler.core.spec import Placement, Pool, Smt, Spec
from ovms_scaler.core.topology import Node, Topology, memory_node_for

# What a driver needs to be loaded, by vendor.
_MODULES = {"0x8086": "`modprobe xe` (or i915 for older ones)"}


def remember(spec: Spec, topology: Topology, books: Books, shares: GpuShares, *, planned: bool) -> Books:
    """The books with the cards and groups that are to be remembered.

    Host CPUs are set aside anew only when ``planned``, because that moves instances on CPUs; until then a
    card that was not known has none, unless ``lend_host_cpus`` finds some that nobody uses. Cards that no
    pool uses are forgotten then, too.
    """
    cards = {one.address: one.card for own in shares.of.values() for one in own if one.gpu is not None}
    cards |= {
        one.address: one.card
        for own in shares.of.values()
        for one in own
        if one.gpu is None and one.address in books.cards
    }
    cards = _set_aside(spec, topology, shares, cards) if planned else {**books.cards, **cards}
    groups: dict[str, tuple[str, ...]] = {}
    for pool in spec.pool:
        if pool.placement is Placement.hetero:
            groups |= _group(pool, topology, shares.of[pool.name], books.groups)
    return replace(books, cards=cards, groups=groups)


def lend_host_cpus(
    spec: Spec, topology: Topology, books: Books, shares: GpuShares, taken: frozenset[int]
) -> Books:
    """The books with cores that nobody uses given to cards which have none; ``taken`` are in use."""
    cards = dict(books.cards)
    pools = {pool.name: pool for pool in spec.pool}
    taken = whole_cores(topology, taken.union(*(card.host_cpus for card in cards.values())))
    for name, own in shares.of.items():
        for one in own:
            node = home_node(topology, one.card)
            if one.gpu is None or cards[one.address].host_cpus or node is None:
                continue
            free = (_usable(pools[name], topology) & node.cpus) - taken
            cpus = _highest(topology, free, _size(pools[name], topology.cores_in(free)))
            cards[one.address] = replace(cards[one.address], host_cpus=cpus)
            taken |= whole_cores(topology, cpus)
    return replace(books, cards=cards)


def whole_cores(topology: Topology, cpus: Iterable[int]) -> frozenset[int]:
    """Every thread of the cores that hold one of these CPUs: what nobody else may use then."""
    return frozenset().union(*map(topology.core_of, cpus))


def gpu_instances(
    pool: Pool, topology: Topology, own: tuple[Candidate, ...], books: Books, *, planned: bool
) -> list[Instance]:
    """The instances of a pool placed on GPUs, those that wait for a card included."""
    by_address = {one.address: one for one in own}
    if pool.placement is Placement.gpu:
        return [
            _instance(pool, topology, f"{pool.name}-gpu-{one.address}", (one,), books, planned=planned)
            for one in own
        ]
    return [
        _instance(pool, topology, name, tuple(map(by_address.__getitem__, members)), books, planned=planned)
        for name, members in sorted(books.groups.items(), key=lambda item: _number(pool, item[0]))
        if _number(pool, name) >= 0
    ]


def left_over(pool: Pool, own: tuple[Candidate, ...], books: Books) -> list[str]:
    """Cards that are in no group, as a warning."""
    grouped = {each for members in books.groups.values() for each in members}
    rest = [one.address for one in own if one.address not in grouped]
    if pool.placement is not Placement.hetero or not rest:
        return []
    return [
        f"pool {pool.name!r}: GPU {', '.join(rest)} is left over, as an instance needs "
        f"{pool.gpus_per_instance}"
    ]


def home_node(topology: Topology, card: Card) -> Node | None:
    """The node whose cores are nearest to a card: its own when that has any that may be used."""
    nodes = [node for node in topology.nodes if node.cpus & topology.allowed - topology.isolated]
    for node in nodes:
        if node.id == card.numa_node:
            return node
    near = topology.node(card.numa_node) if card.numa_node is not None else None
    far = dict(near.distances) if near is not None else {}
    return min(nodes, key=lambda node: (far.get(node.id, 255), node.id), default=None)


def _usable(pool: Pool, topology: Topology) -> frozenset[int]:
    return topology.allowed - topology.isolated - parse_cpu_list(pool.reserve_cpus)


def _size(pool: Pool, cores: Cores) -> int:
    """How many of these cores hold the host CPUs of one card."""
    threads = max((len(core) for core in cores), default=1)
    return min(len(cores), -(-pool.host_cpus_per_gpu // threads))


def _highest(topology: Topology, cpus: frozenset[int], size: int) -> frozenset[int]:
    """The CPUs of the highest ``size`` cores among ``cpus``, of all when there are fewer."""
    cores = topology.cores_in(cpus)
    return frozenset().union(*cores[max(0, len(cores) - size) :])


def _set_aside(
    spec: Spec, topology: Topology, shares: GpuShares, cards: Mapping[str, Card]
) -> dict[str, Card]:
    """Give every card cores of its node, from the highest down; one that has some keeps them if it can."""
    homes: dict[int, list[tuple[Pool, Card]]] = {}
    pools = {pool.name: pool for pool in spec.pool}
    for name, own in shares.of.items():
        for one in own:
            node = home_node(topology, one.card) if one.address in cards else None
            if node is not None:
                homes.setdefault(node.id, []).append((pools[name], cards[one.address]))
    given: dict[str, Card] = {}
    for node_id, local in homes.items():
        node = topology.node(node_id)
        given |= _set_aside_on(node, topology, local) if node is not None else {}
    return {address: given.get(address, card) for address, card in cards.items()}


def _set_aside_on(node: Node, topology: Topology, local: list[tuple[Pool, Card]]) -> dict[str, Card]:
    sizes: dict[str, int] = {}
    usable: dict[str, frozenset[int]] = {}
    given: dict[str, Card] = {}
    for pool, card in local:
        mine = usable[card.address] = _usable(pool, topology) & node.cpus
        cores = topology.cores_in(mine)
        # Half of a node at most, so that those who compute on CPUs are left some.
        size = sizes[card.address] = min(_size(pool, cores), max(1, len(cores) // 2 // len(local)))
        own = card.host_cpus
        if own and own == whole_cores(topology, own) & mine and len(topology.cores_in(own)) == size:
            given[card.address] = card
    taken = whole_cores(topology, frozenset().union(*(card.host_cpus for card in given.values())))
    for _, card in local:
        if card.address not in given:
            cpus = _highest(topology, usable[card.address] - taken, sizes[card.address])
            given[card.address] = replace(card, host_cpus=cpus)
            taken |= whole_cores(topology, cpus)
    return given


def _number(pool: Pool, instance_id: str) -> int:
    """k of an id "<pool>-hetero<k>", -1 for any other."""
    match = re.fullmatch(re.escape(pool.name) + r"-hetero([0-9]+)", instance_id)
    return int(match[1]) if match else -1


def _group(
    pool: Pool, topology: Topology, own: tuple[Candidate, ...], known: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Groups that are remembered stay; cards that are in none form new ones, those of one node first."""
    addresses = {one.address for one in own}
    size = pool.gpus_per_instance
    groups = {
        name: members
        for name, members in known.items()
        if _number(pool, name) >= 0 and len(members) == size and addresses.issuperset(members)
    }
    grouped = {each for members in groups.values() for each in members}
    near: dict[int, list[str]] = {}
    for one in own:
        if one.gpu is not None and one.address not in grouped:
            home = home_node(topology, one.card)
            near.setdefault(home.id if home is not None else -1, []).append(one.address)
    whole = [part for cards in near.values() for part in _parts(cards, size)]
    rest = [each for cards in near.values() for each in cards[len(cards) - len(cards) % size :]]
    whole += _parts(rest, size)
    numbers = (k for k in range(len(groups) + len(whole)) if f"{pool.name}-hetero{k}" not in groups)
    new = {f"{pool.name}-hetero{k}": tuple(members) for k, members in zip(numbers, whole, strict=False)}
    return groups | new


def _parts(cards: list[str], size: int) -> list[list[str]]:
    """Consecutive parts of exactly this size; what is left over is left out."""
    return [cards[at : at + size] for at in range(0, len(cards) - size + 1, size)]


def _instance(
    pool: Pool,
    topology: Topology,
    instance_id: str,
    members: tuple[Candidate, ...],
    books: Books,
    *,
    planned: bool,
) -> Instance:
    host = [books.cards.get(one.address, one.card).host_cpus & topology.online for one in members]
    cores = topology.cores_in(frozenset().union(*host))
    cpus = frozenset(min(core) for core in cores) if pool.smt is Smt.physical else frozenset().union(*cores)
    homes = {node.id for one in members if (node := home_node(topology, one.card)) is not None}
    memory = {memory_node_for(topology, node) for node in homes} - {None} if topology.numa else set()
    obstacle = _obstacle(members, topology)
    if obstacle is None and not all(host):
        obstacle = _without_cores(members, planned=planned)
    problem, hint = obstacle or _refusal(members) or (None, None)
    render_nodes = tuple(one.gpu.render_node or "" for one in members if one.gpu is not None)
    device = "GPU" if len(members) == 1 else "HETERO:" + ",".join(f"GPU.{k}" for k in range(len(members)))
    return Instance(
        id=instance_id,
        pool=pool.name,
        node=min(homes) if len(homes) == 1 else None,
        cpus=cpus,
        memory=pool.memory if memory else None,
        memory_nodes=frozenset(node for node in memory if node is not None),
        inference_threads=max(1, len(cores)),
        port=0,
        weight=pool.weight or 0,
        device=device,
        gpus=tuple(one.address for one in members),
        render_nodes=tuple(filter(None, render_nodes)),
        missing_gpus=tuple(one.address for one in members if one.gpu is None),
        is_waiting=obstacle is not None,
        problem=problem,
        hint=hint,
    )


def _obstacle(members: tuple[Candidate, ...], topology: Topology) -> tuple[str, str] | None:
    """The device that an instance waits for, and what can be done about it."""
    for one in members:
        gpu = one.gpu
        if gpu is None and one.card.vendor_id is None:
            here = ", ".join(sorted(each.address for each in topology.gpus)) or "none"
            return (
                f"there is no GPU at {one.address}",
                f"ovms-scalerctl topology; GPUs of this machine: {here}",
            )
        if gpu is None:
            give_up = f'to give it up: gpu.exclude = ["{one.address}"]'
            return f"its GPU {one.address} is not there", f"ovms-scalerctl topology; {give_up}"
        if gpu.render_node is None and gpu.driver is None:
            module = _MODULES.get(gpu.vendor_id or "", "load its driver")
            return f"GPU {one.address} has no driver", f"{module}; `dmesg` says why one was not bound"
        if gpu.render_node is None:
            return f"driver {gpu.driver} offers no render node for GPU {one.address}", "`dmesg` says why"
    return None


def _without_cores(members: tuple[Candidate, ...], *, planned: bool) -> tuple[str, str]:
    return (
        f"no core near GPU {', '.join(one.address for one in members)} is set aside for its host threads",
        "its node has too few cores for so many GPUs: gpu.exclude, or less in reserve_cpus"
        if planned
        else "`ovms-scalerctl reload` sets some aside, by changing the instances there one at a time",
    )


def _refusal(members: tuple[Candidate, ...]) -> tuple[str, str] | None:
    """Why the engine could not open a card that is there."""
    for one in members:
        if one.gpu is not None and one.gpu.accessible is False:
            return (
                f"the group render may not read and write {one.gpu.render_node} of GPU {one.address}",
                f"ls -l {one.gpu.render_node}; udev gives it to the group render with mode 0660",
            )
    return None
