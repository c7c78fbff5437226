# SPDX-License-Identifier: Apache-2.0
"""What can be asked of a disposable system, be it a container (host.py) or a virtual machine (vm.py)."""

import abc
import atexit
import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Self

from lab import commands
from lab.commands import LabError
from lab.netns import Response, request


class Guest(abc.ABC):
    """A booted system. Leaving its `with` block ends it as pulling the plug does."""

    live: ClassVar[list["Guest"]] = []
    # How often wait_for() asks, in seconds.
    poll_sec: ClassVar[float] = 0.05

    def __init__(self, *, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.console_path = directory / "console"
        self.boot_sec = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """End it at once. Nothing of it is left; may be called again."""

    # Commands and files

    @abc.abstractmethod
    def execute(
        self, *argv: str, stdin: bytes, timeout_sec: float, env: Mapping[str, str]
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a command inside as root to its end. Raises TimeoutExpired when it takes too long."""

    def run(
        self,
        *argv: str,
        stdin: str | bytes = b"",
        check: bool = True,
        timeout_sec: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside as root. Raises LabError when it fails (if `check`) or takes too long."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        return commands.judge(
            lambda: self.execute(*argv, stdin=data, timeout_sec=timeout_sec, env=env or {}),
            check=check,
            timeout_sec=timeout_sec,
            called=f"{' '.join(argv)!r} on host {self.name!r}",
        )

    def read_bytes(self, path: str) -> bytes:
        """The content of a file inside; raises LabError when there is none."""
        done = self.execute("cat", path, stdin=b"", timeout_sec=60, env={})
        if done.returncode != 0:
            raise LabError(f"cannot read {path!r} on {self.name!r}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def netns_run(
        self, *argv: str, stdin: str = "", check: bool = True, timeout_sec: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program of the machine, such as a client library's, where it reaches client_port()."""
        called = f"{' '.join(argv)!r} in the network of host {self.name!r}"
        command = self.netns_command(*argv)
        return commands.run(
            command, stdin=stdin.encode(), check=check, timeout_sec=timeout_sec, called=called
        )

    @abc.abstractmethod
    def netns_command(self, *argv: str) -> list[str]:
        """The command line that runs `argv`, a program of the machine, where it reaches client_port()."""

    @abc.abstractmethod
    def client_port(self, port: int) -> int:
        """The port of 127.0.0.1 at which a program started by netns_command() finds `port` of the guest."""

    @abc.abstractmethod
    def connect(self, port: int, *, address: str = "127.0.0.1", timeout_sec: float = 30) -> socket.socket:
        """A TCP connection to a port, made inside. Raises OSError as connect(2)."""

    @abc.abstractmethod
    def connect_unix(self, path: str, *, timeout_sec: float = 30) -> socket.socket:
        """A connection to the Unix socket `path` inside, which is absolute. Raises OSError as connect(2)."""

    def script(self, text: str, *, check: bool = True, timeout_sec: float = 60) -> str:
        """Run a shell script inside, which stops at its first failing command; what it printed."""
        return self.run("sh", "-euc", text, check=check, timeout_sec=timeout_sec).stdout

    def write(self, path: str, content: str | bytes, *, mode: int = 0o644) -> None:
        """Write a file inside, whole and in one step, making the directories on the way."""
        text = 'mkdir -p "${1%/*}" && cat > "$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
        self.run("sh", "-c", text, "sh", path, f"{mode:o}", stdin=content)

    def read(self, path: str) -> str:
        """The text of a file inside; raises LabError when there is none."""
        return self.read_bytes(path).decode()

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
    ) -> Response:
        """One HTTP request to a port or a Unix socket inside. A `body` that is not bytes is sent as JSON."""
        if unix:
            connection = self.connect_unix(unix, timeout_sec=timeout_sec)
        else:
            connection = self.connect(port, timeout_sec=timeout_sec)
        return request(connection, method, path, body, headers or {})

    def wait_for(self, condition: str | Callable[[], object], timeout_sec: float, what: str) -> None:
        """Ask again and again, for what has no event, until `condition` (a function or a shell test) holds.

        Raises LabError with diagnostics() when it does not hold in time; `what` completes "waited for".
        """
        deadline = time.monotonic() + timeout_sec
        while not self._holds(condition):
            if time.monotonic() > deadline:
                raise LabError(f"waited {timeout_sec} s for {what} on {self.name!r}\n{self.diagnostics()}")
            time.sleep(self.poll_sec)  # the condition is any, and has no event

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

    def _holds(self, condition: str | Callable[[], object]) -> bool:
        if isinstance(condition, str):
            return self.run("sh", "-c", condition, check=False).returncode == 0
        return bool(condition())


@atexit.register
def close_all() -> None:
    """End every guest that is still there."""
    for guest in list(Guest.live):
        guest.close()
