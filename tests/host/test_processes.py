# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of a process and of connections: copied tables, and this machine's own."""

import os
import socket
from pathlib import Path

import pytest

from ovms_scaler.core.facts import ProcessFacts
from ovms_scaler.errors import HostError
from ovms_scaler.host.processes import read_connections, read_process

# As a kernel prints it: ports 8003 (1F43) and 8004 (1F44), user 4711, states 01 to 0A.
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F43 00000000:0000 0A 00000000:00000000 00:00000000 00000000   990        0 1 1 0
   1: 0100007F:C350 0100007F:1F43 01 00000000:00000000 00:00000000 00000000  4711        0 2 1 0
   2: 0100007F:1F43 0100007F:C350 01 00000000:00000000 00:00000000 00000000   990        0 3 1 0
   3: 0100007F:C351 0100007F:1F43 02 00000000:00000000 01:00000000 00000000  4711        0 4 1 0
   4: 0100007F:C352 0100007F:1F43 01 00000000:00000000 00:00000000 00000000     0        0 5 1 0
   5: 0100007F:C353 0100007F:1F44 06 00000000:00000000 03:00000000 00000000     0        0 0
   6: 0200007F:C354 0200007F:1F44 01 00000000:00000000 00:00000000 00000000  4711        0 6 1 0
   7: cut
"""


def write(root: Path, path: str, text: str) -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    return root


def test_connections_are_counted_on_the_clients_side(tmp_path: Path) -> None:
    root = write(tmp_path, "proc/net/tcp", TABLE)
    assert read_connections([8003, 8004], root, uid=4711) == {8003: 2, 8004: 0}
    assert read_connections([8003], root) == {8003: 3}
    assert read_connections([], root) == {}


def test_real_connections_are_counted_while_they_last() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert read_connections([port]) == {port: 0}
        with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
            assert read_connections([port], uid=os.geteuid()) == {port: 2}
            assert read_connections([port], uid=os.geteuid() + 1) == {port: 0}


def test_a_table_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot read /proc/net/tcp: No such file"):
        read_connections([8003], tmp_path)


def test_this_process_is_confined_as_the_kernel_says() -> None:
    facts = read_process(os.getpid())
    assert facts is not None
    assert facts.pid == os.getpid()
    assert facts.cpus_allowed == frozenset(os.sched_getaffinity(0))
    assert facts.memory_nodes_allowed


def test_a_copied_process(tmp_path: Path) -> None:
    text = "Name:\tovms:a\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3,192\nMems_allowed_list:\t2\n"
    assert read_process(7, write(tmp_path, "proc/7/status", text)) == ProcessFacts(
        pid=7, cpus_allowed=frozenset({0, 1, 2, 3, 192}), memory_nodes_allowed=frozenset({2})
    )


def test_a_kernel_without_numa_has_node_0(tmp_path: Path) -> None:
    facts = read_process(7, write(tmp_path, "proc/7/status", "Cpus_allowed_list:\t0\n"))
    assert facts is not None
    assert facts.memory_nodes_allowed == {0}


def test_a_process_that_is_gone_is_none(tmp_path: Path) -> None:
    assert read_process(7, tmp_path) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "Cpus_allowed_list"), ("Cpus_allowed_list:\tx\n", "cannot read CPU list")],
    ids=["empty", "not a list"],
)
def test_a_status_that_says_something_else_is_told(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(HostError, match=f"cannot understand /proc/7/status: .*{why}"):
        read_process(7, write(tmp_path, "proc/7/status", text))
