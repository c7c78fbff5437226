# SPDX-License-Identifier: Apache-2.0
"""Writes the sysfs and procfs of whole machines below a directory, for everything that takes a sysroot.

``write_machine`` writes what a ``Machine`` describes; the functions after it are named machines. Each
returns the directory, so that ``read_topology(xeon_6972p_2s(tmp_path))`` reads well.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovms_scaler.core.cpulist import format_cpu_list

GIB = 1024**3

XEON_FLAGS = "fpu sse4_2 avx2 avx512f avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8"

Threads = tuple[int, ...]
"""The CPUs of one physical core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One GPU: ``render`` is the number of its renderD node, ``bridge`` the PCI port it sits behind."""

    render: int
    address: str
    numa_node: int = -1
    vendor_id: str = "0x8086"
    device_id: str = "0xe20b"
    driver: str | None = "xe"
    bridge: str | None = None


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
            _write(root / "sys/devices" / kind, {"cpus": format_cpu_list(cpus)})
    for card in machine.cards:
        _write_card(root, card)
    return root


def _write(directory: Path, files: Mapping[str, object]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(f"{content}\n")


def _write_cpus(root: Path, machine: Machine) -> None:
    cpus = root / "sys/devices/system/cpu"
    lists = {"online": machine.online, "offline": machine.offline, "isolated": machine.isolated}
    lists |= {"possible": machine.present, "present": machine.present}
    _write(cpus, {name: format_cpu_list(content) for name, content in lists.items()})
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
                _write(cpus / f"cpu{cpu}", {"online": int(cpu in online)})
                if cpu not in unseen:
                    topology = {
                        "core_id": core_id,
                        "physical_package_id": package,
                        "thread_siblings_list": siblings,
                        "core_cpus_list": siblings,
                        "package_cpus_list": package_lists[package],
                    }
                    _write(cpus / f"cpu{cpu}/topology", topology)


def _write_nodes(root: Path, machine: Machine) -> None:
    directory = root / "sys/devices/system/node"
    ids = sorted(machine.cores)
    with_memory = format_cpu_list(node for node in ids if machine.memory_of(node))
    with_cpus = format_cpu_list(node for node in ids if machine.cores[node])
    listed = {"online": format_cpu_list(ids), "has_memory": with_memory, "has_normal_memory": with_memory}
    _write(directory, listed | {"has_cpu": with_cpus, "possible": format_cpu_list(ids)})
    for node in ids:
        own = directory / f"node{node}"
        present = {cpu for core in machine.cores[node] for cpu in core}
        row = (machine.distances or {}).get(node) or [10 if other == node else 21 for other in ids]
        kib = machine.memory_of(node) // 1024
        _write(
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
    _write(root / "proc/1", {"status": status})
    blocks = [
        f"processor\t: {cpu}\nmodel name\t: a processor\n{machine.flags_key}\t\t: {machine.flags}\n"
        for cpu in sorted(machine.online)
    ]
    total = sum(map(machine.memory_of, machine.cores)) // 1024
    meminfo = f"MemTotal:       {total} kB\nMemFree:        {total // 2} kB"
    _write(root / "proc", {"cpuinfo": "\n".join(blocks), "meminfo": meminfo})


def _write_cgroups(root: Path, machine: Machine) -> None:
    cgroup = root / "sys/fs/cgroup"
    if machine.root_cpuset is not None:
        _write(cgroup, {"cpuset.cpus.effective": format_cpu_list(machine.root_cpuset)})
    if machine.slice_cpuset is not None:
        _write(cgroup / "ovms.slice", {"cpuset.cpus.effective": format_cpu_list(machine.slice_cpuset)})
    if machine.slice_mems is not None:
        _write(cgroup / "ovms.slice", {"cpuset.mems.effective": format_cpu_list(machine.slice_mems)})


def _write_card(root: Path, card: Card) -> None:
    sys = root / "sys"
    path = [card.bridge, card.address] if card.bridge else [card.address]
    device = (sys / "devices" / f"pci{path[0].rsplit(':', 1)[0]}").joinpath(*path)
    files = {"vendor": card.vendor_id, "device": card.device_id, "numa_node": card.numa_node}
    uevent = [f"DRIVER={card.driver}"] if card.driver else []
    uevent.append(f"PCI_SLOT_NAME={card.address}")
    _write(device, files | {"class": "0x030000", "uevent": "\n".join(uevent)})
    render = device / f"drm/renderD{card.render}"
    render.mkdir(parents=True)
    _link(render / "device", device)
    _link(sys / f"class/drm/renderD{card.render}", render)
    _link(sys / f"bus/pci/devices/{card.address}", device)
    if card.driver:
        driver = sys / f"bus/pci/drivers/{card.driver}"
        driver.mkdir(parents=True, exist_ok=True)
        _link(device / "driver", driver)


def _link(link: Path, target: Path) -> None:
    """Relative, as every link in sysfs is."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))


