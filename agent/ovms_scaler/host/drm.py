# SPDX-License-Identifier: Apache-2.0
"""Reads which GPUs there are, with and without a render node.

What the files mean: ABI/testing/sysfs-bus-pci and gpu/drm-uapi.rst of the kernel's documentation, and where
memory is read. A display controller's class is 0x03 (PCI Code and ID Assignment Specification).
"""

import grp
import os
import re
from collections.abc import Callable, Mapping

from ovms_scaler.core.topology import Gpu, is_integrated
from ovms_scaler.host import pci
from ovms_scaler.host.sysroot import Survey

_DRM = "sys/class/drm"
_CAPACITY = "sys/fs/cgroup/dmem.capacity"
_RENDER = re.compile(r"renderD([0-9]{1,6})")
_DISPLAY = re.compile(r"0x03[0-9a-f]{4}")
_CARD = re.compile(r"card[0-9]{1,6}")
_TILE = re.compile(r"tile[0-9]{1,2}")
_VIRTUAL_FUNCTION = re.compile(r"virtfn[0-9]{1,4}")
_VRAM = re.compile(rf"^drm/({pci.ADDRESS.pattern})/vram[0-9]*[ \t]+([0-9]{{1,18}})$", re.MULTILINE)

MayOpen = Callable[[str], bool | None]
"""Whether the group render may read and write a device node; None where that cannot be seen."""


def group_may_open(path: str, *, group: str = "render") -> bool | None:
    """What the owner and mode of a device node of this machine say; access lists are not looked at."""
    try:
        group_id = grp.getgrnam(group).gr_gid
        status = os.stat(path)
    except (KeyError, OSError):
        return None
    wanted = 0o060 if status.st_gid == group_id else 0o006
    return status.st_mode & wanted == wanted


def read_gpus(
    survey: Survey, *, nodes: pci.Nodes, virtual: bool, may_open: MayOpen | None
) -> tuple[Gpu, ...]:
    """Every display controller and everything with a render node on the PCI bus, ascending by address.

    Others, such as an ARM board's own GPU, have no PCI address to be named by and are left out.
    ``virtual`` says that the host is a guest; ``may_open`` is None for the tree of another machine.
    """
    rendering = _read_render_nodes(survey)
    capacities = _read_capacities(survey)
    gpus = []
    for address in sorted({*rendering, *_read_displays(survey)}, key=pci.address_key):
        name = rendering.get(address)
        device = pci.read_device(survey, address, entry=f"{_DRM}/{name}" if name else None, nodes=nodes)
        render_node = f"/dev/dri/{name}" if name else None
        gpus.append(
            Gpu(
                address=address,
                render_node=render_node,
                vendor_id=device.vendor_id,
                device_id=device.device_id,
                driver=device.driver,
                numa_node=device.numa_node,
                integrated=is_integrated(address, vendor_id=device.vendor_id, virtual=virtual),
                memory_bytes=capacities.get(address) or _read_memory(survey, device.directory),
                physical_function=_read_physical_function(survey, device),
                virtual_functions=_count_virtual_functions(survey, device.directory),
                accessible=may_open(render_node) if render_node and may_open else None,
            )
        )
    return tuple(gpus)


def _read_render_nodes(survey: Survey) -> Mapping[str, str]:
    """PCI address -> name of its render node."""
    found: dict[str, str] = {}
    for name in sorted(survey.tree.names(_DRM), key=_render_number):
        if (
            _RENDER.fullmatch(name) is None
            or (address := pci.read_address(survey, f"{_DRM}/{name}")) is None
        ):
            continue
        if address in found:
            survey.warn(f"{_DRM}/{name}: {address} has /dev/dri/{found[address]} too, ignoring this one")
        else:
            found[address] = name
    return found


def _render_number(name: str) -> int:
    match = _RENDER.fullmatch(name)
    return int(match[1]) if match else -1


def _read_displays(survey: Survey) -> set[str]:
    return {
        name
        for name in survey.tree.names(pci.DEVICES)
        if pci.ADDRESS.fullmatch(name)
        and _DISPLAY.fullmatch((survey.tree.read(f"{pci.DEVICES}/{name}/class") or "").lower())
    }


def _read_capacities(survey: Survey) -> Mapping[str, int]:
    """PCI address -> bytes of video memory, from the cgroup controller dmem.

    Linux has it since 6.14; the drivers xe and amdgpu tell it their memory (admin-guide/cgroup-v2.rst).
    Other regions that they may name, such as "stolen", are not for programs.
    """
    capacities: dict[str, int] = {}
    for address, size in _VRAM.findall(survey.tree.read(_CAPACITY) or ""):
        capacities[address] = capacities.get(address, 0) + int(size)
    return capacities


def _read_memory(survey: Survey, directory: str) -> int | None:
    """The same from the driver's own files, of which Linux' i915 and xe have none.

    Intel's drivers for long-term kernels have one for each tile (xe) or one below the card (i915), amdgpu
    has one (gpu/amdgpu/driver-misc.rst).
    """
    tiles = [name for name in survey.tree.names(directory) if _TILE.fullmatch(name)]
    cards = [name for name in survey.tree.names(f"{directory}/drm") if _CARD.fullmatch(name)]
    for paths in (
        [f"{directory}/{tile}/physical_vram_size_bytes" for tile in tiles],
        [f"{directory}/mem_info_vram_total"],
        [f"{directory}/drm/{card}/lmem_total_bytes" for card in cards],
    ):
        sizes = [size for path in paths if (size := survey.number(path)) is not None and size > 0]
        if sizes:
            return sum(sizes)
    return None


def _read_physical_function(survey: Survey, device: pci.PciDevice) -> str | None:
    path = f"{device.directory}/physfn"
    name = (survey.tree.link(path) or "").rstrip("/").rpartition("/")[2]
    found = name if pci.ADDRESS.fullmatch(name) else pci.read_slot(survey, path)
    return None if found == device.address else found


def _count_virtual_functions(survey: Survey, directory: str) -> int:
    count = survey.number(f"{directory}/sriov_numvfs")
    if count is not None and count >= 0:
        return count
    return sum(_VIRTUAL_FUNCTION.fullmatch(name) is not None for name in survey.tree.names(directory))
