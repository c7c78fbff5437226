# SPDX-License-Identifier: Apache-2.0
"""Writes the sysfs and procfs of a whole machine below a directory, for everything that takes a sysroot."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pci_tree import Card, write_card, write_files

from ovms_scaler.core.cpulist import format_cpu_list

GIB = 1024**3

XEON_FLAGS = "fpu sse4_2 avx2 avx512f avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8"

Threads = tuple[int, ...]
"""The CPUs of one physical core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine by the physical cores of each node; everything else has an ordinary default.

    ``memory`` is MemTotal in bytes by node (64 GiB each), ``packages`` the socket by node (all in one),
    ``distances`` the kernel's row by node: a number per node in ascending order of ids (10 at home, 21
    elsewhere). ``numa=False`` leaves sys/devices/system/node out. ``pid1_mems`` defaults to every node the
    kernel was built for, as on x86. ``root_cpuset`` and ``slice_cpuset`` are cpuset.cpus.effective.
    """

    cores: Mapping[int, Sequence[Threads]]
    memory: Mapping[int, int] | None = None
    packages: Mapping[int, int] | None = None
    distances: Mapping[int, Sequence[int]] | None = None
    numa: bool = True
    offline: Collection[int] = ()
    isolated: Collection[int] = ()
    without_topology: Collection[int] = ()
    pid1_cpus: Collection[int] | None = None
    pid1_mems: Collection[int] = range(1024)
    root_cpuset: Collection[int] | None = None
    slice_cpuset: Collection[int] | None = None
    slice_mems: Collection[int] | None = None
    flags: str = XEON_FLAGS
    flags_key: str = "flags"
    performance: Collection[int] = ()
    efficiency: Collection[int] = ()
    cards: Sequence[Card] = ()

    @property
    def present(self) -> frozenset[int]:
        return frozenset(cpu for own in self.cores.values() for core in own for cpu in core)

    @property
    def online(self) -> frozenset[int]:
        return self.present - frozenset(self.offline)

    def memory_of(self, node: int) -> int:
        return 64 * GIB if self.memory is None else self.memory[node]

    def package_of(self, node: int) -> int:
        return 0 if self.packages is None else self.packages[node]


def number_cores(counts: Mapping[int, int], *, threads: int = 2) -> dict[int, list[Threads]]:
    """Cores by node as x86 firmware numbers them: every first thread, node after node, then every second."""
    total = sum(counts.values())
    cores: dict[int, list[Threads]] = {}
    first = 0
    for node, count in counts.items():
        own = range(first, first + count)
        cores[node] = [tuple(core + thread * total for thread in range(threads)) for core in own]
        first += count
    return cores


def write_machine(root: Path, machine: Machine) -> Path:
    _write_cpus(root, machine)
    if machine.numa:
        _write_nodes(root, machine)
    _write_proc(root, machine)
    _write_cgroups(root, machine)
    for kind, cpus in (("cpu_core", machine.performance), ("cpu_atom", machine.efficiency)):
        if cpus:
            write_files(root / "sys/devices" / kind, {"cpus": format_cpu_list(cpus)})
    for card in machine.cards:
        write_card(root, card)
    return root


def _write_cpus(root: Path, machine: Machine) -> None:
    cpus = root / "sys/devices/system/cpu"
    lists = {"online": machine.online, "offline": machine.offline, "isolated": machine.isolated}
    lists |= {"possible": machine.present, "present": machine.present}
    write_files(cpus, {name: format_cpu_list(content) for name, content in lists.items()})
    online = machine.online
    in_package: dict[int, set[int]] = {}
    for node, cores in machine.cores.items():
        mine = {cpu for core in cores for cpu in core if cpu in online}
        in_package.setdefault(machine.package_of(node), set()).update(mine)
    package_lists = {package: format_cpu_list(mine) for package, mine in in_package.items()}
    unseen = frozenset(machine.without_topology) | frozenset(machine.offline)
    for node, cores in machine.cores.items():
        package = machine.package_of(node)
        for core_id, core in enumerate(cores):
            siblings = format_cpu_list(cpu for cpu in core if cpu in online)
            for cpu in core:
                write_files(cpus / f"cpu{cpu}", {"online": int(cpu in online)})
                if cpu not in unseen:
                    topology = {
                        "core_id": core_id,
                        "physical_package_id": package,
                        "thread_siblings_list": siblings,
                        "core_cpus_list": siblings,
                        "package_cpus_list": package_lists[package],
                    }
                    write_files(cpus / f"cpu{cpu}/topology", topology)


def _write_nodes(root: Path, machine: Machine) -> None:
    directory = root / "sys/devices/system/node"
    ids = sorted(machine.cores)
    with_memory = format_cpu_list(node for node in ids if machine.memory_of(node))
    with_cpus = format_cpu_list(node for node in ids if machine.cores[node])
    listed = {"online": format_cpu_list(ids), "has_memory": with_memory, "has_normal_memory": with_memory}
    write_files(directory, listed | {"has_cpu": with_cpus, "possible": format_cpu_list(ids)})
    for node in ids:
        own = directory / f"node{node}"
        present = {cpu for core in machine.cores[node] for cpu in core}
        row = (machine.distances or {}).get(node) or [10 if other == node else 21 for other in ids]
        kib = machine.memory_of(node) // 1024
        write_files(
            own,
            {
                "cpulist": format_cpu_list(present & machine.online),
                "distance": " ".join(map(str, row)),
                "meminfo": f"Node {node} MemTotal: {kib} kB\nNode {node} MemFree: {kib // 2} kB",
            },
        )
        for cpu in present:
            (own / f"cpu{cpu}").symlink_to(f"../../cpu/cpu{cpu}")
            (directory.parent / f"cpu/cpu{cpu}/node{node}").symlink_to(f"../../node/node{node}")


def _write_proc(root: Path, machine: Machine) -> None:
    mask = machine.present if machine.pid1_cpus is None else machine.pid1_cpus
    status = f"Name:\tsystemd\nCpus_allowed_list:\t{format_cpu_list(mask)}\n"
    status += f"Mems_allowed_list:\t{format_cpu_list(machine.pid1_mems)}\nvoluntary_ctxt_switches:\t1"
    write_files(root / "proc/1", {"status": status})
    blocks = [
        f"processor\t: {cpu}\nmodel name\t: a processor\n{machine.flags_key}\t\t: {machine.flags}\n"
        for cpu in sorted(machine.online)
    ]
    total = sum(map(machine.memory_of, machine.cores)) // 1024
    meminfo = f"MemTotal:       {total} kB\nMemFree:        {total // 2} kB"
    write_files(root / "proc", {"cpuinfo": "\n".join(blocks), "meminfo": meminfo})


def _write_cgroups(root: Path, machine: Machine) -> None:
    cgroup = root / "sys/fs/cgroup"
    vram = [(one.address, one.vram_bytes) for card in machine.cards for one in (card, *card.functions)]
    if capacities := [f"drm/{address}/vram0 {size}" for address, size in vram if size is not None]:
        write_files(cgroup, {"dmem.capacity": "\n".join(capacities)})
    if machine.root_cpuset is not None:
        write_files(cgroup, {"cpuset.cpus.effective": format_cpu_list(machine.root_cpuset)})
    if machine.slice_cpuset is not None:
        write_files(cgroup / "ovms.slice", {"cpuset.cpus.effective": format_cpu_list(machine.slice_cpuset)})
    if machine.slice_mems is not None:
        write_files(cgroup / "ovms.slice", {"cpuset.mems.effective": format_cpu_list(machine.slice_mems)})
