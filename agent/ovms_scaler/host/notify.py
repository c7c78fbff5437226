# SPDX-License-Identifier: Apache-2.0
"""What the agent tells systemd about itself: the datagrams of sd_notify(3), without a library."""

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends to the socket that ``NOTIFY_SOCKET`` names; says nothing where systemd gave none.

    Every method returns whether the datagram was taken (True where there is nobody to tell). It is False
    while PID 1 is stuck and its queue is full: sending never blocks, and what matters can be said again.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte of an abstract name; other forms ("vsock:") are for whole machines.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address.startswith(("@", "/")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.watchdog_sec = read_watchdog_sec(environment)

    def close(self) -> None:
        """Release the socket."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def ready(self, status: str = "") -> bool:
        """Start-up, or a reload, is over."""
        return self._send(READY="1", **({"STATUS": status} if status else {}))

    def reloading(self) -> bool:
        """A reload begins; ready() ends it. Type=notify-reload needs the time, in CLOCK_MONOTONIC."""
        return self._send(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))

    def stopping(self) -> bool:
        """Shutdown has begun."""
        return self._send(STOPPING="1")

    def status(self, text: str) -> bool:
        """The line that ``systemctl status`` shows."""
        return self._send(STATUS=text)

    def watchdog(self) -> bool:
        """Still alive; due at least every ``watchdog_sec``, better twice as often."""
        return self._send(WATCHDOG="1")

    def _send(self, **fields: str) -> bool:
        if self._socket is None:
            return True
        message = "\n".join(f"{name}={' '.join(value.split())}" for name, value in fields.items())
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError:
            return False
        return True


def read_watchdog_sec(environment: Mapping[str, str]) -> float | None:
    """How long systemd waits for a sign of life, sd_watchdog_enabled(3); None when it does not watch us."""
    limit, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not limit.isdecimal() or int(limit) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(limit) / 1_000_000
