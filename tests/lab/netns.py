# SPDX-License-Identifier: Apache-2.0
"""Sockets that belong to another network namespace, so that this process can be a client inside a host."""

import ctypes
import http.client
import json
import os
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An HTTP answer, read whole; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON; raises ValueError when it is not."""
        return json.loads(self.body)


def connect(pid: int, address: tuple[str, int], timeout_sec: float) -> socket.socket:
    """A TCP connection to `address` made inside the network namespace of process `pid`.

    setns(2) moves the calling thread only, hence a thread for this one call. Raises OSError as connect(2).
    """

    def enter_and_connect() -> socket.socket:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if LIBC.setns(namespace, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter the network of process {pid}")
        finally:
            os.close(namespace)
        return socket.create_connection(address, timeout=timeout_sec)

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(enter_and_connect).result()


def connect_unix(pid: int, path: str, timeout_sec: float) -> socket.socket:
    """A connection to the Unix socket `path` (absolute, no symbolic links) in the root of process `pid`."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_sec)
    try:
        connection.connect(f"/proc/{pid}/root{path}")
    except OSError:
        connection.close()
        raise
    return connection


def request(
    connection: socket.socket, method: str, path: str, body: object, headers: Mapping[str, str]
) -> Response:
    """One HTTP/1.1 request over `connection`, which is closed afterwards.

    A `body` that is neither None nor bytes is sent as JSON.
    """
    fields = {"Connection": "close", **headers}
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    if content is not body:
        fields.setdefault("Content-Type", "application/json")
    client = http.client.HTTPConnection("localhost")
    client.sock = connection
    with connection:
        client.request(method, path, body=content, headers=fields)
        answer = client.getresponse()
        received = {name.lower(): value for name, value in answer.getheaders()}
        return Response(status=answer.status, headers=received, body=answer.read())
