# SPDX-License-Identifier: Apache-2.0
"""Requests made to be read in two ways, with a real nginx: what reaches an engine was let through."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from proxy_lab import Engine, engines, free_port, member, proxy, render, upstream

from ovms_scaler.core import nginx

CHAT = b"POST /v3/chat/completions HTTP/1.1\r\nHost: x\r\n"
RELOAD = b"POST /v1/config/reload HTTP/1.1\r\nHost: x\r\n\r\n"
# Whoever takes it for a request closes the connection after it; padded, so that lengths too large end in it.
LAST = b"GET /v3/models/last HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"x" * 400 + b"\r\n\r\n"
LIMIT_SEC = 10


@dataclass
class Front:
    """A front whose engine keeps every byte that it gets."""

    port: int
    heads: list[bytes]

    async def send(self, data: bytes) -> list[int]:
        """The statuses of all answers until nginx closes the connection, as it must be asked to."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        answer = b""
        try:
            writer.write(data)
            async with asyncio.timeout(LIMIT_SEC):
                with contextlib.suppress(ConnectionError):
                    answer = await reader.read()
        finally:
            writer.close()
        return [int(part[1:4]) for part in answer.split(b"HTTP/1.1")[1:]]

    @property
    def asked(self) -> list[bytes]:
        """The request lines that the engine got."""
        return [head.partition(b"\r\n")[0] for head in self.heads]


