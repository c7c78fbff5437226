# SPDX-License-Identifier: Apache-2.0
"""Which cores, which memory and which port each instance gets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from math import gcd

from ovms_scaler.core.books import Books
from ovms_scaler.core.cpulist import format_cpu_list, parse_cpu_list
from ovms_scaler.core.gpu_placement import gpu_instances, left_over, lend_host_cpus, remember, whole_cores
from ovms_scaler.core.gpus import ON_GPUS, share_gpus
from ovms_scaler.core.instance import Cores, Instance
from ovms_scaler.core.spec import Placement, Pool, Smt, Spec
from ovms_scaler.core.topology import Node, Topology, memory_node_for
from ovms_scaler.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where everything goes, the books as they are to be remembered, and what people should know."""

    instances: tuple[Instance, ...]
    books: Books
    warnings: tuple[str, ...]


def place(spec: Spec, topology: Topology, books: Books, *, planned: bool = True) -> Layout:
    """Every pool's instances. ``books`` are what earlier calls remembered.

    Not ``planned`` is a look after something about the devices changed: no cores move from instances on CPUs
    to GPUs then. Raises ConfigError when a selector names what is not there, when instances would share a
    core or a GPU, or when clients and instances would share a port.
    """
    shares = share_gpus(spec, topology, books, planned=planned)
    problems = list(shares.problems) if planned else []
    warnings = [*shares.warnings, *(f"{one.key} {one.rule}" for one in shares.problems if not planned)]
    books = remember(spec, topology, books, shares, planned=planned)
    set_aside = whole_cores(topology, frozenset().union(*(card.host_cpus for card in books.cards.values())))
    found: dict[str, list[Instance]] = {}
    for index, pool in enumerate(spec.pool):
        if pool.placement is Placement.whole:
            found[pool.name] = [_whole(pool, topology)]
        elif pool.placement is Placement.numa:
            found[pool.name] = _per_node(pool, topology, set_aside, f"pool[{index}]", problems, warnings)
    # An unbound instance is everywhere.
    taken = frozenset().union(*(one.cpus or topology.online for own in found.values() for one in own))
    books = lend_host_cpus(spec, topology, books, shares, taken)
    for pool in spec.pool:
        if pool.placement in ON_GPUS:
            found[pool.name] = gpu_instances(pool, topology, shares.of[pool.name], books, planned=planned)
            warnings += left_over(pool, shares.of[pool.name], books)
    instances = [one for pool in spec.pool for one in found[pool.name]]
    problems += _overlaps(instances, topology)
    ports = _assign_ports(spec, instances, books.ports, problems)
    if problems:
        raise ConfigError(problems)
    placed = tuple(replace(instance, port=ports[instance.id]) for instance in instances)
    return Layout(instances=placed, books=replace(books, ports=ports), warnings=tuple(warnings))


