# SPDX-License-Identifier: Apache-2.0
"""Reads what sysfs tells of every PCI device alike, from the machine's own tree or from a copy.

What the files mean: ABI/testing/sysfs-bus-pci of the kernel's documentation.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.host.sysroot import Survey

DEVICES = "sys/bus/pci/devices"

# Domains have more than four digits behind Intel's VMD ("10000:e1:00.0").
ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_ID = re.compile(r"0x[0-9a-f]{4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PciDevice:
    """A device; ``directory`` is where its own files are. What sysfs does not say is None."""

    address: str
    directory: str
    vendor_id: str | None
    device_id: str | None
    driver: str | None
    numa_node: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """The nodes that a device may be on. ``numa`` is False when the kernel itself knows of none."""

    ids: Collection[int]
    numa: bool


def address_key(address: str) -> tuple[int, str]:
    """Orders addresses as numbers: their domains have no fixed width."""
    domain, _, rest = address.partition(":")
    return int(domain, 16), rest


def read_address(survey: Survey, entry: str) -> str | None:
    """The PCI address of a class's entry, such as "sys/class/drm/renderD128"; None for other devices.

    It is taken from the text of links, which is right also where a copied tree lacks the target.
    """
    device = survey.tree.link(f"{entry}/device")
    path = survey.tree.resolve(f"{entry}/device") or ""
    # virtio's parent is a device of its own below the PCI one, so the last address on the way counts.
    for text in (device or "", path, survey.tree.link(entry) or ""):
        if found := [part for part in text.split("/") if ADDRESS.fullmatch(part)]:
            return found[-1]
    if slot := read_slot(survey, f"{entry}/device"):
        return slot
    if device is None:
        survey.warn(f"{entry}: its PCI address is unknown, ignoring this device")
    return None


def read_slot(survey: Survey, directory: str) -> str | None:
    """The address that a device gives itself."""
    slot = _read_uevent(survey, directory).get("PCI_SLOT_NAME", "")
    return slot if ADDRESS.fullmatch(slot) else None


def read_device(survey: Survey, address: str, *, entry: str | None, nodes: Nodes) -> PciDevice:
    """The device at an address; ``entry`` is what its class shows of it, None when it is in none."""
    directory = _find_directory(survey, address, entry=entry)
    vendor_id = _read_id(survey, f"{directory}/vendor")
    device_id = _read_id(survey, f"{directory}/device")
    if vendor_id is None or device_id is None:
        survey.warn(f"{directory}: the vendor or device id of {address} is missing")
    link = survey.tree.link(f"{directory}/driver")
    driver = link.rstrip("/").rpartition("/")[2] if link else _read_uevent(survey, directory).get("DRIVER")
    return PciDevice(
        address=address,
        directory=directory,
        vendor_id=vendor_id,
        device_id=device_id,
        driver=driver or None,
        numa_node=_read_numa_node(survey, directory, nodes=nodes),
    )


def _read_uevent(survey: Survey, directory: str) -> dict[str, str]:
    lines = (survey.tree.read(f"{directory}/uevent") or "").splitlines()
    return {key: value for key, _, value in (line.strip().partition("=") for line in lines)}


def _find_directory(survey: Survey, address: str, *, entry: str | None) -> str:
    if entry is not None:
        resolved = survey.tree.resolve(f"{entry}/device") or ""
        parent, found, _ = resolved.rpartition(f"/{address}")
        if found and survey.tree.is_directory(parent + found):
            return parent + found
    if entry is None or survey.tree.is_directory(f"{DEVICES}/{address}"):
        return f"{DEVICES}/{address}"
    return f"{entry}/device"


def _read_id(survey: Survey, path: str) -> str | None:
    text = (survey.tree.read(path) or "").lower()
    return text if _ID.fullmatch(text) else None


def _read_numa_node(survey: Survey, directory: str, *, nodes: Nodes) -> int | None:
    """The kernel says -1 where the firmware does not tell, and has no such file without NUMA."""
    node = survey.number(f"{directory}/numa_node")
    if node is None and nodes.numa:
        survey.warn(f"{directory}/numa_node is missing: the device's node is unknown")
    elif node is not None and node >= 0 and node not in nodes.ids:
        known = format_cpu_list(nodes.ids)
        survey.warn(f"{directory}/numa_node is {node}, the host has {known}, ignoring it")
    return node if node in nodes.ids else None
