# SPDX-License-Identifier: Apache-2.0
"""Reads settings of the kernel, and what memory is free, from /proc and /sys."""

import re
from collections.abc import Iterable
from pathlib import Path

from ovms_scaler.core.checks.kernel import KernelFacts, Policy
from ovms_scaler.core.cpulist import parse_cpu_list
from ovms_scaler.errors import InputError
from ovms_scaler.host.sysroot import Sysroot

SYSCTLS = (
    "kernel.numa_balancing",
    "vm.zone_reclaim_mode",
    "vm.overcommit_memory",
    "net.core.somaxconn",
    "fs.nr_open",
)
_CPUS = "sys/devices/system/cpu"
_NODES = "sys/devices/system/node"
_SLICE = "sys/fs/cgroup/ovms.slice"
_FREE = re.compile(r"(?:MemFree|Active\(file\)|Inactive\(file\)|SReclaimable):\s+(\d+) kB")
_HUGE = re.compile(r"hugepages-(\d+)kB")


def read_kernel(root: Path = Path("/")) -> KernelFacts:
    """Everything that is judged; what is missing is None."""
    tree = Sysroot(root)
    return KernelFacts(
        sysctls={name: _read_number(tree, f"proc/sys/{name.replace('.', '/')}") for name in SYSCTLS},
        policies=tuple(_read_policies(tree)),
        idle_huge_bytes=_read_idle_huge(tree),
        swapped_bytes=_read_number(tree, f"{_SLICE}/memory.swap.current"),
        smt=tree.read(f"{_CPUS}/smt/control"),
    )


def read_controllers(root: Path = Path("/")) -> frozenset[str] | None:
    """The controllers of the root control group; None where that is not version 2."""
    text = Sysroot(root).read("sys/fs/cgroup/cgroup.controllers")
    return None if text is None else frozenset(text.split())


def read_command_line(root: Path = Path("/")) -> str:
    """What the kernel was started with."""
    return Sysroot(root).read("proc/cmdline") or ""


def read_port_range(root: Path = Path("/")) -> tuple[tuple[int, int], frozenset[int]]:
    """The ports that outgoing connections get, and those of them that are kept back."""
    tree = Sysroot(root)
    ends = (tree.read("proc/sys/net/ipv4/ip_local_port_range") or "32768 60999").split()
    try:
        reserved = parse_cpu_list(tree.read("proc/sys/net/ipv4/ip_local_reserved_ports") or "")
        return (int(ends[0]), int(ends[1])), reserved
    except (ValueError, IndexError, InputError):
        return (32768, 60999), frozenset()


def read_free_memory(root: Path = Path("/")) -> dict[int, int]:
    """Bytes of each node that are free or can be had at once, as its page cache."""
    tree = Sysroot(root)
    free: dict[int, int] = {}
    for name in tree.names(_NODES):
        text = tree.read(f"{_NODES}/{name}/meminfo")
        if text is not None and name.removeprefix("node").isdecimal():
            free[int(name.removeprefix("node"))] = sum(map(int, _FREE.findall(text))) * 1024
    if not free and (found := re.search(r"MemAvailable:\s+(\d+) kB", tree.read("proc/meminfo") or "")):
        free[0] = int(found[1]) * 1024
    return free


def read_running(root: Path = Path("/")) -> frozenset[str]:
    """The instances of which a process runs, by their control groups."""
    tree = Sysroot(root)
    return frozenset(
        name.removeprefix("ovms@").removesuffix(".service")
        for name in tree.names(_SLICE)
        if name.startswith("ovms@") and "populated 1" in (tree.read(f"{_SLICE}/{name}/cgroup.events") or "")
    )


def _read_number(tree: Sysroot, path: str) -> int | None:
    text = tree.read(path)
    return int(text) if text is not None and text.lstrip("-").isdecimal() else None


def _read_policies(tree: Sysroot) -> Iterable[Policy]:
    """CPUs with the same driver and governor together."""
    groups: dict[tuple[str, str, str], set[int]] = {}
    for name in tree.names(f"{_CPUS}/cpufreq"):
        here = f"{_CPUS}/cpufreq/{name}"
        driver, governor = tree.read(f"{here}/scaling_driver"), tree.read(f"{here}/scaling_governor")
        cpus = (tree.read(f"{here}/affected_cpus") or "").split()
        if driver and governor:
            preference = tree.read(f"{here}/energy_performance_preference") or ""
            group = groups.setdefault((driver, governor, preference), set())
            group.update(int(cpu) for cpu in cpus if cpu.isdecimal())
    for (driver, governor, preference), found in groups.items():
        yield Policy(driver=driver, governor=governor, preference=preference, cpus=frozenset(found))


def _read_idle_huge(tree: Sysroot) -> dict[int, int]:
    """Free huge pages in bytes by node (admin-guide/mm/hugetlbpage.rst)."""
    idle: dict[int, int] = {}
    for node in tree.names(_NODES):
        if not node.removeprefix("node").isdecimal():
            continue
        for size in tree.names(f"{_NODES}/{node}/hugepages"):
            free = _read_number(tree, f"{_NODES}/{node}/hugepages/{size}/free_hugepages")
            if (match := _HUGE.fullmatch(size)) and free:
                number = int(node.removeprefix("node"))
                idle[number] = idle.get(number, 0) + free * int(match[1]) * 1024
    return idle
