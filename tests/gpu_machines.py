# SPDX-License-Identifier: Apache-2.0
"""Named machines with GPUs, which ``machines`` lists with the others."""

from dataclasses import replace
from pathlib import Path

from machine_tree import GIB, Machine, number_cores, write_machine
from pci_tree import Card

B580 = 12 * GIB - 72 * 1024**2
"""What xe offers of an Arc B580's 12 GiB; it keeps some for itself."""


def four_gpus(root: Path) -> Path:
    """Four nodes of 3 CPUs and four cards whose renderD numbers do not follow their PCI addresses.

    Two cards are local to node 0 and two to node 2.
    """
    cards = [
        Card(render=128, address="0000:41:00.0", numa_node=2, bridges=["0000:40:00.0"]),
        Card(render=129, address="0000:42:00.0", numa_node=2, bridges=["0000:40:01.0"]),
        Card(render=130, address="0000:21:00.0", numa_node=0, bridges=["0000:20:00.0"]),
        Card(render=131, address="0000:22:00.0", numa_node=0, bridges=["0000:20:01.0"]),
    ]
    cores = number_cores(dict.fromkeys(range(4), 3), threads=1)
    return write_machine(root, Machine(cores=cores, cards=cards))


def _arc(gpu: Card, *, root_port: str) -> list[Card]:
    """An Arc card as it plugs in: a switch of its own, with the GPU and its sound behind a port each.

    The GPU has its address already; the switch's ports are on the two buses before it.
    """
    domain, bus = gpu.address.split(":")[:2]
    upstream, downstream, sound = (f"{domain}:{int(bus, 16) + step:02x}" for step in (-2, -1, 1))
    ports = [root_port, f"{upstream}:00.0"]
    audio = Card(
        address=f"{sound}:00.0",
        bridges=[*ports, f"{downstream}:02.0"],
        numa_node=gpu.numa_node,
        class_id="0x040300",
        device_id="0xe2f7",
        driver="snd_hda_intel",
    )
    return [replace(gpu, bridges=[*ports, f"{downstream}:01.0"]), audio]


def one_igpu(root: Path) -> Path:
    """A Core i5-12500T and its own graphics."""
    igpu = Card(render=128, card=1, address="0000:00:02.0", device_id="0x4690", driver="i915")
    return write_machine(root, Machine(cores=number_cores({0: 6}), flags="fpu avx2 avx_vnni", cards=[igpu]))


def igpu_and_arc(root: Path) -> Path:
    """A Core Ultra 9 285K with an Arc B580 that drives the screen; the NPU beside them."""
    igpu = Card(
        render=129,
        address="0000:00:02.0",
        class_id="0x038000",
        device_id="0x7d67",
        driver="i915",
        total_functions=7,
    )
    npu = Card(accel=0, address="0000:00:0b.0", class_id="0x120000", device_id="0xad1d", driver="intel_vpu")
    machine = Machine(
        cores=number_cores({0: 24}, threads=1),
        performance=range(8),
        efficiency=range(8, 24),
        flags="fpu avx2 avx_vnni",
        cards=[
            *_arc(Card(address="0000:03:00.0", render=128, vram_bytes=B580), root_port="0000:00:01.0"),
            igpu,
            npu,
        ],
    )
    return write_machine(root, machine)


def four_b580(root: Path) -> Path:
    """Two sockets of 16 cores and two Arc B580 on each; renderD numbers start with the second socket."""
    cards = [
        *_arc(
            Card(address="0000:03:00.0", numa_node=0, render=130, vram_bytes=B580), root_port="0000:00:01.0"
        ),
        *_arc(
            Card(address="0000:18:00.0", numa_node=0, render=131, vram_bytes=B580), root_port="0000:15:01.0"
        ),
        *_arc(
            Card(address="0000:83:00.0", numa_node=1, render=128, vram_bytes=B580), root_port="0000:80:01.0"
        ),
        *_arc(
            Card(address="0000:9a:00.0", numa_node=1, render=129, vram_bytes=B580), root_port="0000:97:01.0"
        ),
    ]
    cores = number_cores({0: 16, 1: 16})
    return write_machine(root, Machine(cores=cores, packages={0: 0, 1: 1}, cards=cards))


