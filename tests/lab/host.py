# SPDX-License-Identifier: Apache-2.0
"""A disposable host with systemd as its PID 1, a network of its own and nothing to clean up afterwards."""

import itertools
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Self

from lab import commands, keeping, netns, paths
from lab.commands import LabError
from lab.guest import Guest
from lab.image import Image
from lab.keeping import Keeping

GIB = 1 << 30


class Host(Guest):
    """One booted host. `Host.boot()` makes it; leaving its `with` block ends it as pulling the plug does."""

    numbers: ClassVar[Iterator[int]] = itertools.count(1)

    def __init__(self, *, name: str, image: Image) -> None:
        hosts = paths.CACHE / "hosts"
        hosts.mkdir(parents=True, exist_ok=True)
        super().__init__(name=name, directory=Path(tempfile.mkdtemp(prefix=f"{name}-", dir=hosts)))
        self.image = image
        self.pid1 = 0
        self.init_group = Path()
        self.mount_point = self.directory / "root"
        self.mount_point.mkdir()
        self.keeping: Keeping | None = None

    @classmethod
    def boot(
        cls,
        image: Image,
        *,
        name: str = "",
        binds: Mapping[str, Path] | None = None,
        writable_binds: Mapping[str, Path] | None = None,
        memory_bytes: int = 6 * GIB,
        disk_bytes: int = 4 * GIB,
        tasks: int = 4096,
        timeout_sec: float = 60,
    ) -> Self:
        """Boot a host from `image` and return when its systemd says that start-up is finished.

        `binds` map paths inside to paths outside, read-only. The disk is memory, taken as it is written.
        Raises LabError with the console when it does not come up in `timeout_sec`.
        """
        keeping.reap()
        host = cls(name=name or f"{image.release}{next(cls.numbers)}", image=image)
        cls.live.append(host)
        shown = [(str(source), target, False) for target, source in (binds or {}).items()]
        lent = [(str(source), target, True) for target, source in (writable_binds or {}).items()]
        spec = {
            "name": host.name,
            "uuid": uuid.uuid4().hex,
            "directory": str(host.mount_point),
            "layers": [str(layer) for layer in image.layers],
            "console": str(host.console_path),
            "binds": shown + lent,
            "memory_bytes": memory_bytes,
            "disk_bytes": disk_bytes,
            "tasks": tasks,
        }
        try:
            host.keeping = Keeping(spec)
            host.wait_until_booted(timeout_sec=timeout_sec)
        except BaseException:
            host.close()
            raise
        return host

    def close(self) -> None:
        if self in self.live:
            self.live.remove(self)
        if self.keeping is not None:
            self.keeping.end()
            self.keeping = None
        self.pid1 = 0
        shutil.rmtree(self.directory, ignore_errors=True)

    # Life

    def wait_until_booted(self, *, timeout_sec: float = 60) -> None:
        """Wait for the systemd of a host that is starting, or starting again, to be done with it."""
        begun = time.monotonic()
        self._wait_for_report("ready", timeout_sec)
        if self.keeping is not None:
            self.pid1 = self.keeping.read_pid1()
            self.init_group = self.keeping.read_init_group()
        self.boot_sec = time.monotonic() - begun

    def reboot(self, *, timeout_sec: float = 60) -> None:
        """Restart the host in order: what is on disk stays, what is in /run or in memory does not."""
        self.run("systemctl", "reboot", "--no-block", check=False)
        self._wait_for_report("rebooting", timeout_sec)
        self.wait_until_booted(timeout_sec=timeout_sec)

    def poweroff(self, *, timeout_sec: float = 60) -> None:
        """Shut the host down in order. Its disk can still be saved with save_layer()."""
        self.run("systemctl", "poweroff", "--no-block", check=False)
        self._wait_for_report("exited", timeout_sec)
        self.pid1 = 0

    def save_layer(self, directory: Path) -> Image:
        """Copy what was written to the disk of a host that is off; the image with that layer on top."""
        if self.keeping is None or self.pid1:
            raise LabError(f"cannot save the disk of host {self.name!r}: it must be powered off first")
        source = str(self.mount_point / "upper")
        enter = ["nsenter", f"--target={self.keeping.process.pid}", "--mount", "--root"]
        subprocess.run([*enter, "cp", "--archive", source, str(directory)], check=True)
        return self.image.with_layer(directory)

    # Commands and files

    def command(self, *argv: str, env: Mapping[str, str] | None = None) -> list[str]:
        """The command line that runs `argv` inside as root, for whoever starts processes themselves."""
        variables = [f"{name}={value}" for name, value in {**commands.ENVIRONMENT, **(env or {})}.items()]
        # In a chroot, nspawn cannot make the host's root that of its mount namespace.
        enter = ["nsenter", "--all", "--root", "--wd", f"--target={self._running()}"]
        clean = ["env", "--ignore-environment", *variables]
        join = ["sh", "-c", commands.ENTER_GROUP, "sh", str(self.init_group / "cgroup.procs")]
        return [*join, *enter, *clean, *argv]

    def netns_command(self, *argv: str) -> list[str]:
        """The command line that runs `argv`, a program of the machine, in the network of the host."""
        return ["nsenter", f"--net=/proc/{self._running()}/ns/net", *argv]

    def execute(
        self, *argv: str, stdin: bytes, timeout_sec: float, env: Mapping[str, str]
    ) -> "subprocess.CompletedProcess[bytes]":
        return commands.execute(self.command(*argv, env=env), stdin, timeout_sec)

    def client_port(self, port: int) -> int:
        return port

    def connect(self, port: int, *, address: str = "127.0.0.1", timeout_sec: float = 30) -> socket.socket:
        return netns.connect(self._running(), (address, port), timeout_sec)

    def connect_unix(self, path: str, *, timeout_sec: float = 30) -> socket.socket:
        return netns.connect_unix(self._running(), path, timeout_sec)

    # Own affairs

    def _running(self) -> int:
        if not self.pid1:
            raise LabError(f"cannot reach host {self.name!r}: it is off")
        return self.pid1

    def _wait_for_report(self, event: str, timeout_sec: float) -> None:
        if self.keeping is not None and self.keeping.wait_for_report(event, timeout_sec=timeout_sec):
            return
        why = f"waited {timeout_sec} s for {event!r} of host {self.name!r}"
        raise LabError(f"{why}; its console:\n{self.console()[-8000:]}")
