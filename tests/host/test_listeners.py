# SPDX-License-Identifier: Apache-2.0
"""Who listens, and which processes there are."""

import os
import socket
from pathlib import Path

import pytest

from ovms_scaler.host.listeners import parse_address, read_listeners, read_processes, read_unit


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_socket_of_this_process_is_found(family: socket.AddressFamily) -> None:
    with socket.create_server(("", 0), family=family) as server:
        port = server.getsockname()[1]
        (found,) = read_listeners({port})
        assert (found.port, found.uid, found.pid) == (port, os.geteuid(), os.getpid())
        assert found.address == ("0.0.0.0" if family is socket.AF_INET else "::")
        assert found.name == Path("/proc/self/comm").read_text().strip()
    assert read_listeners({port}) == ()


def test_a_connection_is_no_listener() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert read_listeners({client.getsockname()[1]}) == ()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000000000000000000001000000", "::1"),
        ("0000000000000000FFFF00000100007F", "::ffff:127.0.0.1"),
    ],
)
def test_addresses_are_in_the_order_of_the_machine(text: str, address: str) -> None:
    assert parse_address(text) in (address, "::ffff:7f00:1")


@pytest.mark.parametrize(
    ("lines", "unit"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("0::/system.slice/docker-abc.scope/init\n", "docker-abc.scope"),
        ("12:cpuset:/\n1:name=systemd:/system.slice/nginx.service\n0::/\n", "nginx.service"),
        ("0::/ovms.slice/ovms@chat-numa0.service\n", "ovms@chat-numa0.service"),
        (
            "0::/user.slice/user-0.slice/session-1.scope\n",
            "/user.slice/user-0.slice/session-1.scope",
        ),
        ("0::/\n", "/"),
    ],
)
def test_unit_of_a_process_is_read_from_its_control_group(tmp_path: Path, lines: str, unit: str) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text(lines)
    assert read_unit(7, tmp_path) == unit


def test_processes_of_user_space_are_read() -> None:
    found = {process.pid: process for process in read_processes()}
    assert found[os.getpid()].cpus == os.sched_getaffinity(0)
