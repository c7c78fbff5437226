# SPDX-License-Identifier: Apache-2.0
"""What udev passes on about devices, as far as it matters here."""

from dataclasses import dataclass

# What the kernel names in WEDGED= (gpu/drm-uapi.rst, "Device Wedging"). "none": the driver has recovered the
# device by itself, though what ran on it is lost. "unknown": the driver cannot tell what helps.
RECOVERY_METHODS = ("none", "rebind", "bus-reset", "vendor-specific", "cold-reset", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEvent:
    """One uevent.

    ``action`` and ``subsystem`` are ACTION= and SUBSYSTEM= of it ("remove", "drm"); when events were lost
    the action is "overflow" and everything may have changed. ``address`` is the PCI address of the GPU or
    accelerator that it is about, None for other devices. ``wedged`` is not None when the kernel reports that
    this GPU hangs or hung: the ways to recover it, each one of ``RECOVERY_METHODS``, from less to more side
    effects as in WEDGED=; empty for a device coredump, which names none. ``detail`` is for people, "" when
    there is nothing to add.
    """

    action: str
    subsystem: str
    address: str | None = None
    wedged: tuple[str, ...] | None = None
    detail: str = ""
