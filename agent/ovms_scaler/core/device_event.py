# SPDX-License-Identifier: Apache-2.0
"""What udev passes on about devices, as far as it matters here."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEvent:
    """One uevent.

    ``action`` and ``subsystem`` are ACTION= and SUBSYSTEM= of it ("remove", "drm"); when events were lost
    the action is "overflow" and everything may have changed. ``address`` is the PCI address of the GPU that
    it is about, None for other devices. ``wedged`` is not None when the kernel reports that this GPU hangs:
    the ways to recover it in the kernel's order, as in WEDGED= (gpu/drm-uapi.rst, "Device Wedging"), empty
    for a device coredump, which names none. ``detail`` is a sentence for people.
    """

    action: str
    subsystem: str
    address: str | None = None
    wedged: tuple[str, ...] | None = None
    detail: str = ""
