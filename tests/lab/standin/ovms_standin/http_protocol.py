# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 on asyncio, as much as OVMS's server (drogon) shows of it: keep-alive, chunked bodies.

Idle connections are never closed; nothing is refused; a client that goes away cancels its request.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, cast

_HEADER_LIMIT_BYTES: Final = 64 * 1024
_BODY_LIMIT_BYTES: Final = 1 << 30
_DATE_FORMAT: Final = "%a, %d %b %Y %H:%M:%S GMT"


class BadRequestError(ValueError):
    """The bytes are not HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A complete request; header names are lower-case."""

    method: str
    path: str  # as sent, without the query
    headers: Mapping[str, str]
    body: bytes
    is_http10: bool = False

    @property
    def is_connection_kept(self) -> bool:
        connection = self.headers.get("connection", "").lower()
        return "keep-alive" in connection if self.is_http10 else "close" not in connection


class Connection(asyncio.Protocol):
    """One client connection: one request at a time, each answered through this object."""

    def __init__(
        self, answer: Callable[[Request, "Connection"], Awaitable[None]], open_set: set["Connection"]
    ) -> None:
        self._answer = answer
        self._open_set = open_set
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._request: Request | None = None
        self._is_continue_sent = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._open_set.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open_set.discard(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._take_request()

    def abort(self) -> None:
        """Cuts the connection at once, whatever is being sent (drogon's forceClose)."""
        if self._transport is not None:
            self._transport.abort()

    def respond(
        self, status: int, body: bytes, *, content_type: str = "application/json; charset=utf-8"
    ) -> None:
        """Sends a complete response."""
        headers = self._head(status, content_type) + f"content-length: {len(body)}\r\n\r\n"
        has_body = self._request is None or self._request.method != "HEAD"
        self._write(headers.encode() + body if has_body else headers.encode())

    def begin_stream(self, *, content_type: str) -> None:
        """Sends the headers of a response whose length is not known."""
        coding = "" if self._is_http10 else "transfer-encoding: chunked\r\n"
        self._write((self._head(200, content_type) + f"cache-control: no-cache\r\n{coding}\r\n").encode())

    def send_chunk(self, data: bytes) -> None:
        self._write(data if self._is_http10 else b"%x\r\n%b\r\n" % (len(data), data))

    def end_stream(self) -> None:
        if not self._is_http10:
            self._write(b"0\r\n\r\n")
        elif self._transport is not None:
            self._transport.close()

    @property
    def _is_http10(self) -> bool:
        return self._request is not None and self._request.is_http10

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _head(self, status: int, content_type: str) -> str:
        reason = HTTPStatus(status).phrase
        is_kept = self._request is not None and self._request.is_connection_kept
        connection = "keep-alive" if is_kept else "close"
        date = time.strftime(_DATE_FORMAT, time.gmtime())
        return (
            f"HTTP/1.1 {status} {reason}\r\nserver: ovms-standin\r\ndate: {date}\r\n"
            f"connection: {connection}\r\ncontent-type: {content_type}\r\n"
        )

    def _take_request(self) -> None:
        if self._task is not None or not self._buffer:
            return
        try:
            parsed = parse_request(self._buffer)
        except BadRequestError as exc:
            self.respond(400, f'{{"error":"{exc}"}}'.encode())
            if self._transport is not None:
                self._transport.close()
            return
        if parsed is None:
            self._send_continue()
            return
        self._request, size = parsed
        del self._buffer[:size]
        self._is_continue_sent = False
        self._task = asyncio.get_running_loop().create_task(self._serve(self._request))

    def _send_continue(self) -> None:
        head, found, _ = self._buffer.partition(b"\r\n\r\n")
        if found and not self._is_continue_sent and b"\r\nexpect: 100-continue" in head.lower():
            self._is_continue_sent = True
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _serve(self, request: Request) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._answer(request, self)
        self._task = None
        if self._transport is not None and not self._transport.is_closing():
            if request.is_connection_kept:
                self._take_request()
            else:
                self._transport.close()


def parse_request(buffer: bytes | bytearray) -> tuple[Request, int] | None:
    """The first request in the buffer and its length in bytes; None while it is incomplete.

    Raises BadRequestError.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > _HEADER_LIMIT_BYTES:
            raise BadRequestError("Header is too long")
        return None
    lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequestError("Malformed request line")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
    }
    body = _parse_body(buffer, end + 4, headers)
    if body is None:
        return None
    content, size = body
    method, target, version = words
    path = target.partition("?")[0]
    return Request(
        method=method, path=path, headers=headers, body=content, is_http10=version == "HTTP/1.0"
    ), size


def _parse_body(
    buffer: bytes | bytearray, start: int, headers: Mapping[str, str]
) -> tuple[bytes, int] | None:
    """The body and where it ends in the buffer."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return _parse_chunks(buffer, start)
    text = headers.get("content-length", "0")
    if not text.isascii() or not text.isdigit() or int(text) > _BODY_LIMIT_BYTES:
        raise BadRequestError("Malformed Content-Length")
    end = start + int(text)
    return None if len(buffer) < end else (bytes(buffer[start:end]), end)


def _parse_chunks(buffer: bytes | bytearray, start: int) -> tuple[bytes, int] | None:
    content = bytearray()
    while (line_end := buffer.find(b"\r\n", start)) >= 0:
        try:
            size = int(bytes(buffer[start:line_end]).split(b";")[0], 16)
        except ValueError as exc:
            raise BadRequestError("Malformed chunk") from exc
        data_end = line_end + 2 + size
        if len(buffer) < data_end + 2:
            return None
        if size == 0:
            return bytes(content), data_end + 2
        content += buffer[line_end + 2 : data_end]
        start = data_end + 2
    return None