def normalise_weights(spec: Spec, instances: Iterable[Instance]) -> dict[str, int]:
    """Weights of instances that answer for each other: ratios of physical cores in lowest terms.

    What the administrator gave stays as it was written. An instance on GPUs has no measure of its own, and
    counts as much as the largest.
    """
    group = tuple(instances)
    given = {pool.name for pool in spec.pool if pool.weight is not None}
    known = [one.weight for one in group if one.weight]
    divisor = 1 if any(one.pool in given for one in group) else gcd(*known) or 1
    largest = max((weight // divisor for weight in known), default=1)
    return {one.id: one.weight // divisor or largest for one in group}


def listen_port(listen: str) -> int:
    """The port of a checked ``listen`` value."""
    return int(listen.rsplit(":", 1)[-1])


def _whole(pool: Pool, topology: Topology) -> Instance:
    cores = topology.cores_in(topology.allowed - topology.isolated)
    return Instance(
        id=f"{pool.name}-whole",
        pool=pool.name,
        node=None,
        cpus=frozenset(),
        memory=None,
        memory_nodes=frozenset(),
        inference_threads=max(1, len(cores)),
        port=0,
        weight=pool.weight or max(1, len(cores)),
    )


def _per_node(
    pool: Pool,
    topology: Topology,
    set_aside: frozenset[int],
    where: str,
    problems: list[Problem],
    warnings: list[str],
) -> list[Instance]:
    found: list[Instance] = []
    before = len(problems)
    usable = topology.allowed - topology.isolated - parse_cpu_list(pool.reserve_cpus) - set_aside
    for node in _selected_nodes(pool, topology, where, problems):
        cores = topology.cores_in(node.cpus & usable)
        if not cores:
            if node.cpus:
                warnings.append(
                    f"pool {pool.name!r}: node {node.id} gets no instance: each of its CPUs "
                    f"{format_cpu_list(node.cpus)} is reserved, isolated, set aside for GPUs or not ours "
                    "to use"
                )
            continue
        if len(cores) < pool.instances_per_node:
            problems.append(
                Problem(
                    file="",
                    key=f"{where}.instances_per_node",
                    rule=f"must be {len(cores)} or less, the number of usable cores of node {node.id}, "
                    f"not {pool.instances_per_node}",
                )
            )
            continue
        memory = _memory(pool, topology, node, warnings)
        for number, share in enumerate(_split(cores, pool.instances_per_node)):
            suffix = f".{number}" if pool.instances_per_node > 1 else ""
            found.append(_bound(pool, node, f"{pool.name}-numa{node.id}{suffix}", share, memory))
    if not found and len(problems) == before:
        problems.append(
            Problem(
                file="",
                key=where,
                rule="has no node with a usable CPU",
                hint="look at nodes, reserve_cpus and `ovms-scalerctl topology`",
            )
        )
    return found


def _selected_nodes(pool: Pool, topology: Topology, where: str, problems: list[Problem]) -> list[Node]:
    if pool.nodes is None:
        return list(topology.nodes)
    wanted = parse_cpu_list(pool.nodes)
    missing = wanted - {node.id for node in topology.nodes}
    if missing:
        here = format_cpu_list(node.id for node in topology.nodes)
        problems.append(
            Problem(
                file="",
                key=f"{where}.nodes",
                rule=f"names node {format_cpu_list(missing)}, which this machine does not have",
                hint=f"it has {here}",
            )
        )
    for node in topology.nodes:
        if node.id in wanted and not node.cpus:
            problems.append(
                Problem(file="", key=f"{where}.nodes", rule=f"names node {node.id}, which has no CPUs")
            )
    return [node for node in topology.nodes if node.id in wanted]


def _memory(pool: Pool, topology: Topology, node: Node, warnings: list[str]) -> int | None:
    if not topology.numa:
        return None
    memory = memory_node_for(topology, node.id)
    if memory is None:
        warnings.append(
            f"pool {pool.name!r}: memory of the instances on node {node.id} is not bound: "
            f"the node has none that may be used, and no nearest one is known"
        )
    elif memory != node.id:
        warnings.append(
            f"pool {pool.name!r}: node {node.id} has no memory that may be used; "
            f"its instances use that of node {memory}, the nearest"
        )
    return memory


def _bound(pool: Pool, node: Node, instance_id: str, cores: Cores, memory: int | None) -> Instance:
    cpus = frozenset(min(core) for core in cores) if pool.smt is Smt.physical else frozenset().union(*cores)
    return Instance(
        id=instance_id,
        pool=pool.name,
        node=node.id,
        cpus=cpus,
        memory=None if memory is None else pool.memory,
        memory_nodes=frozenset() if memory is None else frozenset({memory}),
        inference_threads=len(cores),
        port=0,
        weight=pool.weight or len(cores),
    )


def _split(cores: Cores, parts: int) -> list[Cores]:
    """Consecutive shares whose sizes differ by one at most, the larger ones first."""
    size, larger = divmod(len(cores), parts)
    bounds = [0]
    for number in range(parts):
        bounds.append(bounds[-1] + size + (number < larger))
    return [cores[start:end] for start, end in pairwise(bounds)]


def _overlaps(instances: list[Instance], topology: Topology) -> list[Problem]:
    """One problem for each pair of pools that would share a core; an unbound instance shares every core."""
    owners: dict[frozenset[int], list[Instance]] = {}
    for instance in instances:
        if instance.is_waiting:
            continue
        own = topology.cores_in(instance.cpus or topology.allowed)
        for core in {topology.core_of(min(part)) for part in own}:
            owners.setdefault(core, []).append(instance)
    shared: dict[tuple[str, str], set[int]] = {}
    for core, users in owners.items():
        for one, two in combinations(users, 2):
            shared.setdefault((one.id, two.id), set()).update(core)
    pools: dict[tuple[str, str], tuple[str, str]] = {}
    owner = {instance.id: instance.pool for instance in instances}
    for one_id, two_id in shared:
        pools.setdefault((owner[one_id], owner[two_id]), (one_id, two_id))
    return [
        Problem(
            file="",
            key="pool",
            rule=f"{one!r} and {two!r} would share cores: {first} and {second} both want CPUs "
            f"{format_cpu_list(shared[first, second])}",
            hint='give each pool nodes of its own (nodes = "..."); no core ever serves two instances',
        )
        for (one, two), (first, second) in pools.items()
    ]


def _assign_ports(
    spec: Spec, instances: list[Instance], port_book: Mapping[str, int], problems: list[Problem]
) -> dict[str, int]:
    listening = {listen_port(pool.listen): f"pool[{index}].listen" for index, pool in enumerate(spec.pool)}
    if spec.admin.listen:
        listening.setdefault(listen_port(spec.admin.listen), "admin.listen")
    book = dict(port_book)
    for instance in instances:
        port = book.get(instance.id)
        if port in listening:
            problems.append(
                Problem(
                    file="",
                    key=listening[port],
                    rule=f"must not be {port}, which is the port of instance {instance.id!r}",
                    hint="ports are remembered; choose another one",
                )
            )
    taken = set(book.values()) | set(listening)
    port = spec.engine.first_port
    for instance in instances:
        if instance.id in book:
            continue
        while port in taken:
            port += 1
        if port > 65535:
            problems.append(
                Problem(
                    file="",
                    key="engine.first_port",
                    rule=f"must leave a port for each of {len(instances)} instances, "
                    f"not {spec.engine.first_port}",
                )
            )
            break
        book[instance.id] = port
        taken.add(port)
    return book
