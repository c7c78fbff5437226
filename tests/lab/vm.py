# SPDX-License-Identifier: Apache-2.0
"""A virtual machine: it has what a container has not, NUMA nodes, udev, cpuset and cards to pull out."""

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from lab import paths, vm_channel, vm_files, vm_image, vm_qemu, vm_udev
from lab.commands import LabError
from lab.guest import Guest
from lab.vm_channel import Channel, Stream
from lab.vm_image import VmImage
from lab.vm_udev import Events


class Vm(Guest):
    """One booted virtual machine. Its disk is as the image says at each boot."""

    # To answer takes an emulated processor a good part of a second, which what is waited for needs itself.
    poll_sec = 0.5

    def __init__(self, *, name: str) -> None:
        hosts = paths.CACHE / "hosts"
        hosts.mkdir(parents=True, exist_ok=True)
        super().__init__(name=name, directory=Path(tempfile.mkdtemp(prefix=f"{name}-", dir=hosts)))
        self.accelerator = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: vm_qemu.Monitor | None = None
        self._channel: Channel | None = None

    @classmethod
    def boot(cls, image: VmImage, *, name: str = "vm", timeout_sec: float = 240) -> Self:
        """Boot and return when systemd says that start-up is finished.

        Raises LabError when this machine cannot run it, or with the console when it does not come up.
        """
        vm_qemu.require_machine()
        vm = cls(name=name)
        cls.live.append(vm)
        try:
            vm.accelerator = vm_qemu.choose_accelerator(image)
            begun = time.monotonic()
            vm._start(image)
            vm._wait_until_booted(begun + timeout_sec)
            vm.boot_sec = time.monotonic() - begun
        except BaseException:
            vm.close()
            raise
        return vm

    def close(self) -> None:
        if self in self.live:
            self.live.remove(self)
        self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        shutil.rmtree(self.directory, ignore_errors=True)

    # Commands and connections

    def execute(
        self, *argv: str, stdin: bytes, timeout_sec: float, env: Mapping[str, str]
    ) -> "subprocess.CompletedProcess[bytes]":
        try:
            return self._running().execute(argv, stdin=stdin, timeout_sec=timeout_sec, env=env)
        except ConnectionError as error:
            raise LabError(
                f"cannot reach {self.name!r}: {error}; its console:\n{self.console()[-4000:]}"
            ) from error

    @contextlib.contextmanager
    def stream(self, *argv: str) -> Iterator[Stream]:
        """A command that runs inside as long as the block, to read what it prints as it comes."""
        connection = self._running().start(argv, stdin=b"", env={}, timeout_sec=60)
        with vm_channel.streaming(connection) as stream:
            yield stream

    def connect(self, port: int, *, address: str = "127.0.0.1", timeout_sec: float = 30) -> socket.socket:
        return self._running().connect([address, port], timeout_sec=timeout_sec)

    def connect_unix(self, path: str, *, timeout_sec: float = 30) -> socket.socket:
        return self._running().connect(path, timeout_sec=timeout_sec)

    def netns_command(self, *argv: str) -> list[str]:
        return list(argv)

    def client_port(self, port: int) -> int:
        """Connections to the port that is returned arrive at `port` of the guest's only network card."""
        self._running()
        assert self._monitor is not None
        forwards = self._monitor.read_forwards()
        if port not in forwards:
            refusal = self._monitor.ask_human(f"hostfwd_add net tcp:127.0.0.1:0-:{port}")
            forwards = self._monitor.read_forwards()
            if port not in forwards:
                raise LabError(f"cannot forward a port to port {port} of {self.name!r}: {refusal}")
        return forwards[port]

    # Devices

    def read_cards(self) -> dict[str, int]:
        """The NUMA node of each card that has a render node, by PCI address."""
        show = 'echo "$(readlink -f "$card") $(cat "$card/numa_node")"'
        listed = self.script(f"for card in {vm_files.CARDS}/device; do {show}; done")
        pairs = [line.split() for line in listed.splitlines()]
        return {Path(path).name: int(node) for path, node in pairs}

    def remove_card(self, address: str) -> None:
        """Take a PCI device away, as pulling it out does: `address` is like 0000:21:00.0."""
        self.write_node(f"/sys/bus/pci/devices/{address}/remove", "1")

    def rescan(self) -> None:
        """Have the kernel look for PCI devices that it does not have; they get their addresses back."""
        self.write_node("/sys/bus/pci/rescan", "1")

    def wedge(self, address: str, methods: str) -> None:
        """Have udev report that the driver of a card gave up, with `WEDGED=` one of vm_files.WEDGED."""
        if methods not in vm_files.WEDGED:
            raise LabError(f"cannot wedge {address} with {methods!r}: not one of {vm_files.WEDGED}")
        (card,) = self.script(f"ls /sys/bus/pci/devices/{address}/drm | grep ^card").split()
        # Any UUID will do: it marks the event as made by hand.
        event = f"change 5f3b8f0e-6d0c-4f0e-9d57-3f1f5f0c2a11 WEDGED={vm_files.encode_wedged(methods)}"
        self.write_node(f"/sys/class/drm/{card}/uevent", event)

    def offline_cpu(self, number: int) -> None:
        """Take a CPU away; CPU 0 always stays."""
        self.write_node(f"/sys/devices/system/cpu/cpu{number}/online", "0")

    def online_cpu(self, number: int) -> None:
        """Give a CPU back."""
        self.write_node(f"/sys/devices/system/cpu/cpu{number}/online", "1")

    @contextlib.contextmanager
    def udev_events(self, subsystem: str = "drm") -> Iterator[Events]:
        """The events of a subsystem from the beginning of the block on."""
        with self.stream(*vm_udev.COMMAND, f"--subsystem-match={subsystem}") as stream:
            yield Events(stream)

    def settle(self, *, timeout_sec: float = 60) -> None:
        """Wait until udev has processed all events so far."""
        self.run("udevadm", "settle", f"--timeout={int(timeout_sec)}", timeout_sec=timeout_sec)

    def write_node(self, path: str, text: str) -> None:
        """Write to a file of the kernel, in one write(2). Raises LabError with what the kernel says."""
        self.run("sh", "-c", 'printf %s "$2" > "$1"', "sh", path, text)

    # Own affairs

    def read_crash(self) -> str:
        """How QEMU ended by itself, "" while it runs."""
        status = self._process.poll() if self._process is not None else None
        if status is None:
            return ""
        return f"QEMU ended, with status {status}; it said:\n{self.console()[-2000:]}"

    def _start(self, image: VmImage) -> None:
        """Start QEMU and learn where the guest will take commands."""
        ours, theirs = socket.socketpair()
        with theirs:
            argv = vm_qemu.command(image, self.accelerator)
            self._process = vm_qemu.start(argv, self.console_path, theirs)
        try:
            self._monitor = vm_qemu.Monitor(ours)
        except (LabError, OSError) as error:
            ours.close()
            raise LabError(f"QEMU did not start: {error}; it said:\n{self.console()[-4000:]}") from error
        self._channel = Channel(self._monitor.read_forwards()[vm_channel.GUEST_PORT])

    def _wait_until_booted(self, deadline: float) -> None:
        """Wait for the guest to take commands, which has no event, and then for its systemd to be done."""
        while True:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"{self.name!r} did not start; its console:\n{self.console()[-8000:]}")
            with contextlib.suppress(LabError, OSError, subprocess.TimeoutExpired):
                self.execute("true", stdin=b"", timeout_sec=5, env={})
                break
            time.sleep(0.2)  # nothing tells that a guest begins to listen
        left = deadline - time.monotonic()
        state = self.run("systemctl", "is-system-running", "--wait", check=False, timeout_sec=left).stdout
        if state != "running\n":
            raise LabError(f"{self.name!r} is {state.strip()!r} after its start:\n{self.diagnostics()}")
        # systemd does not wait for the drivers that udev loads.
        self.settle(timeout_sec=max(1, deadline - time.monotonic()))

    def _running(self) -> Channel:
        if self._channel is None:
            raise LabError(f"cannot reach {self.name!r}: it is off")
        return self._channel


def main() -> None:
    """Boot one and say how long it took."""
    with Vm.boot(vm_image.build()) as vm:
        sys.stdout.write(f"booted in {vm.boot_sec:.1f} s with {vm.accelerator}\n")


if __name__ == "__main__":
    main()
