# SPDX-License-Identifier: Apache-2.0
"""Looks at a process as the kernel knows it; of another user's, most can be seen by root only."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ovms_scaler.core.cpulist import parse_cpu_list
from ovms_scaler.core.process_view import (
    Listening,
    MemoryUse,
    ProcessView,
    Thread,
    parse_cgroup,
    parse_environment,
    parse_numa_maps,
    parse_open_files,
)
from ovms_scaler.errors import InputError
from ovms_scaler.host.listeners import parse_address

T = TypeVar("T")
_LISTENS = "0A"  # TCP_LISTEN of include/net/tcp_states.h
_AS_ROOT = "run this as root"


def read_view(pid: int, root: Path = Path("/")) -> ProcessView | None:
    """What there is to see of a process; None when it is gone."""
    home = root / "proc" / str(pid)
    unseen: list[str] = []
    threads = _read_threads(home)
    if not threads:
        return None
    cgroup = parse_cgroup(_text(home / "cgroup"))
    group = root / "sys/fs/cgroup" / cgroup.strip("/")
    links = _look("sockets and devices", lambda: _read_links(home / "fd"), unseen)
    return ProcessView(
        pid=pid,
        threads=threads,
        cgroup=cgroup,
        cpuset_cpus=_read_set(group / "cpuset.cpus.effective"),
        cpuset_nodes=_read_set(group / "cpuset.mems.effective"),
        argv=tuple(_text(home / "cmdline").split("\0")[:-1]),
        open_files=parse_open_files(_text(home / "limits")),
        environment=_look("environment", lambda: parse_environment(_read(home / "environ")), unseen),
        memory=_look("memory", lambda: _read_memory(home / "numa_maps"), unseen),
        listening=None if links is None else _match_listening(links, home),
        render_nodes=None if links is None else _match_devices(links),
        unseen=tuple(unseen),
    )


def _read_threads(home: Path) -> tuple[Thread, ...]:
    found: list[Thread] = []
    try:
        names = sorted(os.listdir(home / "task"), key=int)
    except (OSError, ValueError):
        return ()
    for name in names:
        fields = dict(
            line.split(":", 1) for line in _text(home / "task" / name / "status").splitlines() if ":" in line
        )
        try:
            found.append(
                Thread(
                    tid=int(name),
                    name=fields["Name"].strip(),
                    cpus=parse_cpu_list(fields["Cpus_allowed_list"]),
                    memory_nodes=parse_cpu_list(fields.get("Mems_allowed_list", "0")),
                )
            )
        except (KeyError, InputError):
            continue  # it has just ended
    return tuple(found)


def _read_memory(path: Path) -> MemoryUse | None:
    """None where the kernel knows no NUMA."""
    try:
        return parse_numa_maps(_read(path))
    except FileNotFoundError:
        return None


def _read_links(directory: Path) -> tuple[str, ...]:
    links: list[str] = []
    for name in os.listdir(directory):
        try:
            links.append(os.readlink(directory / name))
        except FileNotFoundError:
            continue  # closed meanwhile
    return tuple(links)


def _match_listening(links: tuple[str, ...], home: Path) -> tuple[Listening, ...]:
    """Those of the process's sockets that listen, from proc_net(5) of its own network."""
    own = {link for link in links if link.startswith("socket:[")}
    found: set[Listening] = set()
    for name in ("tcp", "tcp6"):
        for columns in (line.split() for line in _text(home / "net" / name).splitlines()[1:]):
            if len(columns) > 9 and columns[3] == _LISTENS and f"socket:[{columns[9]}]" in own:
                address, _, port = columns[1].partition(":")
                found.add(Listening(address=parse_address(address), port=int(port, 16)))
    return tuple(sorted(found, key=lambda one: (one.port, one.address)))


def _match_devices(links: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({link for link in links if link.startswith("/dev/dri/renderD")}))


def _read_set(path: Path) -> frozenset[int] | None:
    try:
        return parse_cpu_list(path.read_text())
    except (OSError, InputError):
        return None


def _look(what: str, read: Callable[[], T], unseen: list[str]) -> T | None:
    try:
        return read()
    except PermissionError:
        unseen.append(f"{what}: {_AS_ROOT}")
    except OSError as error:
        unseen.append(f"{what}: {error.strerror}")
    return None


def _read(path: Path) -> str:
    return path.read_text(errors="surrogateescape")


def _text(path: Path) -> str:
    """ "" where it cannot be read: the process may be gone by now."""
    try:
        return _read(path)
    except OSError:
        return ""
