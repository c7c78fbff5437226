# SPDX-License-Identifier: Apache-2.0
"""What systemd receives of us, on real sockets."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovms_scaler.host.notify import Notifier, read_watchdog_sec


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name if request.param == "path" else "\0" + name)
        receiver.settimeout(10)
        yield receiver, name if request.param == "path" else "@" + name


def test_each_message_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    receiver, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    assert notifier.ready("4 instances")
    assert receiver.recv(4096) == b"READY=1\nSTATUS=4 instances"
    assert notifier.status("two\nlines")
    assert receiver.recv(4096) == b"STATUS=two lines"
    assert notifier.watchdog()
    assert receiver.recv(4096) == b"WATCHDOG=1"
    assert notifier.stopping()
    assert receiver.recv(4096) == b"STOPPING=1"
    notifier.close()


def test_reloading_carries_the_time(manager: tuple[socket.socket, str]) -> None:
    receiver, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    assert notifier.reloading()
    first, second = receiver.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdecimal()
    notifier.close()


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "vsock:2:1"}], ids=["no systemd", "vsock"])
def test_nobody_to_tell_is_silence(environment: dict[str, str]) -> None:
    assert Notifier(environment).ready()


def test_manager_that_does_not_read_blocks_nothing(manager: tuple[socket.socket, str]) -> None:
    receiver, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    taken = 0
    while notifier.watchdog():
        taken += 1
    assert taken > 0
    receiver.recv(4096)
    assert notifier.watchdog()
    notifier.close()


@pytest.mark.parametrize(
    ("environment", "limit_sec"),
    [
        pytest.param({}, None, id="not watched"),
        pytest.param({"WATCHDOG_USEC": "30000000"}, 30.0, id="watched"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0, id="our pid"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None, id="another's pid"),
        pytest.param({"WATCHDOG_USEC": "0"}, None, id="zero"),
        pytest.param({"WATCHDOG_USEC": "soon"}, None, id="not a number"),
    ],
)
def test_watchdog_limit(environment: dict[str, str], limit_sec: float | None) -> None:
    assert read_watchdog_sec(environment) == limit_sec
