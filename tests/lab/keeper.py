# SPDX-License-Identifier: Apache-2.0
"""Keeps one disposable host: its writable layer, its control groups and the systemd-nspawn that runs it.

A program of its own, started by keeping.py as the first process of a PID namespace and in a mount namespace
that nobody else shares: the kernel ends all processes of the host with this one, and all mounts with those,
however the tests end. It is told what to keep by one line of JSON on its standard input, reports each change
as a line on its standard output, starts the host again when it reboots, and takes everything down when its
standard input is closed.
"""

import contextlib
import json
import os
import select
import selectors
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

GROUP_PREFIX = "ovms-lab-"
# systemd-nspawn --keep-unit ends with this when the container asks for a reboot (EXIT_FORCE_RESTART).
REBOOT = 133
# nspawn takes these away, but a host has them: locked memory, and BPF for DeviceAllow= and IPAddressDeny=.
CAPABILITIES = "CAP_IPC_LOCK,CAP_BPF,CAP_PERFMON"


def report(event: str) -> None:
    """Tell the parent what happened."""
    sys.stdout.write(event + "\n")
    sys.stdout.flush()


def read_hierarchies() -> list[tuple[Path, bool]]:
    """Mount points of control groups (proc_pid_mountinfo(5)) and whether each is version 2."""
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kinds = [(Path(row[4]), row[row.index("-") + 1]) for row in rows]
    return [(path, kind == "cgroup2") for path, kind in kinds if kind in ("cgroup", "cgroup2")]


def remove_group(group: Path) -> None:
    """Remove an empty control group with all below it."""
    for directory, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(directory).rmdir()


class Groups:
    """The control group of one host in every hierarchy of the machine."""

    def __init__(self, name: str, *, memory_bytes: int, tasks: int) -> None:
        self.name = name
        self.directories: list[Path] = []
        limits = {
            "memory.max": memory_bytes,
            "memory.limit_in_bytes": memory_bytes,
            "pids.max": tasks,
        }
        for mount, is_unified in read_hierarchies():
            directory = mount / name
            # Version 1's cpuset takes no process before it is filled in; the others are not needed.
            if not is_unified and mount.name not in ("memory", "pids"):
                continue
            directory.mkdir(exist_ok=True)
            self.directories.append(directory)
            if is_unified:
                self.unified = directory
            for file, value in limits.items():
                if (directory / file).exists():
                    (directory / file).write_text(str(value))

    def enter(self) -> None:
        """Move the calling process in."""
        for directory in self.directories:
            (directory / "cgroup.procs").write_text("0")

    def kill(self) -> None:
        """End all processes inside: the container's PID 1 does not end with systemd-nspawn."""
        (self.unified / "cgroup.kill").write_text("1")

    def wait_until_empty(self, timeout_sec: float) -> None:
        """Wait until no process is left; cgroup.events announces it with POLLPRI (cgroups(7))."""
        with (self.unified / "cgroup.events").open() as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            while "populated 1" in events.read() and poll.poll(timeout_sec * 1000):
                events.seek(0)

    def remove(self) -> None:
        """Remove the groups, also those that systemd-nspawn made in the other hierarchies."""
        for mount, _ in read_hierarchies():
            if (mount / self.name).is_dir():
                remove_group(mount / self.name)


def mount(*argv: str) -> None:
    subprocess.run(["mount", *argv], check=True)


def mount_root(directory: Path, layers: list[str], disk_bytes: int) -> None:
    """Stack the layers under a writable one in memory, at `directory`/merged.

    Names are relative to the working directory: a clone's path may hold what is special in mount options.
    """
    mount("-t", "tmpfs", "-o", f"size={disk_bytes},mode=755", "tmpfs", str(directory))
    os.chdir(directory)
    for name in ("upper", "work", "merged"):
        Path(name).mkdir()
    names = [f"layer{index}" for index in range(len(layers))]
    for name, layer in zip(names, layers, strict=True):
        Path(name).mkdir()
        mount("--bind", layer, name)
    options = f"lowerdir={':'.join(reversed(names))},upperdir=upper,workdir=work"
    mount("-t", "overlay", "-o", options, "overlay", "merged")
    # systemd-nspawn leaves directories here, which would otherwise be the machine's.
    Path("/run/systemd/nspawn").mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "tmpfs", "/run/systemd/nspawn")


def nspawn_command(spec: dict[str, Any]) -> list[str]:
    """The command line of systemd-nspawn(1)."""
    command = ["systemd-nspawn", "--quiet", "--boot", "--directory=merged", "--register=no", "--keep-unit"]
    command += [f"--machine={spec['name']}", f"--hostname={spec['name']}", f"--uuid={spec['uuid']}"]
    command += ["--settings=no", "--link-journal=no", "--resolv-conf=off", "--timezone=off"]
    command += ["--private-network", "--suppress-sync=yes", "--notify-ready=yes", "--console=read-only"]
    command += [f"--capability={CAPABILITIES}", "--system-call-filter=bpf"]
    for source, destination, writable in spec["binds"]:
        escaped = source.replace("\\", "\\\\").replace(":", "\\:")
        command.append(f"--bind{'' if writable else '-ro'}={escaped}:{destination}")
    return command


class Keeper:
    """Runs the host until it powers off or the parent goes away."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.groups = Groups(spec["group"], memory_bytes=spec["memory_bytes"], tasks=spec["tasks"])
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.notify.bind(f"\0{self.groups.name}")

    def start(self) -> "subprocess.Popen[bytes]":
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "dumb", "LANG": "C.UTF-8"}
        environment |= {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "NOTIFY_SOCKET": f"@{self.groups.name}"}
        # What an earlier boot left here would be in the way of nspawn's own groups.
        for child in self.groups.unified.iterdir():
            if child.is_dir():
                remove_group(child)
        with Path(self.spec["console"]).open("ab") as console:
            return subprocess.Popen(
                nspawn_command(self.spec),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                preexec_fn=self.groups.enter,
            )

    def keep(self) -> None:
        """Run the host, again after each reboot."""
        while True:
            process = self.start()
            status = self.watch(process)
            self.groups.wait_until_empty(timeout_sec=10)
            if status != REBOOT:
                break
            report("rebooting")
        if status is not None:
            report("exited")
            # The writable layer can still be read through this process until the parent has had enough.
            sys.stdin.buffer.read()

    def watch(self, process: "subprocess.Popen[bytes]") -> int | None:
        """Report the readiness of one boot; its exit status, or None when the parent wants no more."""
        with selectors.DefaultSelector() as selector:
            ended = os.pidfd_open(process.pid)
            for source in (self.notify, sys.stdin, ended):
                selector.register(source, selectors.EVENT_READ)
            try:
                while True:
                    ready = [key.fileobj for key, _ in selector.select()]
                    if self.notify in ready:
                        self.read_notification()
                    if ended in ready:
                        return process.wait()
                    if sys.stdin in ready:
                        self.groups.kill()
                        process.wait()
                        return None
            finally:
                os.close(ended)

    def read_notification(self) -> None:
        """systemd-nspawn passes on the READY=1 of the host's systemd (sd_notify(3))."""
        if "READY=1" in self.notify.recv(65536).decode().splitlines():
            report("ready")


def main() -> None:
    spec = json.loads(sys.stdin.readline())
    mount_root(Path(spec["directory"]), spec["layers"], spec["disk_bytes"])
    keeper = Keeper(spec)
    try:
        keeper.keep()
    finally:
        keeper.groups.wait_until_empty(timeout_sec=10)
        keeper.groups.remove()


if __name__ == "__main__":
    main()
