# SPDX-License-Identifier: Apache-2.0
"""A program: a host for DeviceMonitor, whose devices are umockdev's or whose udevd is this program.

It needs no udevd and touches nothing outside. Each line on its standard input is a JSON list of steps, each
a list of a lever's name and its arguments; the answer is a line with the list of the events that a new
monitor passed on. In a process of its own because libumockdev works by LD_PRELOAD, and the network namespace
is not to be that of the tests.
"""

import asyncio
import dataclasses
import json
import shutil
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ovms_scaler.core.device_event import DeviceEvent
from ovms_scaler.host.devices import DeviceMonitor

LIMIT_SEC = 20
MARKER = DeviceEvent(action="change", subsystem="node")
NETLINK_KOBJECT_UEVENT = 15
UDEV_GROUP = 2  # udevd's, beside the kernel's 1


class Host(Protocol):
    """What sends events; its other methods are the levers."""

    def mark(self) -> None:
        """Send the event ``MARKER``, which no lever sends."""


class MockedHost:
    """Devices in umockdev's sysfs, laid out and announced as the kernel does it."""

    def __init__(self) -> None:
        import gi

        gi.require_version("UMockdev", "1.0")
        from gi.repository import UMockdev

        self._bed = UMockdev.Testbed.new()
        self._numbers: dict[str, int] = {}
        self._node = self._make("/devices/system/node/node0", "node")

    def mark(self) -> None:
        self._bed.uevent(self._node, MARKER.action)

    def add_gpu(self, address: str) -> None:
        card, connector, render = self._make_gpu(address)
        self._bed.uevent(connector, "add")
        self._announce(card, HOTPLUG="1")
        self._bed.uevent(card, "add")
        self._bed.uevent(render, "add")

    def remove_gpu(self, address: str) -> None:
        card, connector, render = self._make_gpu(address)
        for device in (connector, render, card):
            self._bed.uevent(device, "remove")
        shutil.rmtree(Path(self._bed.get_root_dir() + card).parent)

    def add_npu(self, address: str) -> None:
        self._bed.uevent(self._make(f"/devices/pci0000:00/{address}/accel/accel0", "accel"), "add")

    def wedge(self, address: str, wedged: str, task: str = "", pid: str = "") -> None:
        card, _, _ = self._make_gpu(address)
        self._announce(card, WEDGED=wedged, **({"TASK": task, "PID": pid} if task else {}))

    def dump_core(self, name: str, address: str) -> None:
        self._make_gpu(address)
        self.dump_core_of_another_device(name, address)

    def dump_core_of_another_device(self, name: str, address: str) -> None:
        dump = self._make(f"/devices/virtual/devcoredump/{name}", "devcoredump")
        self._make(parent_of(address), "pci")
        Path(self._bed.get_root_dir() + dump, "failing_device").symlink_to(
            f"../../..{parent_of(address)[8:]}"
        )
        self._bed.uevent(dump, "add")

    def drop_core(self, name: str) -> None:
        self._bed.uevent(self._make(f"/devices/virtual/devcoredump/{name}", "devcoredump"), "remove")

    def plug_cable(self, address: str) -> None:
        card, connector, _ = self._make_gpu(address)
        self._announce(card, HOTPLUG="1", CONNECTOR="95")
        self._announce(card, LEASE="1")
        self._bed.uevent(connector, "remove")
        self._bed.uevent(connector, "add")

    def plug_network(self, address: str) -> None:
        self._bed.uevent(self._make(f"/devices/pci0000:00/{address}/net/eth7", "net"), "add")

    def set_pci(self, address: str, action: str, pci_class: str) -> None:
        device = self._make(parent_of(address), "pci")
        self._bed.set_property(device, "PCI_CLASS", pci_class)
        self._bed.uevent(device, action)

    def set_cpu(self, number: str, action: str) -> None:
        self._bed.uevent(self._make(f"/devices/system/cpu/cpu{number}", "cpu"), action)

    def set_memory(self, number: str, action: str) -> None:
        self._bed.uevent(self._make(f"/devices/system/memory/memory{number}", "memory"), action)

    def set_node(self, number: str, action: str) -> None:
        self._bed.uevent(self._make(f"/devices/system/node/node{number}", "node"), action)

    def _make_gpu(self, address: str) -> tuple[str, str, str]:
        """The paths of its card, a connector and its render node, which are there when this returns."""
        number = self._numbers.setdefault(address, len(self._numbers))
        self._make(parent_of(address), "pci")
        card = f"{parent_of(address)}/drm/card{number}"
        return (
            self._make(card, "drm"),
            self._make(f"{card}/card{number}-DP-1", "drm"),
            self._make(f"{parent_of(address)}/drm/render{number}", "drm"),
        )

    def _make(self, path: str, subsystem: str) -> str:
        """Make a device without the event that umockdev's own functions send; returns its path in sysfs."""
        directory = Path(f"{self._bed.get_root_dir()}/sys{path}")
        if not directory.is_dir():
            directory.mkdir(parents=True)
            (directory / "uevent").touch()
            (directory / "subsystem").symlink_to(f"/sys/class/{subsystem}")
        return f"/sys{path}"

    def _announce(self, device: str, **properties: str) -> None:
        """A change with properties of its own, which are of this event only."""
        for name, value in properties.items():
            self._bed.set_property(device, name, value)
        self._bed.uevent(device, "change")
        Path(self._bed.get_root_dir() + device, "uevent").write_text("")


