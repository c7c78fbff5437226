# SPDX-License-Identifier: Apache-2.0
"""Named machines, each of which writes itself below a directory.

Each returns the directory, so that ``read_topology(xeon_6972p_2s(tmp_path))`` reads well.
"""

from pathlib import Path

from gpu_machines import (
    flex_sriov,
    four_b580,
    four_gpus,
    igpu_and_arc,
    no_render_nodes,
    one_igpu,
    sixteen_gpus,
    three_vendors,
)
from machine_tree import GIB, XEON_FLAGS, Machine, Threads, number_cores, write_machine
from pci_tree import Card

__all__ = [
    "GIB",
    "XEON_FLAGS",
    "Card",
    "Machine",
    "Threads",
    "flex_sriov",
    "four_b580",
    "four_gpus",
    "igpu_and_arc",
    "no_render_nodes",
    "number_cores",
    "one_igpu",
    "sixteen_gpus",
    "three_vendors",
    "write_machine",
]


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
        cards=[Card(render=128, card=1, address="0000:00:02.0", device_id="0x4680", driver="i915")],
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
    one_igpu,
    igpu_and_arc,
    four_b580,
    flex_sriov,
    no_render_nodes,
    three_vendors,
    sixteen_gpus,
)
ALL = (*ORDINARY, big)