def flex_sriov(root: Path) -> Path:
    """Two Flex 170 with Intel's i915 for long-term kernels; the first is split in four functions.

    Two of them are kept for guests by vfio-pci, two are used here.
    """
    function = Card(address="", numa_node=0, class_id="0x038000", device_id="0x56c0", driver="vfio-pci")
    functions = [
        replace(function, address="0000:4d:00.1"),
        replace(function, address="0000:4d:00.2"),
        *(
            replace(
                function,
                address=f"0000:4d:00.{number}",
                driver="i915",
                render=127 + number,
                files={f"drm/card{number - 1}/lmem_total_bytes": 7 * GIB // 2},
            )
            for number in (3, 4)
        ),
    ]
    flex = replace(function, driver="i915", total_functions=31)
    cards = [
        replace(
            flex,
            address="0000:4d:00.0",
            render=128,
            bridges=["0000:4a:02.0", "0000:4b:00.0", "0000:4c:01.0"],
            files={"drm/card0/lmem_total_bytes": 16 * GIB},
            functions=functions,
        ),
        replace(
            flex,
            address="0000:cd:00.0",
            render=129,
            numa_node=1,
            bridges=["0000:ca:02.0", "0000:cb:00.0", "0000:cc:01.0"],
            files={"drm/card1/lmem_total_bytes": 16 * GIB},
        ),
    ]
    cores = number_cores({0: 8, 1: 8})
    return write_machine(root, Machine(cores=cores, packages={0: 0, 1: 1}, cards=cards))


def no_render_nodes(root: Path) -> Path:
    """A server whose BMC draws the console, with an Arc A770 on node 1 that no driver has taken."""
    aspeed = Card(
        address="0000:03:00.0",
        card=0,
        numa_node=0,
        vendor_id="0x1a03",
        device_id="0x2000",
        driver="ast",
        bridges=["0000:00:1c.5", "0000:02:00.0"],
    )
    arc = _arc(
        Card(address="0000:83:00.0", numa_node=1, device_id="0x56a0", driver=None), root_port="0000:80:01.0"
    )
    cores = number_cores({0: 8, 1: 8})
    return write_machine(root, Machine(cores=cores, packages={0: 0, 1: 1}, cards=[aspeed, *arc]))


def three_vendors(root: Path) -> Path:
    """A workstation with a Radeon RX 7900 XTX, a GeForce RTX 4090 and an Arc A770 under Linux' own i915."""
    radeon = Card(
        address="0000:03:00.0",
        render=128,
        card=1,
        vendor_id="0x1002",
        device_id="0x744c",
        driver="amdgpu",
        bridges=["0000:00:01.1", "0000:01:00.0", "0000:02:00.0"],
        files={"mem_info_vram_total": 25753026560},
    )
    geforce = Card(
        address="0000:41:00.0",
        render=129,
        card=2,
        vendor_id="0x10de",
        device_id="0x2684",
        driver="nvidia",
        bridges=["0000:40:01.1"],
    )
    arc = Card(address="0000:83:00.0", render=130, card=3, device_id="0x56a0", driver="i915")
    return write_machine(
        root,
        Machine(cores=number_cores({0: 24}), cards=[radeon, geforce, *_arc(arc, root_port="0000:80:01.1")]),
    )


def sixteen_gpus(root: Path) -> Path:
    """Two sockets in SNC3, 6 nodes of 8 cores, with two or three cards on each node."""
    cards = [
        Card(
            address=f"0000:{4 * number + 0x11:02x}:00.0",
            render=128 + number,
            numa_node=number * 6 // 16,
            bridges=[f"0000:{4 * number + 0x10:02x}:01.0"],
            vram_bytes=B580,
        )
        for number in range(16)
    ]
    machine = Machine(
        cores=number_cores(dict.fromkeys(range(6), 8)),
        packages={node: node // 3 for node in range(6)},
        cards=cards,
    )
    return write_machine(root, machine)
