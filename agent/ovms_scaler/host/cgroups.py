# SPDX-License-Identifier: Apache-2.0
"""How much CPU time and memory a unit has used: control groups (cgroup v2 in the kernel's admin guide)."""

from pathlib import Path

from ovms_scaler.core.use import MemoryUse, used_bytes


def read_cpu_sec(unit: str, root: Path = Path("/")) -> float | None:
    """Seconds of CPU time of a unit in ovms.slice, all its threads; None where that cannot be read.

    From usage_usec in cpu.stat of its control group, which is there without the cpu controller.
    """
    try:
        return _read_numbers(_directory(unit, root) / "cpu.stat")["usage_usec"] / 1e6
    except (OSError, ValueError, KeyError):
        return None


def read_memory(unit: str, pid: int | None, root: Path = Path("/")) -> MemoryUse | None:
    """Memory that a unit in ovms.slice uses, by node too; of its process ``pid`` where no controller counts.

    What counts by node are pages; other memory of the group, such as the kernel's, is small.
    """
    directory = _directory(unit, root)
    try:
        stat = _read_numbers(directory / "memory.stat")
        total = used_bytes(
            int((directory / "memory.current").read_text()),
            cached=stat["file"],
            mapped=stat["file_mapped"],
            shared=stat["shmem"],
            reclaimable=stat.get("slab_reclaimable", 0),
        )
    except (OSError, ValueError, KeyError):
        resident = read_resident(pid, root) if pid else None
        return MemoryUse(memory_bytes=resident) if resident is not None else None
    return MemoryUse(memory_bytes=total, by_node=_read_by_node(directory))


def read_resident(pid: int, root: Path = Path("/")) -> int | None:
    """Bytes of a process in memory (VmRSS of proc_pid_status(5)), None when it is gone.

    By node it is in numa_maps only, which takes CAP_SYS_PTRACE to read.
    """
    try:
        text = (root / "proc" / str(pid) / "status").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return int(fields["VmRSS"].removesuffix("kB")) * 1024
    except (OSError, ValueError, KeyError):
        return None


def _directory(unit: str, root: Path) -> Path:
    return root / "sys/fs/cgroup/ovms.slice" / unit


def _read_numbers(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    return {name: int(number) for name, number in (line.split() for line in path.read_text().splitlines())}


def _read_by_node(directory: Path) -> dict[int, int] | None:
    """memory.numa_stat has a line for each kind of memory: "anon N0=4096 N1=0"."""
    kinds: dict[str, dict[int, int]] = {}
    try:
        for line in (directory / "memory.numa_stat").read_text().splitlines():
            kind, *parts = line.split()
            pairs = (part.split("=") for part in parts)
            kinds[kind] = {int(node.removeprefix("N")): int(size) for node, size in pairs}
        return {node: _in_use(kinds, node) for node in sorted(kinds["anon"])}
    except (OSError, ValueError, KeyError):
        return None


def _in_use(kinds: dict[str, dict[int, int]], node: int) -> int:
    """Raises KeyError."""
    # The last of them came with Linux 5.15 and later.
    kernel = ("kernel_stack", "slab_unreclaimable", "pagetables", "sec_pagetables")
    others = sum(kinds[kind].get(node, 0) for kind in kernel if kind in kinds)
    return used_bytes(
        kinds["anon"][node] + kinds["file"][node] + others,
        cached=kinds["file"][node],
        mapped=kinds["file_mapped"][node],
        shared=kinds["shmem"][node],
        reclaimable=0,
    )
