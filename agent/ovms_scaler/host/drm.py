# SPDX-License-Identifier: Apache-2.0
"""Reads which GPUs the kernel offers render nodes for."""

import re
from collections.abc import Collection

from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.topology import Gpu, is_integrated
from ovms_scaler.host.sysroot import Survey

_DRM = "sys/class/drm"
_RENDER = re.compile(r"renderD([0-9]{1,6})")
# Domains have more than four digits behind Intel's VMD ("10000:e1:00.0").
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_ID = re.compile(r"0x[0-9a-f]{4}")


def read_gpus(survey: Survey, *, nodes: Collection[int], virtual: bool) -> tuple[Gpu, ...]:
    """Every PCI device with a render node, ascending by address.

    Others, such as an ARM board's own GPU, have no PCI address to be named by and are left out.
    """
    gpus: dict[str, Gpu] = {}
    for name in sorted(survey.tree.names(_DRM), key=_render_number):
        if _RENDER.fullmatch(name) is None or (address := _read_address(survey, name)) is None:
            continue
        gpu = _read_gpu(survey, name, address, nodes=nodes, virtual=virtual)
        if address in gpus:
            survey.warn(f"{_DRM}/{name}: {address} has {gpus[address].render_node} too, ignoring this one")
        else:
            gpus[address] = gpu
    return tuple(gpus[address] for address in sorted(gpus, key=_address_key))


def _render_number(name: str) -> int:
    match = _RENDER.fullmatch(name)
    return int(match[1]) if match else -1


def _address_key(address: str) -> tuple[int, str]:
    domain, _, rest = address.partition(":")
    return int(domain, 16), rest


def _read_address(survey: Survey, name: str) -> str | None:
    """The PCI address, from the text of links, which is right also where a copied tree lacks the target."""
    device = survey.tree.link(f"{_DRM}/{name}/device")
    path = survey.tree.resolve(f"{_DRM}/{name}/device") or ""
    # virtio's parent is a device of its own below the PCI one, so the last address on the way counts.
    for text in (device or "", path, survey.tree.link(f"{_DRM}/{name}") or ""):
        if found := [part for part in text.split("/") if _ADDRESS.fullmatch(part)]:
            return found[-1]
    slot = _uevent(survey, f"{_DRM}/{name}/device").get("PCI_SLOT_NAME", "")
    if _ADDRESS.fullmatch(slot):
        return slot
    if device is None:
        survey.warn(f"{_DRM}/{name}: its PCI address is unknown, ignoring this GPU")
    return None


def _uevent(survey: Survey, device: str) -> dict[str, str]:
    lines = (survey.tree.read(f"{device}/uevent") or "").splitlines()
    return {key: value for key, _, value in (line.strip().partition("=") for line in lines)}


def _read_gpu(survey: Survey, name: str, address: str, *, nodes: Collection[int], virtual: bool) -> Gpu:
    device = _device_directory(survey, name, address)
    vendor_id = _read_id(survey, f"{device}/vendor")
    device_id = _read_id(survey, f"{device}/device")
    if vendor_id is None or device_id is None:
        survey.warn(f"{device}: the GPU's vendor or device id is missing")
    link = survey.tree.link(f"{device}/driver")
    driver = link.rstrip("/").rpartition("/")[2] if link else _uevent(survey, device).get("DRIVER")
    return Gpu(
        address=address,
        render_node=f"/dev/dri/{name}",
        vendor_id=vendor_id,
        device_id=device_id,
        driver=driver or None,
        numa_node=_read_numa_node(survey, device, nodes=nodes),
        integrated=is_integrated(address, vendor_id=vendor_id, virtual=virtual),
    )


def _device_directory(survey: Survey, name: str, address: str) -> str:
    """Where the PCI device's own files are."""
    resolved = survey.tree.resolve(f"{_DRM}/{name}/device") or ""
    parent, found, _ = resolved.rpartition(f"/{address}")
    if found and survey.tree.is_directory(parent + found):
        return parent + found
    if survey.tree.is_directory(by_bus := f"sys/bus/pci/devices/{address}"):
        return by_bus
    return f"{_DRM}/{name}/device"


def _read_id(survey: Survey, path: str) -> str | None:
    text = (survey.tree.read(path) or "").lower()
    return text if _ID.fullmatch(text) else None


def _read_numa_node(survey: Survey, device: str, *, nodes: Collection[int]) -> int | None:
    node = survey.number(f"{device}/numa_node")
    if node is None:
        survey.warn(f"{device}/numa_node is missing: the GPU's node is unknown")
    elif node >= 0 and node not in nodes:
        survey.warn(f"{device}/numa_node is {node}, the host has {format_cpu_list(nodes)}, ignoring it")
    return node if node in nodes else None
