# SPDX-License-Identifier: Apache-2.0
"""A disposable host with systemd as its PID 1, a network of its own and nothing to clean up afterwards."""

import atexit
import contextlib
import itertools
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Self

from lab import commands, keeping, netns, paths
from lab.commands import LabError
from lab.image import Image
from lab.keeping import Keeping

GIB = 1 << 30


class Host:
    """One booted host. `Host.boot()` makes it; leaving its `with` block ends it as pulling the plug does."""

    live: ClassVar[list["Host"]] = []
    numbers: ClassVar[Iterator[int]] = itertools.count(1)

    def __init__(self, *, name: str, image: Image) -> None:
        self.name = name
        self.image = image
        self.pid1 = 0
        self.init_group = Path()
        self.boot_sec = 0.0
        hosts = paths.CACHE / "hosts"
        hosts.mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=hosts))
        self.mount_point = self.directory / "root"
        self.mount_point.mkdir()
        self.console_path = self.directory / "console"
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the host at once. Nothing of it is left; may be called again."""
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

    def run(
        self,
        *argv: str,
        stdin: str | bytes = b"",
        check: bool = True,
        timeout_sec: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root. Raises LabError when it fails (if `check`) or takes too long."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        called = f"{' '.join(argv)!r} on host {self.name!r}"
        command = self.command(*argv, env=env)
        return commands.run(command, stdin=data, check=check, timeout_sec=timeout_sec, called=called)

    def script(self, text: str, *, check: bool = True, timeout_sec: float = 60) -> str:
        """Run a shell script inside, which stops at its first failing command; what it printed."""
        return self.run("sh", "-euc", text, check=check, timeout_sec=timeout_sec).stdout

    def netns_run(
        self, *argv: str, stdin: str = "", check: bool = True, timeout_sec: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the machine in the network of the host, such as a client library's."""
        called = f"{' '.join(argv)!r} in the network of host {self.name!r}"
        command = self.netns_command(*argv)
        return commands.run(
            command, stdin=stdin.encode(), check=check, timeout_sec=timeout_sec, called=called
        )

    def write(self, path: str, content: str | bytes, *, mode: int = 0o644) -> None:
        """Write a file inside, whole and in one step, making the directories on the way."""
        text = 'mkdir -p "${1%/*}" && cat > "$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
        self.run("sh", "-c", text, "sh", path, f"{mode:o}", stdin=content)

    def read(self, path: str) -> str:
        """The text of a file inside; raises LabError when there is none."""
        return self.read_bytes(path).decode()

    def read_bytes(self, path: str) -> bytes:
        """The content of a file inside; raises LabError when there is none."""
        done = commands.execute(self.command("cat", path), b"", 60)
        if done.returncode != 0:
            raise LabError(f"cannot read {path!r} on {self.name!r}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def exists(self, path: str) -> bool:
        """Whether a file is there, following links."""
        return self.run("test", "-e", path, check=False).returncode == 0

    def install(self, *debs: Path, timeout_sec: float = 180) -> str:
        """Install packages with apt, as an administrator would but without a network; what apt printed."""
        for deb in debs:
            self.write(f"/var/tmp/{deb.name}", deb.read_bytes())
        apt = ["apt-get", "--yes", "--no-install-recommends", "-o", "APT::Sandbox::User=root", "install"]
        return self.run(*apt, *(f"/var/tmp/{deb.name}" for deb in debs), timeout_sec=timeout_sec).stdout

    # Observation

    def journal(self, unit: str = "", *, since: str = "", lines: int = 0) -> str:
        """What the journal has, of one unit or of all, oldest first."""
        options = [f"--unit={unit}"] * bool(unit) + [f"--since={since}"] * bool(since)
        options += [f"--lines={lines}"] * bool(lines)
        return self.run("journalctl", "--no-pager", "--output=short-precise", *options).stdout

    def console(self) -> str:
        """What the host printed while it started and stopped."""
        return self.console_path.read_text(errors="replace") if self.console_path.exists() else ""

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit as `systemctl show` prints them."""
        lines = self.run("systemctl", "show", unit, f"--property={','.join(names)}").stdout.splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def connect(self, port: int, *, address: str = "127.0.0.1", timeout_sec: float = 30) -> socket.socket:
        """A TCP connection to a port of the host."""
        return netns.connect(self._running(), (address, port), timeout_sec)

    def http(
        self,
        method: str,
        path: str,
        *,
        port: int = 80,
        unix: str = "",
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_sec: float = 30,
    ) -> netns.Response:
        """One HTTP request to a port or a Unix socket inside. A `body` that is not bytes is sent as JSON."""
        if unix:
            connection = netns.connect_unix(self._running(), unix, timeout_sec)
        else:
            connection = self.connect(port, timeout_sec=timeout_sec)
        return netns.request(connection, method, path, body, headers or {})

    def wait_for(self, condition: str | Callable[[], object], timeout_sec: float, what: str) -> None:
        """Ask again and again, for what has no event, until `condition` (a function or a shell test) holds.

        Raises LabError with diagnostics() when it does not hold in time; `what` completes "waited for".
        """
        deadline = time.monotonic() + timeout_sec
        while not self._holds(condition):
            if time.monotonic() > deadline:
                raise LabError(f"waited {timeout_sec} s for {what} on {self.name!r}\n{self.diagnostics()}")
            time.sleep(0.05)

    def wait_for_journal(self, pattern: str, *, unit: str = "", timeout_sec: float = 30) -> str:
        """The first line in the journal of this boot that matches the extended regular expression."""
        options = [f"--unit={unit}"] * bool(unit)
        try:
            return self.run(
                "bash", "-c", commands.FOLLOW, "bash", pattern, *options, timeout_sec=timeout_sec
            ).stdout
        except LabError as error:
            why = f"waited for {pattern!r} in the journal of {self.name!r}"
            raise LabError(f"{why}\n{self.diagnostics()}") from error

    def diagnostics(self) -> str:
        """What helps to understand a failure: failed units, jobs, journal; else the console."""
        parts = []
        for argv in (("systemctl", "--failed", "--no-pager"), ("systemctl", "list-jobs", "--no-pager")):
            with contextlib.suppress(LabError):
                parts.append(self.run(*argv, check=False, timeout_sec=5).stdout)
        with contextlib.suppress(LabError):
            parts.append(self.journal(lines=200))
        return "\n".join(parts) or self.console()[-8000:]

    # Own affairs

    def _holds(self, condition: str | Callable[[], object]) -> bool:
        if isinstance(condition, str):
            return self.run("sh", "-c", condition, check=False).returncode == 0
        return bool(condition())

    def _running(self) -> int:
        if not self.pid1:
            raise LabError(f"cannot reach host {self.name!r}: it is off")
        return self.pid1

    def _wait_for_report(self, event: str, timeout_sec: float) -> None:
        if self.keeping is not None and self.keeping.wait_for_report(event, timeout_sec=timeout_sec):
            return
        why = f"waited {timeout_sec} s for {event!r} of host {self.name!r}"
        raise LabError(f"{why}; its console:\n{self.console()[-8000:]}")


@atexit.register
def close_all() -> None:
    """End every host that is still there."""
    for host in list(Host.live):
        host.close()
