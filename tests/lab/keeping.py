# SPDX-License-Identifier: Apache-2.0
"""The parent's side of keeper.py: starts it, reads its reports and ends it."""

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from lab import keeper, paths


class Keeping:
    """One running keeper.py."""

    def __init__(self, spec: Mapping[str, object]) -> None:
        program = ["/usr/bin/python3", "-I", str(paths.LAB / "keeper.py")]
        isolate = [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--mount-proc",
            "--propagation=private",
        ]
        # A session of its own keeps Ctrl-C from it: the host ends when we say so, or when we are gone.
        self.process = subprocess.Popen(
            [*isolate, *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.pending = b""
        self.group = f"{keeper.GROUP_PREFIX}{self.process.pid}"
        if self.process.stdin is not None:
            self.process.stdin.write(json.dumps({**spec, "group": self.group}).encode() + b"\n")
            self.process.stdin.flush()

    def wait_for_report(self, event: str, *, timeout_sec: float) -> bool:
        """Wait until `event` is reported; False when it is not in time or the host ends first."""
        deadline = time.monotonic() + timeout_sec
        while (line := self.read_line(deadline)) is not None:
            if line.decode() in (event, "exited"):
                return line.decode() == event
        return False

    def read_line(self, deadline: float) -> bytes | None:
        """The next report, or None when there is none before `deadline` or will be none at all."""
        if self.process.stdout is None:
            return None
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self.pending:
            if not select.select([descriptor], [], [], max(0, deadline - time.monotonic()))[0]:
                return None
            chunk = os.read(descriptor, 65536)
            if not chunk:
                return None
            self.pending += chunk
        line, _, self.pending = self.pending.partition(b"\n")
        return line

    def read_init_group(self) -> Path:
        """The control group of the host's PID 1, in which its systemd puts itself."""
        mount = next(path for path, is_unified in keeper.read_hierarchies() if is_unified)
        return mount / self.group / "payload" / "init.scope"

    def read_pid1(self) -> int:
        """The host's PID 1 as this process numbers it. Raises LookupError when the host does not run."""
        for pid in (self.read_init_group() / "cgroup.procs").read_text().split():
            lines = Path("/proc", pid, "status").read_text().splitlines()
            if any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in lines):
                return int(pid)
        raise LookupError(f"no process of {self.group!r} is the first of its namespace")

    def end(self, *, timeout_sec: float = 30) -> None:
        """End the host at once and wait until nothing of it is left."""
        with self.process:
            if self.process.stdin is not None:
                self.process.stdin.close()
            try:
                self.process.wait(timeout=timeout_sec)
            except subprocess.TimeoutExpired:
                self.process.kill()


def reap() -> None:
    """Remove the control groups that killed keepers left behind; all else of a host ends with its keeper."""
    for mount, _ in keeper.read_hierarchies():
        for group in mount.glob(f"{keeper.GROUP_PREFIX}*"):
            if not Path("/proc", group.name.removeprefix(keeper.GROUP_PREFIX)).exists():
                keeper.remove_group(group)
