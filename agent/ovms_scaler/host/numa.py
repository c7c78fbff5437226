# SPDX-License-Identifier: Apache-2.0
"""Reads the NUMA nodes: their CPUs, memory and distances."""

import re

from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.topology import Node
from ovms_scaler.host.sysroot import Survey

_NODES = "sys/devices/system/node"
_NODE = re.compile(r"node([0-9]{1,5})")
_CPU = re.compile(r"cpu([0-9]{1,5})")
_MEM_TOTAL = re.compile(r"MemTotal:\s*([0-9]{1,15}) kB")


def read_nodes(survey: Survey, *, online: frozenset[int]) -> tuple[Node, ...]:
    """The online nodes ascending by id, none when the kernel shows no NUMA."""
    found = (_NODE.fullmatch(name) for name in survey.tree.names(_NODES))
    directories = frozenset(int(match[1]) for match in found if match)
    listed = survey.numbers(f"{_NODES}/online")
    if not (ids := sorted(directories | (listed or frozenset()))):
        return ()
    if not listed:
        survey.warn(f"{_NODES}/online is missing: nodes {format_cpu_list(ids)} are taken as online")
        listed = directories
    if odd := listed - directories:
        survey.warn(f"{_NODES}: nodes {format_cpu_list(odd)} are online and have no directory")
    if odd := directories - listed:
        survey.warn(f"{_NODES}: nodes {format_cpu_list(odd)} have a directory and are not in 'online'")
    homes = _read_homes(survey, ids, online=online)
    with_memory = survey.numbers(f"{_NODES}/has_memory")
    return tuple(
        Node(
            id=node,
            cpus=homes[node],
            memory_bytes=_read_memory(survey, node, with_memory=with_memory, alone=len(ids) == 1),
            distances=_read_distances(survey, node, orders=(sorted(listed), ids)),
        )
        for node in ids
    )


def read_whole(survey: Survey, *, online: frozenset[int]) -> Node:
    """A host without NUMA as one node."""
    if any(_NODE.fullmatch(name) for name in survey.tree.names(f"sys/devices/system/cpu/cpu{min(online)}")):
        survey.warn(f"{_NODES} is missing although CPUs name their nodes: the host is taken as one node")
    memory = _parse_total(survey.tree.read("proc/meminfo"))
    if memory is None:
        survey.warn("proc/meminfo says no MemTotal: the memory of node 0 is unknown")
    return Node(id=0, cpus=online, memory_bytes=memory)


def _read_homes(survey: Survey, ids: list[int], *, online: frozenset[int]) -> dict[int, frozenset[int]]:
    """The online CPUs of each node, every CPU on one node at most."""
    homes: dict[int, frozenset[int]] = {}
    left = online
    for node in ids:
        cpus = _read_cpus(survey, node)
        if not cpus and len(ids) == 1:
            survey.warn(f"{_NODES}/node{node} says no CPUs: as the only node it is taken to hold every one")
            cpus = online
        if cpus is None:
            survey.warn(f"{_NODES}/node{node}: its CPUs are unknown")
            cpus = frozenset()
        if twice := cpus & (online - left):
            survey.warn(
                f"CPUs {format_cpu_list(twice)} are on node {node} and on a lower one, taking the lower"
            )
        homes[node] = cpus & left
        left -= cpus
    if left:
        survey.warn(f"CPUs {format_cpu_list(left)} are online and on no node")
    return homes


def _read_cpus(survey: Survey, node: int) -> frozenset[int] | None:
    """What cpulist says; the mask and the links back it up, for copied trees hold empty files too."""
    directory = f"{_NODES}/node{node}"
    if cpus := survey.numbers(f"{directory}/cpulist"):
        return cpus
    links = (_CPU.fullmatch(name) for name in survey.tree.names(directory))
    return survey.mask(f"{directory}/cpumap") or frozenset(int(match[1]) for match in links if match) or cpus


def _read_memory(
    survey: Survey, node: int, *, with_memory: frozenset[int] | None, alone: bool
) -> int | None:
    """MemTotal in bytes; a node that has_memory leaves out has none, whatever else is missing."""
    total = _parse_total(survey.tree.read(f"{_NODES}/node{node}/meminfo"))
    if total is None and with_memory is not None and node not in with_memory:
        return 0
    if total is None and alone:
        total = _parse_total(survey.tree.read("proc/meminfo"))
    if total is None:
        survey.warn(f"{_NODES}/node{node}/meminfo says no MemTotal: the node's memory is unknown")
    elif with_memory is not None and (total > 0) != (node in with_memory):
        survey.warn(f"node {node} has {total} bytes of memory, which {_NODES}/has_memory contradicts")
    return total


def _parse_total(text: str | None) -> int | None:
    match = _MEM_TOTAL.search(text or "")
    return int(match[1]) * 1024 if match else None


def _read_distances(
    survey: Survey, node: int, *, orders: tuple[list[int], ...]
) -> tuple[tuple[int, int], ...]:
    """The row has one number for each online node, in order, and no ids; the least is the node's own."""
    if all(order == [node] for order in orders):
        return ()
    path = f"{_NODES}/node{node}/distance"
    parts = (survey.tree.read(path) or "").split()
    if not parts:
        survey.warn(f"{path} is missing: what is near to node {node} is unknown")
        return ()
    row = [int(part) for part in parts if part.isdecimal() and part.isascii() and len(part) <= 5]
    for order in orders:
        if len(parts) == len(row) == len(order) and dict(zip(order, row, strict=True)).get(node) == min(row):
            return tuple((other, far) for other, far in zip(order, row, strict=True) if other != node)
    shown = " ".join(parts)[:80]
    survey.warn(f"{path}: {shown!r} does not fit nodes {format_cpu_list(orders[0])}, ignoring it")
    return ()
