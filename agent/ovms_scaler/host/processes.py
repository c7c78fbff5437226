# SPDX-License-Identifier: Apache-2.0
"""How the kernel confines the instances' processes, and who is connected to their ports."""

import socket
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ovms_scaler.core.cpulist import parse_cpu_list
from ovms_scaler.core.facts import ProcessFacts
from ovms_scaler.errors import HostError, InputError

# TCP_ESTABLISHED and TCP_SYN_SENT of include/net/tcp_states.h, as /proc/net/tcp prints them.
CONNECTED = ("01", "02")
LOOPBACK = f"{struct.unpack('=I', socket.inet_aton('127.0.0.1'))[0]:08X}"


def read_process(pid: int, root: Path = Path("/")) -> ProcessFacts | None:
    """Affinity and memory nodes of a process from proc_pid_status(5); None when it is gone."""
    try:
        text = (root / "proc" / str(pid) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError as error:
        raise HostError(f"cannot read /proc/{pid}/status: {error.strerror}") from error
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    try:
        return ProcessFacts(
            pid=pid,
            cpus_allowed=parse_cpu_list(fields["Cpus_allowed_list"]),
            memory_nodes_allowed=parse_cpu_list(fields.get("Mems_allowed_list", "0")),
        )
    except (KeyError, InputError) as error:
        raise HostError(f"cannot understand /proc/{pid}/status: {error}") from error


def read_connections(
    ports: Iterable[int], root: Path = Path("/"), *, uid: int | None = None
) -> dict[int, int]:
    """Connections to 127.0.0.1:port, established or about to be, as proc_net(5)'s tcp table has them.

    Counted on the clients' side, where the owner is known: with ``uid`` only sockets of that user count, so
    that the agent's own probes do not. Raises HostError.
    """
    wanted = {f"{LOOPBACK}:{port:04X}": port for port in ports}
    found: Counter[int] = Counter(dict.fromkeys(wanted.values(), 0))
    try:
        with (root / "proc" / "net" / "tcp").open() as table:
            next(table, None)
            for line in table:
                columns = line.split(maxsplit=8)
                if (
                    len(columns) > 7
                    and columns[2] in wanted
                    and columns[3] in CONNECTED
                    and (uid is None or columns[7] == str(uid))
                ):
                    found[wanted[columns[2]]] += 1
    except OSError as error:
        raise HostError(f"cannot read /proc/net/tcp: {error.strerror}") from error
    return dict(found)


def has_ipv6(root: Path = Path("/")) -> bool:
    """Whether the kernel has IPv6: proc_net(5) has if_inet6 then."""
    return (root / "proc" / "net" / "if_inet6").exists()
