# SPDX-License-Identifier: Apache-2.0
"""How busy the CPUs of each NUMA node have been, and how much of its memory is in use."""

import re
from pathlib import Path

from ovms_scaler.core.cpulist import parse_cpu_list
from ovms_scaler.core.use import NodeUse, used_bytes
from ovms_scaler.errors import InputError

_NODE = re.compile(r"node([0-9]{1,5})")
_SIZE = re.compile(r"^(?:Node +[0-9]+ +)?(\w+): +([0-9]{1,15}) kB$", re.MULTILINE)
_CPU = re.compile(r"^cpu([0-9]{1,5}) ([0-9 ]+)$", re.MULTILINE)
# Of the columns of proc_stat(5): idle and iowait, and how many there are before those of guests, which are
# in the others already.
_IDLE = slice(3, 5)
_COUNTED = 8

_Times = dict[int, tuple[int, int]]


def read_nodes(root: Path = Path("/")) -> tuple[NodeUse, ...]:
    """Every node ascending by id; a host without NUMA is one node 0."""
    times = _read_times(root)
    directory = root / "sys/devices/system/node"
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError:
        names = []
    ids = sorted(int(found[1]) for found in map(_NODE.fullmatch, names) if found)
    if not ids:
        return (_make(0, frozenset(times), times, root / "proc/meminfo"),)
    return tuple(
        _make(node, _read_cpus(path / "cpulist"), times, path / "meminfo")
        for node, path in ((node, directory / f"node{node}") for node in ids)
    )


def _make(node: int, cpus: frozenset[int], times: _Times, meminfo: Path) -> NodeUse:
    own = [times[cpu] for cpu in cpus if cpu in times]
    size, used = _read_memory(meminfo)
    return NodeUse(
        id=node,
        busy=sum(busy for busy, _ in own) if own else None,
        total=sum(total for _, total in own) if own else None,
        memory_used_bytes=used,
        memory_bytes=size,
    )


def _read_times(root: Path) -> _Times:
    """Of each CPU that is online, the time that it was busy, and all time."""
    try:
        text = (root / "proc/stat").read_text()
    except OSError:
        return {}
    found: _Times = {}
    for cpu, columns in _CPU.findall(text):
        times = [int(column) for column in columns.split()][:_COUNTED]
        total = sum(times)
        found[int(cpu)] = (total - sum(times[_IDLE]), total)
    return found


def _read_cpus(path: Path) -> frozenset[int]:
    try:
        return parse_cpu_list(path.read_text().strip())
    except (OSError, InputError):
        return frozenset()


def _read_memory(path: Path) -> tuple[int | None, int | None]:
    """How much there is and how much is in use, from a node's meminfo or the whole host's (proc_meminfo(5)).

    The node's FilePages is the sum of what the host's has as Cached, Buffers and SwapCached.
    """
    try:
        sizes = {name: int(number) * 1024 for name, number in _SIZE.findall(path.read_text())}
    except OSError:
        return None, None
    size, free = sizes.get("MemTotal"), sizes.get("MemFree")
    if size is None or free is None:
        return size, None
    parts = ("Cached", "Buffers", "SwapCached")
    cached = sizes.get("FilePages", sum(sizes.get(name, 0) for name in parts))
    used = used_bytes(
        size - free,
        cached=cached,
        mapped=sizes.get("Mapped", 0),
        shared=sizes.get("Shmem", 0),
        reclaimable=sizes.get("SReclaimable", 0),
    )
    return size, used
