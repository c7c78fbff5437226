# SPDX-License-Identifier: Apache-2.0
"""What udev reports of GPUs, accelerators, CPUs, memory and NUMA nodes.

libudev checks that a message was sent by root and lets the kernel filter by subsystem, so that other
devices do not wake the agent. It needs neither a capability nor device nodes: a service with
PrivateDevices=, ProtectKernelTunables= and MemoryDenyWriteExecute= hears everything as long as it may use
AF_NETLINK and is in the network namespace of udev, the only one that udev sends to.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import pyudev

from ovms_scaler.core.device_event import RECOVERY_METHODS, DeviceEvent
from ovms_scaler.errors import HostError

# CPUs and memory blocks send online and offline (core-api/cpu_hotplug.rst, "User Space Notification";
# device_online() for both), NUMA nodes add and remove, as every device that is registered.
# GPUs without a driver, and the last moment of one that is pulled out, are known from the PCI bus only.
SUBSYSTEMS = ("drm", "accel", "pci", "devcoredump", "cpu", "memory", "node")
# libudev listens to udev only where this file is or /dev is a devtmpfs, and is silently deaf elsewhere
# (systemd's device-monitor.c). Under PrivateDevices= /dev is no devtmpfs.
CONTROL = Path("/run/udev/control")
RECEIVE_BUFFER_BYTES = 1 << 20
BATCH = 256  # events read before the loop gets its turn; what is left wakes it again
DETAIL_CHARACTERS = 64

_PROPERTIES = ("ACTION", "SUBSYSTEM", "DEVPATH", "WEDGED", "PID", "TASK", "HOTPLUG", "LEASE", "PCI_CLASS")
# Domains have more than four digits behind Intel's VMD ("10000:e1:00.0").
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
# Connectors are "card0-DP-1" (drm_sysfs_connector_add()).
_CONNECTOR = re.compile(r"card[0-9]+-.+")


class DeviceMonitor:
    """A subscription to udev's events, which wait from here on until subscribe() takes them.

    Raises HostError where there is nothing to listen to.
    """

    def __init__(self, *, control: Path = CONTROL) -> None:
        if not control.exists():
            raise HostError(
                f"cannot watch devices: udev does not run ({control} is missing)",
                hint="in a container this is normal; changes are found by the regular passes",
            )
        try:
            self._monitor: pyudev.Monitor | None = _open_monitor()
        except (OSError, ImportError) as error:  # ImportError: there is no libudev
            raise HostError(
                f"cannot watch devices: {error}",
                hint="the service needs AF_NETLINK in RestrictAddressFamilies= and the package libudev1",
            ) from error
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lost = ""  # why, since the queue was empty for the last time

    def subscribe(self, received: Callable[[DeviceEvent], None]) -> None:
        """Have the running loop call ``received`` with every event that matters.

        Events that are lost because the queue is full or a message is malformed show up as one or a few with
        the action "overflow", after those that were kept.
        """
        if self._monitor is None:
            raise HostError("cannot watch devices: the monitor is closed")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._monitor.fileno(), self._read, self._monitor, received)

    def close(self) -> None:
        """Stop listening; safe to repeat."""
        if self._monitor is not None and self._loop is not None:
            self._loop.remove_reader(self._monitor.fileno())
        self._monitor = None  # libudev closes the socket with the last reference

    def _read(self, monitor: pyudev.Monitor, received: Callable[[DeviceEvent], None]) -> None:
        for _ in range(BATCH):
            try:
                device = monitor.poll(timeout=0)
            except (OSError, ValueError) as error:  # ValueError: what pyudev makes of EINVAL
                self._lost = _take_error(monitor) or f"a message is malformed ({error})"
                continue
            if device is None:
                break
            if (event := parse_event(read_properties(device))) is not None:
                received(event)
        # The kernel tells of the first lost event only, until the queue has been empty (netlink_overrun()):
        # more may be lost while the old ones are read, so this is said after them.
        lost = self._lost
        if device is None:
            self._lost = ""
        if lost:
            received(DeviceEvent(action="overflow", subsystem="", detail=f"events were lost: {lost}"))


def _open_monitor() -> pyudev.Monitor:
    monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="udev")
    for subsystem in SUBSYSTEMS:
        monitor.filter_by(subsystem)
    with contextlib.suppress(OSError):  # beyond net.core.rmem_max it takes CAP_NET_ADMIN: less will do
        monitor.set_receive_buffer_size(RECEIVE_BUFFER_BYTES)
    monitor.start()
    return monitor


def _take_error(monitor: pyudev.Monitor) -> str:
    """Clear what makes poll(2) report POLLERR for ever, ENOBUFS for a full queue; "" when nothing did."""
    with socket.socket(fileno=os.dup(monitor.fileno())) as duplicate:
        number = duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return os.strerror(number) if number else ""


def read_properties(device: pyudev.Device) -> dict[str, str]:
    """The properties that parse_event() looks at. One that is no UTF-8, as TASK= may be, is ""."""
    found: dict[str, str] = {}
    for key in _PROPERTIES:
        try:
            found[key] = device.properties[key]
        except KeyError:
            continue
        except UnicodeDecodeError:
            found[key] = ""
    return found


def parse_event(properties: Mapping[str, str]) -> DeviceEvent | None:
    """The event, or None when nothing that is used here can have changed."""
    action, subsystem = properties.get("ACTION", ""), properties.get("SUBSYSTEM", "")
    path = properties.get("DEVPATH", "")
    if subsystem == "devcoredump":
        return _parse_coredump(action, path)
    if subsystem == "pci":
        if not _is_display(properties.get("PCI_CLASS", "")):
            return None
        return DeviceEvent(action=action, subsystem=subsystem, address=find_address(path))
    if subsystem not in ("drm", "accel"):
        return DeviceEvent(action=action, subsystem=subsystem)
    address = find_address(path)
    if action == "change" and "WEDGED" in properties:
        return DeviceEvent(
            action=action,
            subsystem=subsystem,
            address=address,
            wedged=parse_wedged(properties["WEDGED"]),
            detail=_render_task(properties),
        )
    if _is_about_displays(action, path, properties):
        return None
    return DeviceEvent(action=action, subsystem=subsystem, address=address)


def find_address(path: str) -> str | None:
    """The last PCI address in a device's path, that of its nearest parent on the PCI bus.

    The path is all that is known of a device that has been removed.
    """
    found = [part for part in path.split("/") if _ADDRESS.fullmatch(part)]
    return found[-1] if found else None


def parse_wedged(text: str) -> tuple[str, ...]:
    """The methods in WEDGED= in their order, each once; ("unknown",) when it names none that is known."""
    methods = dict.fromkeys(word for word in text.split(",") if word in RECOVERY_METHODS)
    return tuple(methods) or ("unknown",)


def _is_display(pci_class: str) -> bool:
    """Whether a class as in the kernel's uevent, "38000" for 0x038000, is that of display controllers."""
    return re.fullmatch(r"0?3[0-9A-Fa-f]{4}", pci_class) is not None


