# SPDX-License-Identifier: Apache-2.0
"""The machine's side of vm_guest.py: commands and connections inside a virtual machine.

Requests: `{"run": ARGV, "env": {...}, "stdin_bytes": N}` followed by N bytes is answered with frames, a byte
for the stream and four for the length (big-endian) before each; `{"connect": [ADDRESS, PORT]}` or
`{"connect": PATH}` with `{"errno": N}`, and when that is 0 the connection is what was asked for.
"""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence

from lab import commands
from lab.vm_guest import EXIT, HEADER, STDOUT

# Where vm_guest.py listens inside.
GUEST_PORT = 1
Address = list[str | int] | str


class Channel:
    """Reaches vm_guest.py at a port of 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.port = port

    def execute(
        self, argv: Sequence[str], *, stdin: bytes, timeout_sec: float, env: Mapping[str, str]
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run `argv` to its end; it is killed inside when it takes longer. Raises TimeoutExpired then."""
        output = {STDOUT: bytearray(), STDOUT + 1: bytearray()}
        deadline = time.monotonic() + timeout_sec
        try:
            with self.start(argv, stdin=stdin, env=env, timeout_sec=timeout_sec) as connection:
                while True:
                    kind, data = receive_frame(connection, deadline)
                    if kind == EXIT:
                        status = int(data)
                        break
                    output[kind] += data
        except TimeoutError as error:
            raise subprocess.TimeoutExpired(argv, timeout_sec) from error
        return subprocess.CompletedProcess(argv, status, bytes(output[STDOUT]), bytes(output[STDOUT + 1]))

    def start(
        self, argv: Sequence[str], *, stdin: bytes, env: Mapping[str, str], timeout_sec: float
    ) -> socket.socket:
        """Start `argv`, which runs until it ends or the connection is closed; frames come from it."""
        request = {"run": argv, "env": {**commands.ENVIRONMENT, **env}, "stdin_bytes": len(stdin)}
        return self.send(request, stdin, timeout_sec)

    def connect(self, address: Address, *, timeout_sec: float) -> socket.socket:
        """A connection made inside, to [ADDRESS, PORT] or a Unix socket. Raises OSError as connect(2)."""
        connection = self.send({"connect": address}, b"", timeout_sec)
        try:
            # A byte at a time: what follows the line is the other side's first word.
            line = b""
            while not line.endswith(b"\n"):
                line += receive(connection, 1)
            number = json.loads(line)["errno"]
            if number:
                raise OSError(number, os.strerror(number))
        except BaseException:
            connection.close()
            raise
        return connection

    def send(self, request: Mapping[str, object], data: bytes, timeout_sec: float) -> socket.socket:
        """Open a connection and make a request."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout_sec)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(json.dumps(request).encode() + b"\n" + data)
        except BaseException:
            connection.close()
            raise
        return connection


class Stream:
    """A command that runs inside until it is closed, and the lines that it prints."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.pending = b""

    def read_lines(self, deadline: float) -> Iterator[str]:
        """The lines until the command ends. Raises TimeoutError at `deadline`."""
        while True:
            while b"\n" in self.pending:
                line, _, self.pending = self.pending.partition(b"\n")
                yield line.decode(errors="replace")
            kind, data = receive_frame(self.connection, deadline)
            if kind == EXIT:
                return
            self.pending += data


@contextlib.contextmanager
def streaming(connection: socket.socket) -> Iterator[Stream]:
    """The command behind `connection`, which ends with the block."""
    with connection:
        yield Stream(connection)


def receive_frame(connection: socket.socket, deadline: float) -> tuple[int, bytes]:
    """The next piece of output. Raises TimeoutError at `deadline` (of time.monotonic())."""
    connection.settimeout(max(0.001, deadline - time.monotonic()))
    kind, length = HEADER.unpack(receive(connection, HEADER.size))
    return kind, receive(connection, length)


def receive(connection: socket.socket, length: int) -> bytes:
    """Exactly so many bytes. Raises ConnectionError when the connection ends before."""
    data = b""
    while len(data) < length:
        chunk = connection.recv(length - len(data))
        if not chunk:
            raise ConnectionAbortedError("the virtual machine closed the connection")
        data += chunk
    return data
