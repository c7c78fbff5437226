# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of one engine, as proc(5) prints it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# "7f2c00000000 bind:0 anon=512 dirty=512 N0=512 kernelpagesize_kB=4", numa(7).
_MAPPING = re.compile(r"^[0-9a-f]+ (\S+)(.*)$", re.MULTILINE)
_PAGES = re.compile(r" N(\d+)=(\d+)")
_PAGE_KB = re.compile(r" kernelpagesize_kB=(\d+)")
_OPEN_FILES = re.compile(r"^Max open files +(\d+|unlimited) ", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """One thread: Cpus_allowed_list and Mems_allowed_list of proc_pid_status(5)."""

    tid: int
    name: str
    cpus: frozenset[int]
    memory_nodes: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A TCP socket of the process that clients can connect to."""

    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Policies of the memory that is the process's own, and the bytes of it by node."""

    policies: frozenset[str]
    bytes_by_node: Mapping[int, int]

    def share(self, nodes: Iterable[int]) -> float | None:
        """How much of it is on these nodes, 0 to 1; None where there is nothing."""
        total = sum(self.bytes_by_node.values())
        return sum(self.bytes_by_node.get(node, 0) for node in nodes) / total if total else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessView:
    """One engine's process. What could not be looked at is None; ``unseen`` says what, and why.

    ``cgroup`` is its control group below the hierarchy, ``cpuset_cpus`` and ``cpuset_nodes`` are
    cpuset.cpus.effective and cpuset.mems.effective of that, where the controller is on.
    """

    pid: int
    threads: tuple[Thread, ...]
    cgroup: str
    cpuset_cpus: frozenset[int] | None
    cpuset_nodes: frozenset[int] | None
    argv: tuple[str, ...]
    open_files: int | None
    environment: Mapping[str, str] | None
    memory: MemoryUse | None
    listening: tuple[Listening, ...] | None
    render_nodes: tuple[str, ...] | None
    unseen: tuple[str, ...] = ()


def parse_numa_maps(text: str) -> MemoryUse:
    """Of all mappings those that are the process's own: files are where somebody read them first."""
    policies: set[str] = set()
    pages: Counter[int] = Counter()
    for policy, rest in _MAPPING.findall(text):
        if " anon=" in rest:
            policies.add(policy)
        if " file=" not in rest:
            size = _PAGE_KB.search(rest)
            for node, count in _PAGES.findall(rest):
                pages[int(node)] += int(count) * (int(size[1]) if size else 4) * 1024
    return MemoryUse(policies=frozenset(policies), bytes_by_node=dict(pages))


def parse_open_files(text: str) -> int | None:
    """The soft limit in /proc/PID/limits."""
    found = _OPEN_FILES.search(text)
    if found is None:
        return None
    return 2**63 - 1 if found[1] == "unlimited" else int(found[1])


def parse_environment(text: str) -> dict[str, str]:
    """/proc/PID/environ."""
    pairs = (entry.partition("=") for entry in text.split("\0") if entry)
    return {name: value for name, _, value in pairs}


def parse_cgroup(text: str) -> str:
    """The path in /proc/PID/cgroup, cgroups(7): of version 2, else of systemd's own hierarchy."""
    found = re.search(r"^0::(.*)$", text, re.MULTILINE) or re.search(r"^\d+:name=systemd:(.*)$", text, re.M)
    return found[1] if found else ""