def _is_about_displays(action: str, path: str, properties: Mapping[str, str]) -> bool:
    """Connectors that come and go with a cable, and changes of what a display server may show."""
    if _CONNECTOR.fullmatch(path.rpartition("/")[2]):
        return True
    return action == "change" and "1" in (properties.get("HOTPLUG"), properties.get("LEASE"))


def _parse_coredump(action: str, path: str) -> DeviceEvent | None:
    if action != "add" or (address := _read_failing_gpu(path)) is None:
        return None
    name = _clean(path.rpartition("/")[2])
    detail = f"the driver has left a device coredump in /sys/class/devcoredump/{name}"
    return DeviceEvent(action=action, subsystem="devcoredump", address=address, wedged=(), detail=detail)


def _read_failing_gpu(path: str) -> str | None:
    """The GPU that a coredump is about; None for other devices, and when the dump has been collected."""
    try:
        device = os.path.realpath(f"/sys{path}/failing_device", strict=True)
        return find_address(device) if os.path.isdir(f"{device}/drm") else None
    except (OSError, ValueError):  # ValueError: a zero byte
        return None


def _render_task(properties: Mapping[str, str]) -> str:
    """Who the kernel believes to have caused it; it is not certain of that."""
    task, pid = _clean(properties.get("TASK", "")), _clean(properties.get("PID", ""))
    if not pid:
        return ""
    return f"the kernel suspects {task or 'a task'} (PID {pid})"


def _clean(text: str) -> str:
    """Text that others chose, fit for one line."""
    return "".join(letter for letter in text if letter.isprintable())[:DETAIL_CHARACTERS]
