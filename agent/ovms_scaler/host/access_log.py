# SPDX-License-Identifier: Apache-2.0
"""The socket to which the proxy writes a datagram for each request that has ended."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from ovms_scaler.errors import HostError

# Datagrams taken in one turn of the event loop: 27 microseconds each.
_TURN = 200
# To be woken up costs several times what a datagram does: after a turn there is none for as long. What comes
# meanwhile has to fit into the socket's queue: as systemd sets it at boot (bump_unix_max_dgram_qlen() in its
# src/core/main.c) 10,000 requests a second do, but the kernel's own length, 10, is for no pauses.
_PAUSE_SEC = 0.05
_QUEUE_FILE, _QUEUE = "proc/sys/net/unix/max_dgram_qlen", 512
_BYTES = 8192


class AccessLog:
    """A bound datagram socket; what does not fit is lost, and the proxy waits for nothing.

    One that comes alone is taken at once; those that follow it, some twenty times a second.
    """

    def __init__(self, path: Path, take: Callable[[bytes], None], *, root: Path = Path("/")) -> None:
        """Bind; the owner and the group of the directory may write, as it is setgid (inode(7)).

        The owner's x bit is for nginx's test whether a reader is there, which takes no note of sockets else.
        Raises HostError.
        """
        self._path = path
        self._take = take
        self._pause_sec = _PAUSE_SEC if _read_queue(root) >= _QUEUE else 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
            path.chmod(0o720)
        except OSError as error:
            self._socket.close()
            raise HostError(
                f"cannot listen on {path}: {error.strerror}",
                hint="`systemd-tmpfiles --create` makes its directory",
            ) from error
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._socket, self._begin)

    def _begin(self) -> None:
        self._loop.remove_reader(self._socket)
        self._read()

    def _read(self) -> None:
        taken = 0
        try:
            while taken < _TURN:
                try:
                    data = self._socket.recv(_BYTES)
                except OSError:
                    break  # nothing is left
                taken += 1
                self._take(data)
        finally:
            self._go_on(taken)

    def _go_on(self, taken: int) -> None:
        """Look again until there was nothing; then have the event loop tell when there is."""
        if taken:
            self._timer = self._loop.call_later(0 if taken == _TURN else self._pause_sec, self._read)
        else:
            self._loop.add_reader(self._socket, self._begin)

    def close(self) -> None:
        """Take the socket away, so that the proxy sees that nobody reads."""
        self._loop.remove_reader(self._socket)
        if self._timer is not None:
            self._timer.cancel()
        self._socket.close()
        self._path.unlink(missing_ok=True)


def _read_queue(root: Path) -> int:
    try:
        return int((root / _QUEUE_FILE).read_text())
    except (OSError, ValueError):
        return 0
