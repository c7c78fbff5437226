# SPDX-License-Identifier: Apache-2.0
"""The socket to which the proxy writes a datagram for each request that has ended."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from ovms_scaler.errors import HostError

# Datagrams taken in one turn of the event loop: 27 microseconds each.
_TURN = 200
_BYTES = 8192


class AccessLog:
    """A bound datagram socket that is read as it fills up; what does not fit is lost, and nobody waits."""

    def __init__(self, path: Path, take: Callable[[bytes], None]) -> None:
        """Bind; the owner and the group of the directory may write, as it is setgid (inode(7)).

        The owner's x bit is for nginx's test whether a reader is there, which takes no note of sockets else.
        Raises HostError.
        """
        self._path = path
        self._take = take
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
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _read(self) -> None:
        for _ in range(_TURN):
            try:
                data = self._socket.recv(_BYTES)
            except OSError:
                return  # nothing is left
            self._take(data)

    def close(self) -> None:
        """Take the socket away, so that the proxy sees that nobody reads."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._path.unlink(missing_ok=True)
