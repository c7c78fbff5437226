# SPDX-License-Identifier: Apache-2.0
"""Writes PCI devices into the sysfs of a machine as the kernel shows them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One PCI device, a discrete GPU unless it says otherwise.

    ``render``, ``card`` and ``accel`` are the numbers of its renderD, card and accel nodes; ``card`` follows
    ``render`` when it is not given. ``bridges`` are the PCI ports it sits behind, from the root port on.
    ``vram_bytes`` is told by the cgroup controller dmem; ``files`` are others of its own, by path below its
    directory. ``functions`` are what SR-IOV made of it, of at most ``total_functions``.
    """

    address: str
    render: int | None = None
    card: int | None = None
    accel: int | None = None
    numa_node: int = -1
    class_id: str = "0x030000"
    vendor_id: str = "0x8086"
    device_id: str = "0xe20b"
    driver: str | None = "xe"
    bridges: Sequence[str] = ()
    vram_bytes: int | None = None
    files: Mapping[str, object] = field(default_factory=dict)
    functions: Sequence["Card"] = ()
    total_functions: int = 0


def write_files(directory: Path, files: Mapping[str, object]) -> None:
    """One line each, as most files of sysfs have."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"{content}\n")


def write_card(root: Path, card: Card) -> None:
    first = (*card.bridges, card.address)[0]
    parent = root / "sys/devices" / f"pci{first.rsplit(':', 1)[0]}"
    for address in card.bridges:
        parent = parent / address
        bridge = Card(
            address=address,
            numa_node=card.numa_node,
            class_id="0x060400",
            device_id="0xe2f0",
            driver="pcieport",
        )
        if not parent.exists():
            _write_device(root, bridge, parent)
    device = parent / card.address
    _write_device(root, card, device)
    if card.total_functions:
        counts = {"sriov_totalvfs": card.total_functions, "sriov_numvfs": len(card.functions)}
        write_files(device, counts)
    for number, function in enumerate(card.functions):
        own = parent / function.address
        _write_device(root, function, own)
        _link(own / "physfn", device)
        _link(device / f"virtfn{number}", own)


def _write_device(root: Path, card: Card, device: Path) -> None:
    uevent = [f"DRIVER={card.driver}"] if card.driver else []
    uevent += [f"PCI_CLASS={int(card.class_id, 16):X}", f"PCI_SLOT_NAME={card.address}"]
    uevent.append(f"PCI_ID={card.vendor_id[2:]}:{card.device_id[2:]}".upper())
    files = {"vendor": card.vendor_id, "device": card.device_id, "class": card.class_id}
    write_files(device, files | {"numa_node": card.numa_node, "uevent": "\n".join(uevent)})
    _link(root / f"sys/bus/pci/devices/{card.address}", device)
    if card.driver:
        driver = root / f"sys/bus/pci/drivers/{card.driver}"
        driver.mkdir(parents=True, exist_ok=True)
        _link(device / "driver", driver)
        _link(driver / card.address, device)
    if card.render is not None:
        _write_node(root, device, subsystem="drm", name=f"renderD{card.render}", numbers=(226, card.render))
    number = card.card if card.card is not None or card.render is None else card.render - 128
    if number is not None:
        _write_node(root, device, subsystem="drm", name=f"card{number}", numbers=(226, number))
    if card.accel is not None:
        _write_node(root, device, subsystem="accel", name=f"accel{card.accel}", numbers=(261, card.accel))
    write_files(device, card.files)


def _write_node(root: Path, device: Path, *, subsystem: str, name: str, numbers: tuple[int, int]) -> None:
    """A device node's entry; ``numbers`` are major and minor."""
    major, minor = numbers
    directory = device / subsystem / name
    devname = f"dri/{name}" if subsystem == "drm" else f"accel/{name}"
    uevent = f"MAJOR={major}\nMINOR={minor}\nDEVNAME={devname}\nDEVTYPE={subsystem}_minor"
    write_files(directory, {"dev": f"{major}:{minor}", "uevent": uevent})
    _link(directory / "device", device)
    _link(directory / "subsystem", root / f"sys/class/{subsystem}")
    _link(root / f"sys/class/{subsystem}/{name}", directory)


def _link(link: Path, target: Path) -> None:
    """Relative, as every link in sysfs is."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))
