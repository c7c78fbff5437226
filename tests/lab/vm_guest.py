# SPDX-License-Identifier: Apache-2.0
"""Runs inside a virtual machine as a service: starts commands and opens connections for whoever asks by TCP.

One connection is one request: a line of JSON, and after it what the command reads. vm_channel.py is the
other side and describes the requests. This stays in memory: emulated, a Python takes a second to start.
"""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from typing import Any

# Which stream a frame of output belongs to; the last has the exit status as its content.
STDOUT, STDERR, EXIT = range(3)
HEADER = struct.Struct(">BI")


def main() -> None:
    port = int(sys.argv[1])
    with socket.create_server(("0.0.0.0", port), backlog=128) as listener:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


def serve(connection: socket.socket) -> None:
    """Answer one request. The other side sees a connection that ends early when something is wrong here."""
    with connection, connection.makefile("rb") as reader, contextlib.suppress(ConnectionError):
        line = reader.readline()
        if not line:
            return
        request = json.loads(line)
        if "connect" in request:
            connect(connection, request["connect"])
        else:
            run(connection, request, reader.read(request["stdin_bytes"]))


def run(connection: socket.socket, request: dict[str, Any], stdin: bytes) -> None:
    """Run a command and send what it prints as it comes; it is killed when the other side hangs up."""
    with os.fdopen(os.memfd_create("stdin"), "w+b") as file:
        file.write(stdin)
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        try:
            process = subprocess.Popen(
                request["run"],
                env=request["env"],
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            send(connection, STDERR, f"{request['run'][0]}: {error.strerror}\n".encode())
            send(connection, EXIT, b"127")
            return
    try:
        with process:
            forward(connection, process)
            status = process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    send(connection, EXIT, str(status).encode())


def forward(connection: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    """Send both streams until they end. Raises ConnectionError when the other side hangs up."""
    assert process.stdout is not None
    assert process.stderr is not None
    streams = {process.stdout.fileno(): STDOUT, process.stderr.fileno(): STDERR}
    try:
        while streams:
            for source in select.select([connection.fileno(), *streams], [], [])[0]:
                if source == connection.fileno():
                    raise ConnectionAbortedError
                data = os.read(source, 65536)
                if data:
                    send(connection, streams[source], data)
                else:
                    del streams[source]
    except ConnectionError:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def send(connection: socket.socket, kind: int, data: bytes) -> None:
    connection.sendall(HEADER.pack(kind, len(data)) + data)


def connect(connection: socket.socket, address: Any) -> None:
    """Connect to [HOST, PORT] or to the Unix socket PATH and pass everything on, both ways."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as target:
        try:
            target.connect(address if isinstance(address, str) else tuple(address))
        except OSError as error:
            connection.sendall(json.dumps({"errno": error.errno}).encode() + b"\n")
            return
        connection.sendall(json.dumps({"errno": 0}).encode() + b"\n")
        back = threading.Thread(target=pump, args=(target, connection), daemon=True)
        back.start()
        pump(connection, target)
        back.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes from `source` until it ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