def xeon_6972p_2s(root: Path) -> Path:
    """Two Xeon 6972P in SNC3: 6 nodes of 32 cores, node 0 with CPUs 0-31,192-223."""
    rows = {
        node: [10 if other == node else 12 if other // 3 == node // 3 else 21 for other in range(6)]
        for node in range(6)
    }
    machine = Machine(
        cores=number_cores(dict.fromkeys(range(6), 32)),
        memory=dict.fromkeys(range(6), 256 * GIB),
        packages={node: node // 3 for node in range(6)},
        distances=rows,
    )
    return write_machine(root, machine)


def single_node(root: Path) -> Path:
    """One socket, one node, 8 cores with two threads each."""
    return write_machine(root, Machine(cores=number_cores({0: 8})))


def no_numa(root: Path) -> Path:
    """A kernel built without NUMA: 4 cores with two threads each and no sys/devices/system/node."""
    return write_machine(root, Machine(cores=number_cores({0: 4}), numa=False))


def gaps(root: Path) -> Path:
    """Nodes 0, 2 and 8, as on POWER; node 2 is nearer to 8 than to 0."""
    machine = Machine(
        cores=number_cores({0: 4, 2: 4, 8: 4}, threads=1),
        distances={0: [10, 40, 80], 2: [40, 10, 20], 8: [80, 20, 10]},
    )
    return write_machine(root, machine)


def uneven(root: Path) -> Path:
    """One socket of 128 cores in SNC3, which does not divide: 43, 43 and 42 cores."""
    return write_machine(root, Machine(cores=number_cores({0: 43, 1: 43, 2: 42})))


def hbm(root: Path) -> Path:
    """A Xeon Max in flat mode: nodes 0 and 1 with CPUs and DDR, nodes 2 and 3 with HBM alone."""
    machine = Machine(
        cores={**number_cores({0: 8, 1: 8}), 2: (), 3: ()},
        memory={0: 128 * GIB, 1: 128 * GIB, 2: 64 * GIB, 3: 64 * GIB},
        packages={0: 0, 1: 1, 2: 0, 3: 1},
        distances={0: [10, 21, 13, 23], 1: [21, 10, 23, 13], 2: [13, 23, 10, 23], 3: [23, 13, 23, 10]},
    )
    return write_machine(root, machine)


def memoryless(root: Path) -> Path:
    """Four nodes, two of them empty of memory: 1 is nearest to 0, 3 equally near to 0 and 2."""
    machine = Machine(
        cores=number_cores(dict.fromkeys(range(4), 4)),
        memory={0: 64 * GIB, 1: 0, 2: 64 * GIB, 3: 0},
        distances={0: [10, 12, 32, 22], 1: [12, 10, 32, 32], 2: [32, 32, 10, 22], 3: [22, 32, 22, 10]},
    )
    return write_machine(root, machine)


def offline_cpu0(root: Path) -> Path:
    """Two nodes of 4 cores with two threads each; CPUs 0 and 8 (a core) and 9 (one thread) are offline."""
    return write_machine(root, Machine(cores=number_cores({0: 4, 1: 4}), offline={0, 8, 9}))


def smt_off(root: Path) -> Path:
    """Two nodes of 8 cores; the second threads are present and switched off."""
    return write_machine(root, Machine(cores=number_cores({0: 8, 1: 8}), offline=range(16, 32)))


def hybrid(root: Path) -> Path:
    """A Core i7-12700: 8 performance cores with two threads each, numbered in pairs, 4 efficiency cores."""
    cores = [(cpu, cpu + 1) for cpu in range(0, 16, 2)] + [(cpu,) for cpu in range(16, 20)]
    machine = Machine(
        cores={0: cores},
        performance=range(16),
        efficiency=range(16, 20),
        flags="fpu avx2 avx_vnni",
        cards=[Card(render=128, address="0000:00:02.0", device_id="0x4680", driver="i915")],
    )
    return write_machine(root, machine)


def arm64(root: Path) -> Path:
    """Two nodes of 16 cores without threads; CPUs 3 and 20 have no topology directory."""
    machine = Machine(
        cores=number_cores({0: 16, 1: 16}, threads=1),
        packages={0: 0, 1: 1},
        without_topology={3, 20},
        flags_key="Features",
        flags="fp asimd sve bf16 i8mm",
        pid1_mems=range(2),
    )
    return write_machine(root, machine)


def four_gpus(root: Path) -> Path:
    """Four nodes of 3 CPUs and four cards whose renderD numbers do not follow their PCI addresses.

    Two cards are local to node 0 and two to node 2.
    """
    cards = [
        Card(render=128, address="0000:41:00.0", numa_node=2, bridge="0000:40:00.0"),
        Card(render=129, address="0000:42:00.0", numa_node=2, bridge="0000:40:01.0"),
        Card(render=130, address="0000:21:00.0", numa_node=0, bridge="0000:20:00.0"),
        Card(render=131, address="0000:22:00.0", numa_node=0, bridge="0000:20:01.0"),
    ]
    cores = number_cores(dict.fromkeys(range(4), 3), threads=1)
    return write_machine(root, Machine(cores=cores, cards=cards))


def big(root: Path, *, nodes: int = 64, cpus: int = 4096) -> Path:
    """As many nodes and CPUs as anybody asks for, two threads to the core; ``cpus`` divides by 2 * nodes."""
    return write_machine(root, Machine(cores=number_cores(dict.fromkeys(range(nodes), cpus // nodes // 2))))


ORDINARY = (
    xeon_6972p_2s,
    single_node,
    no_numa,
    gaps,
    uneven,
    hbm,
    memoryless,
    offline_cpu0,
    smt_off,
    hybrid,
    arm64,
    four_gpus,
)
ALL = (*ORDINARY, big)
