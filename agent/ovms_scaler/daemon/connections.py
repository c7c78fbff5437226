# SPDX-License-Identifier: Apache-2.0
"""Bounds on what one client of a socket can take of the agent, which everybody here may connect to."""

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """``of_user`` and ``of_all`` are connections at once; root's are not counted.

    ``bytes`` and ``lifetime_sec`` are those of one connection: a client that wants more connects again.
    ``makes_room``: one too many of a user is not refused, but ends the oldest of that user; so whoever
    occupies all of them without asking anything keeps nobody out.
    """

    of_user: int = 16
    of_all: int = 256
    bytes: int = 1 << 19
    lifetime_sec: float = 120.0
    makes_room: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who connected, as the kernel knows it (SO_PEERCRED of unix(7)); over TCP it does not: ids are -1."""

    uid: int
    gid: int


def read_peer(transport: asyncio.BaseTransport | None) -> Peer | None:
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:
        return None
    size = struct.calcsize("3i")
    _, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return Peer(uid=uid, gid=gid)


def end_with_connection(transport: asyncio.BaseTransport | None) -> None:
    """Have the current task cancelled when the connection is lost that it answers on.

    Raises ConnectionResetError if that has happened.
    """
    if transport is None or transport.is_closing():
        raise ConnectionResetError
    connection = transport.get_protocol()
    if isinstance(connection, _Connection):
        connection.answering = asyncio.current_task()


class Doorkeeper:
    """Makes a bounded connection of each that comes in."""

    def __init__(self, make: Callable[[], asyncio.Protocol], bounds: Bounds) -> None:
        self._make = make
        self._bounds = bounds
        # Of each user but root, in the order in which they came.
        self._of_user: dict[int, dict[_Connection, None]] = {}

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self._make, self._bounds, self._of_user)


class _Connection(asyncio.Protocol):
    """Passes everything on to the protocol that it guards, as long as the bounds are kept."""

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        bounds: Bounds,
        of_user: "dict[int, dict[_Connection, None]]",
    ) -> None:
        self.answering: asyncio.Task[Any] | None = None  # which nobody needs any more when this is lost
        self._make = make
        self._bounds = bounds
        self._of_user = of_user
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._end: asyncio.TimerHandle | None = None
        self._uid = 0
        self._bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        peer = read_peer(transport)
        self._uid = peer.uid if peer is not None else -1
        if self._uid != 0 and not self._has_room():
            transport.abort()
            return
        self._of_user.setdefault(self._uid, {})[self] = None
        self._transport = transport
        self._inner = self._make()
        self._end = asyncio.get_running_loop().call_later(self._bounds.lifetime_sec, transport.abort)
        self._inner.connection_made(transport)

    def _has_room(self) -> bool:
        own = self._of_user.get(self._uid, {})
        everybody = sum(len(theirs) for uid, theirs in self._of_user.items() if uid != 0)
        if len(own) < self._bounds.of_user and everybody < self._bounds.of_all:
            return True
        if not self._bounds.makes_room or not own:
            return False
        oldest = next(iter(own))
        oldest._leave()
        if oldest._transport is not None:
            oldest._transport.abort()
        return True

    def _leave(self) -> None:
        """No longer be counted."""
        own = self._of_user.get(self._uid, {})
        own.pop(self, None)
        if not own:
            self._of_user.pop(self._uid, None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._inner is None:
            return
        if self._end is not None:
            self._end.cancel()
        self._leave()
        inner, self._inner = self._inner, None
        inner.connection_lost(exc)
        if self.answering is not None:
            self.answering.cancel()

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._inner is None or self._transport is None:
            return
        if self._bytes > self._bounds.bytes:
            self._transport.abort()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()
