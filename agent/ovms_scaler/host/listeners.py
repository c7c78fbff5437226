# SPDX-License-Identifier: Apache-2.0
"""Who listens on TCP ports, and which processes there are."""

import ipaddress
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from ovms_scaler.core.checks.neighbours import Process
from ovms_scaler.core.checks.port import Listener
from ovms_scaler.core.cpulist import parse_cpu_list
from ovms_scaler.errors import HostError, InputError

_LISTENS = "0A"  # TCP_LISTEN of include/net/tcp_states.h
_UNIT = re.compile(r"[^/]+\.(?:service|scope|socket|slice|mount)")


def read_listeners(ports: Collection[int], root: Path = Path("/")) -> tuple[Listener, ...]:
    """Sockets that listen on one of the ports, from proc_net(5), with who holds them as far as can be seen.

    Raises HostError.
    """
    found: dict[str, Listener] = {}
    for name in ("tcp", "tcp6"):
        try:
            lines = (root / "proc/net" / name).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        except OSError as error:
            raise HostError(f"cannot read /proc/net/{name}: {error.strerror}") from error
        for columns in (line.split() for line in lines):
            if len(columns) > 9 and columns[3] == _LISTENS:
                address, _, port = columns[1].partition(":")
                if (number := int(port, 16)) in ports:
                    socket = Listener(address=parse_address(address), port=number, uid=int(columns[7]))
                    found[f"socket:[{columns[9]}]"] = socket
    holders = dict(_find_holders(found.keys(), root)) if found else {}
    return tuple(
        replace(one, pid=pid, name=_read_name(pid, root), unit=read_unit(pid, root))
        if (pid := holders.get(link)) is not None
        else one
        for link, one in found.items()
    )


def parse_address(text: str) -> str:
    """An address as /proc/net/tcp prints it: 32-bit words in the machine's own (little-endian) order."""
    words = [bytes.fromhex(text[index : index + 8])[::-1] for index in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def _find_holders(links: Collection[str], root: Path) -> Iterator[tuple[str, int]]:
    """Sockets and the process that has them open; those of other users only root can see."""
    for pid in _list_pids(root):
        directory = root / "proc" / str(pid) / "fd"
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        for name in names:
            try:
                link = os.readlink(directory / name)
            except OSError:
                continue
            if link in links:
                yield link, pid


def _list_pids(root: Path) -> list[int]:
    # Highest first: of a server and workers that share its sockets, the server is found last and kept.
    return sorted((int(name) for name in os.listdir(root / "proc") if name.isdecimal()), reverse=True)


def _read_name(pid: int, root: Path) -> str:
    try:
        return (root / "proc" / str(pid) / "comm").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return "?"


def read_unit(pid: int, root: Path = Path("/")) -> str:
    """The unit of a process from its control group, else the group itself; "" when it cannot be told."""
    try:
        lines = (root / "proc" / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return ""
    # "0::" is version 2, "1:name=systemd:" what systemd uses beside version 1.
    paths = [line.split(":", 2)[2] for line in lines if line.startswith("0::") or ":name=systemd:" in line]
    path = max(paths, key=len, default="")
    units = _UNIT.findall(path)
    return path if not units or path.startswith("/user.slice") else units[-1]


def read_processes(root: Path = Path("/")) -> tuple[Process, ...]:
    """Every process of user space but those of ovms.slice, from proc_pid_status(5)."""
    found = []
    for pid in _list_pids(root):
        try:
            text = (root / "proc" / str(pid) / "status").read_text(errors="replace")
            fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            cpus = parse_cpu_list(fields["Cpus_allowed_list"])
            arguments = _read_arguments(pid, root)
        except (OSError, KeyError, InputError):
            continue
        if "VmSize" not in fields:
            continue  # a thread of the kernel, or a zombie
        unit = read_unit(pid, root)
        if not unit.startswith("ovms@"):
            name = fields.get("Name", "?").strip()
            found.append(Process(pid=pid, name=name, unit=unit, cpus=cpus, arguments=arguments))
    return tuple(reversed(found))


def _read_arguments(pid: int, root: Path) -> tuple[str, ...]:
    """The command line; empty where it cannot be seen. Raises OSError for a process that has gone."""
    try:
        return tuple((root / "proc" / str(pid) / "cmdline").read_text(errors="replace").split("\0")[:-1])
    except FileNotFoundError:
        return ()