def parent_of(address: str) -> str:
    """The path of the GPU with this PCI address, behind a bridge."""
    return f"/devices/pci0000:00/0000:00:01.0/{address}"


class NetlinkHost:
    """udevd's part of the protocol on a real socket, as in systemd's device-monitor.c."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)

    def mark(self) -> None:
        self.send(f"ACTION={MARKER.action}", f"SUBSYSTEM={MARKER.subsystem}", "DEVPATH=/devices/marker")

    def send(self, *properties: str) -> None:
        """``properties`` as NAME=value; characters stand for bytes."""
        named = dict(line.split("=", 1) for line in properties)
        body = b"".join(line.encode("latin-1") + b"\0" for line in (*properties, "SEQNUM=1"))
        offset = 40
        subsystem = murmur_hash(named.get("SUBSYSTEM", "").encode())
        header = struct.pack("=8sLLLL", b"libudev", socket.htonl(0xFEEDCAFE), offset, offset, len(body))
        self.send_raw((header + struct.pack("=LLLL", socket.htonl(subsystem), 0, 0, 0) + body).hex())

    def send_raw(self, message: str) -> None:
        """``message`` in hexadecimal."""
        self._socket.sendto(bytes.fromhex(message), (0, UDEV_GROUP))

    def flood(self, number: str) -> None:
        for _ in range(int(number)):
            self.send("ACTION=online", "SUBSYSTEM=memory", "DEVPATH=/devices/system/memory/memory7")


def murmur_hash(data: bytes) -> int:
    """MurmurHash2 with the seed 0, by which the kernel's filter knows a subsystem."""
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    value = len(data)
    whole = len(data) // 4 * 4
    for (part,) in struct.iter_unpack("=L", data[:whole]):
        mixed = part * multiplier & mask
        mixed = (mixed ^ mixed >> 24) * multiplier & mask
        value = value * multiplier & mask ^ mixed
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, sys.byteorder)) * multiplier & mask
    value = (value ^ value >> 13) * multiplier & mask
    return value ^ value >> 15


async def see(host: Host, steps: list[list[str]]) -> list[DeviceEvent]:
    """Pull levers while a monitor listens; returns what it heard.

    Two steps are no levers: "close" closes the monitor, "settle" waits until all is read that was sent.
    """
    monitor = DeviceMonitor(control=Path("/"))
    heard: asyncio.Queue[DeviceEvent] = asyncio.Queue()
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    monitor.subscribe(heard.put_nowait)
    events: list[DeviceEvent] = []
    for name, *arguments in steps:
        if name == "settle":
            events += await settle(host, heard)
        else:
            lever = monitor.close if name == "close" else getattr(host, name)
            lever(*arguments)
    if ["close"] in steps:
        for _ in range(10):  # turns of the loop, in which what is still subscribed would be heard
            await asyncio.sleep(0)
        while not heard.empty():
            events.append(heard.get_nowait())
    else:
        events += await settle(host, heard)
    monitor.close()
    if failures:
        raise RuntimeError(failures)
    return events


async def settle(host: Host, heard: "asyncio.Queue[DeviceEvent]") -> list[DeviceEvent]:
    """Wait until a marker comes through, and return what was heard before and with it."""
    events: list[DeviceEvent] = []
    async with asyncio.timeout(LIMIT_SEC):
        while not events or events[-1] != MARKER:
            host.mark()  # with every event, as this one may be among those that are lost
            events.append(await heard.get())
    for _ in range(10):  # turns of the loop, in which the rest is read
        await asyncio.sleep(0)
    while not heard.empty():
        events.append(heard.get_nowait())
    return [event for event in events if event != MARKER]


def main() -> None:
    hosts: dict[str, Callable[[], Host]] = {"mocked": MockedHost, "netlink": NetlinkHost}
    for line in sys.stdin:
        events = asyncio.run(see(hosts[sys.argv[1]](), json.loads(line)))
        sys.stdout.write(json.dumps([dataclasses.asdict(event) for event in events]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