async def keep(heads: list[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An engine that takes one request after the other from a connection, as its head says they end."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            lines = [line.partition(b":") for line in heads[-1].lower().split(b"\r\n")]
            length = next((int(value) for name, _, value in lines if name == b"content-length"), 0)
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n{}")
    writer.close()


@pytest_asyncio.fixture
async def front() -> AsyncIterator[Front]:
    heads: list[bytes] = []
    server = await asyncio.start_server(lambda *ends: keep(heads, *ends), "127.0.0.1", 0)
    async with server, proxy() as running:
        engine = Engine(instance="chat-numa0", port=server.sockets[0].getsockname()[1])
        port = free_port()
        fronts = (nginx.Front(listen=(f"127.0.0.1:{port}",), upstreams=(upstream("chat", [engine]),)),)
        await running.nginx.install(render(running.directory, fronts, {"chat": (member(engine),)}))
        yield Front(port=port, heads=heads)


def pair(*fields: bytes, body: bytes) -> bytes:
    return CHAT + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body + LAST


CHUNKED = b"Transfer-Encoding: chunked"
SMUGGLED = (
    pytest.param(pair(b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\n" + RELOAD), id="a length and chunks"),
    pytest.param(
        pair(CHUNKED, b"Content-Length: 300", body=b"0\r\n\r\n" + RELOAD), id="chunks and a length"
    ),
    pytest.param(pair(b"Content-Length: 0", b"Content-Length: 60", body=RELOAD), id="two lengths"),
    pytest.param(pair(b"Content-Length: 0, 60", body=RELOAD), id="two lengths in one"),
    pytest.param(pair(b"Content-Length: +0", body=RELOAD), id="a sign"),
    pytest.param(pair(b"Content-Length: 0x0", body=RELOAD), id="another base"),
    pytest.param(pair(b"Content-Length:\x0b0", body=RELOAD), id="another space"),
    pytest.param(pair(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + RELOAD), id="no encoding"),
    pytest.param(pair(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + RELOAD), id="a list"),
    pytest.param(
        pair(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + RELOAD), id="space before the colon"
    ),
    pytest.param(
        pair(b"X: y\r\n Transfer-Encoding: chunked", body=b"0\r\n\r\n" + RELOAD), id="a folded line"
    ),
    pytest.param(
        pair(b"X: y\nTransfer-Encoding: chunked", body=b"0\r\n\r\n" + RELOAD), id="a bare line end"
    ),
    pytest.param(pair(CHUNKED, CHUNKED, body=b"0\r\n\r\n" + RELOAD), id="chunks twice"),
    pytest.param(pair(CHUNKED, body=b"0;x=\r\n\r\n" + RELOAD), id="an extension"),
    pytest.param(pair(CHUNKED, body=b"0\r\nX: y\r\n\r\n" + RELOAD), id="a trailer"),
    pytest.param(pair(CHUNKED, body=b"0\n\n" + RELOAD), id="chunks with bare line ends"),
    pytest.param(pair(CHUNKED, body=b"-1\r\n\r\n" + RELOAD), id="a chunk below nothing"),
    pytest.param(pair(CHUNKED, body=b"fffffffffffffffff\r\n\r\n" + RELOAD), id="an endless chunk"),
    pytest.param(
        pair(b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", body=RELOAD), id="an upgrade"
    ),
    pytest.param(pair(b"Connection: close, Content-Length", b"Content-Length: 0", body=RELOAD), id="a hop"),
    pytest.param(pair(b"Expect: 100-continue", b"Content-Length: 0", body=RELOAD), id="an expectation"),
    pytest.param(pair(b"X: y\x00z", b"Content-Length: 0", body=RELOAD), id="a zero byte"),
)


@pytest.mark.parametrize("data", SMUGGLED)
async def test_no_second_request_hides_in_a_first(front: Front, data: bytes) -> None:
    statuses = await front.send(data)
    chat, last = b"POST /v3/chat/completions HTTP/1.1", b"GET /v3/models/last HTTP/1.1"
    assert front.asked in ([], [last], [chat], [chat, last])
    assert set(statuses) <= {100, 200, 400, 404, 413, 501}
    # What does reach the engine has one length, and no other way to tell where it ends.
    for head in front.heads:
        assert b"transfer-encoding" not in head.lower()
        assert head.lower().count(b"content-length:") <= 1
        assert b"upgrade" not in head.lower().replace(b"upgrade: h2c", b"")


TRICKS = (
    *(
        f"{target} HTTP/{version}"
        for version in ("1.0", "1.1")
        for target in (
            "POST //v3/../v1/config/reload",
            "POST /v3/../v1/config/reload",
            "POST /v3/%2e%2e/v1/config/reload",
            "POST /v3/.%2e/v1/config/reload",
            "POST /v3/..;/v1/config/reload",
            "POST /v3;/../v1/config/reload",
            "POST /v3/%2e%2e%2fv1%2fconfig%2freload",
            "POST /v3/%252e%252e/v1/config/reload",
            "POST /v3/%c0%ae%c0%ae/v1/config/reload",
            "POST /v3/..%5cv1/config/reload",
            "POST /v3/..\\v1\\config\\reload",
            "POST /v3/%00/../v1/config/reload",
            "POST /v3/%0d%0aPOST%20/v1/config/reload",
            "POST /v3/x%20HTTP/1.1%0d%0a/v1/config/reload",
            "POST /v1/config/reload/../../../v3/chat/completions",
            "POST /v1/config/reload%23/v3/chat/completions",
            "POST /v1/config/reload%3f/v3/models",
            "POST http://x/v1/config/reload",
            "POST http://x:y@z/v1/config/reload",
            "POST HTTP://x/v1/config/reload",
            "POST https://x/v1/config/reload",
            "POST http:///v1/config/reload",
            "POST x/v1/config/reload",
            "POST *",
            "OPTIONS *",
            "CONNECT 127.0.0.1:8003",
            "CONNECT /v1/config/reload",
            "TRACE /v1/config/reload",
            "PRI *",
            "reload /v1/config/reload",
            "get /v1/config",
            "Get /v1/config",
            "GET\t/v1/config/reload",
            "HEAD /metrics",
            "HEAD /v1/config",
            "POST /v1/config",
            "PUT /v1/config",
            "DELETE /v1/config",
            "PATCH /v1/config/",
            "POST /v1/config?x=/v3/chat/completions",
        )
    ),
    "GET /metrics",  # HTTP/0.9
    "GET /v1/config/reload HTTP/0.9",
    "POST /v1/config/reload HTTP/2.0",
    "POST /v1/config/reload HTTP/1.1 HTTP/1.1",
    "POST  /v1/config/reload HTTP/1.1",
    "\r\nPOST /v1/config/reload HTTP/1.1",
)


@pytest.mark.parametrize("line", TRICKS)
async def test_nothing_but_what_serves_is_reached(front: Front, line: str) -> None:
    for more in (
        b"",
        b"X-HTTP-Method-Override: GET\r\nX-Original-URL: /v3/models\r\nX-Rewrite-URL: /v3/models\r\n",
    ):
        data = (
            line.encode("latin-1")
            + b"\r\nHost: x\r\n"
            + more
            + b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        )
        assert set(await front.send(data)) <= {400, 404, 405, 505}
    assert front.heads == []


async def test_an_old_client_is_served_in_its_own_way(front: Front) -> None:
    assert await front.send(b"GET /v3/models HTTP/1.0\r\n\r\n") == [200]
    assert front.asked == [b"GET /v3/models HTTP/1.1"]


async def test_requests_that_follow_each_other_are_judged_one_by_one(front: Front) -> None:
    chat = CHAT + b"Content-Length: 2\r\n\r\n{}"
    last = CHAT + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"
    assert await front.send(chat + RELOAD + chat + RELOAD + last) == [200, 404, 200, 404, 200]
    assert front.asked == [b"POST /v3/chat/completions HTTP/1.1"] * 3


@pytest.mark.parametrize("field", [b"Host", b"X-OVMS-Instance", b"X-Forwarded-For", b"Accept"])
async def test_a_field_cannot_add_another(front: Front, field: bytes) -> None:
    await front.send(
        CHAT + field + b": a\rContent-Length: 9\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    for head in front.heads:
        lines = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
        assert lines == [b"Content-Length: 0"]


async def test_stream_mode_passes_everything_as_its_documentation_says() -> None:
    async with proxy() as running, engines("chat-numa0") as (engine,):
        port = free_port()
        fronts = (nginx.Front(listen=(f"127.0.0.1:{port}",), upstreams=(upstream("chat", [engine]),)),)
        await running.nginx.install(
            render(running.directory, fronts, {"chat": (member(engine),)}, mode=nginx.ProxyMode.stream)
        )
        reload = RELOAD.replace(b"Host: x", b"Host: x\r\nConnection: close")
        assert await Front(port=port, heads=[]).send(reload) == [200]
        assert engine.requests == ["POST /v1/config/reload"]
