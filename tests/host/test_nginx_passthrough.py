# SPDX-License-Identifier: Apache-2.0
"""Every API of OVMS through a real nginx: what the engine gets and what the client gets is what was sent.

The endpoints are those of OVMS 2026: of the pages ovms_docs_rest_api_* and of the demos of audio and images
at docs.openvino.ai, and tokenize of its source. Some get forms with files, some answer with no text.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from proxy_lab import Answer, Engine, engines, free_port, member, proxy, render, send, send_raw, upstream

from ovms_scaler.core import nginx

JSON = "application/json"
FORM = "multipart/form-data; boundary=\"----=_Part 'a'(1)+_,-./:=?\""
# Every byte is in it, NUL too; what ends a part or a message, where a reader of text would stop.
NOISE = random.Random(0).randbytes(1 << 20) + bytes(range(256)) + b"\r\n\r\n\0\r\n------=_Part\r\n0\r\n\r\n"
LIMIT_SEC = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as it came to the engine."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Front:
    """A front whose engine keeps what it gets and says ``says``, in pieces if ``pace`` lets them go."""

    port: int
    prefix: str
    says: bytes = b""
    rest: list[bytes] = field(default_factory=list)
    pace: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    asked: list[Asked] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request and its answer, as the front keeps no connection to an engine."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.asked.append(Asked(line=first, headers=headers, body=body))
            writer.write(self.says)
            for piece in self.rest:
                await self.pace.acquire()
                writer.write(piece)
            await writer.drain()
        writer.close()

    async def ask(
        self, target: str, *, kind: str = JSON, body: bytes = b"{}", method: str = "POST"
    ) -> Answer:
        headers = f"Content-Type: {kind}\r\n"
        return await send(self.port, self.prefix + target, method=method, body=body, headers=headers)


def say(body: bytes, *, status: int = 200, kind: str = JSON, fields: str = "") -> bytes:
    """A whole answer, as an engine sends it."""
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    return head.encode() + body


def form(*parts: tuple[str, str, bytes]) -> bytes:
    """Of names, further fields and contents; the boundary has every character that RFC 2046 allows."""
    boundary = b"------=_Part 'a'(1)+_,-./:=?"
    found = b""
    for name, fields, content in parts:
        head = f'\r\nContent-Disposition: form-data; name="{name}"{fields}\r\n\r\n'
        found += boundary + head.encode() + content + b"\r\n"
    return found + boundary + b"--\r\n"


def file(name: str, kind: str) -> str:
    return f'; filename="{name}"\r\nContent-Type: {kind}'


@pytest_asyncio.fixture(params=["", "/chat"], ids=["plain front", "front with prefixes"])
async def front(request: pytest.FixtureRequest) -> AsyncIterator[Front]:
    made = Front(port=free_port(), prefix=request.param)
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0, limit=1 << 20)
    async with server, proxy() as running:
        engine = Engine(instance="chat-numa0", port=server.sockets[0].getsockname()[1])
        chat = upstream("chat", [engine], prefix=made.prefix.lstrip("/"))
        fronts = (nginx.Front(listen=(f"127.0.0.1:{made.port}",), upstreams=(chat,)),)
        await running.nginx.install(render(running.directory, fronts, {"chat": (member(engine),)}))
        yield made
        for _ in made.rest:
            made.pace.release()


@contextlib.asynccontextmanager
async def connect(front: Front) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    try:
        async with asyncio.timeout(LIMIT_SEC):
            yield reader, writer
    finally:
        writer.transport.abort()


LONG = json.dumps({"model": "m", "input": ["ü\0" * 350_000]}, ensure_ascii=False).encode()
EDIT = form(
    ("model", "", b"m"), ("prompt", "", "größer".encode()), ("image", file("a.png", "image/png"), NOISE)
)
SOUND = form(("file", file('a".wav', "audio/wav"), NOISE), ("model", "", b"m"), ("temperature", "", b"0"))
KSERVE = b'{"inputs": []}' + NOISE
ENDPOINTS = [
    # target, content type and body of the request; content type and body of the answer
    pytest.param("/v3/embeddings", JSON, LONG, JSON, b'{"data": [1e-7]}', id="embeddings"),
    pytest.param("/v3/rerank", JSON, b'{"documents": ["\\u0000"]}', JSON, b'{"results": []}', id="rerank"),
    pytest.param("/v3/responses", JSON, b'{"input": "x"}', f"{JSON}; charset=utf-8", LONG, id="responses"),
    pytest.param("/v3/tokenize", JSON, b'{"text": "x"}', JSON, b'{"tokens": [1]}', id="tokenize"),
    pytest.param("/v3/images/generations", JSON, b"{}", JSON, LONG, id="images"),
    pytest.param("/v3/images/edits", FORM, EDIT, JSON, b'{"data": []}', id="images from a form"),
    pytest.param("/v3/audio/speech", JSON, b"{}", "audio/wav", NOISE, id="speech"),
    pytest.param("/v3/audio/transcriptions", FORM, SOUND, JSON, b'{"text": ""}', id="transcriptions"),
    pytest.param("/v3/audio/translations", FORM, SOUND, "text/plain", b"\xff\0", id="translations"),
    pytest.param("/v2/models/a%2Fb/infer", "application/octet-stream", KSERVE, "x/y", NOISE, id="KServe"),
]


@pytest.mark.parametrize(("target", "kind", "body", "answer_kind", "says"), ENDPOINTS)
async def test_requests_and_answers_of_every_api_pass_as_they_are(
    front: Front, target: str, kind: str, body: bytes, answer_kind: str, says: bytes
) -> None:
    front.says = say(says, kind=answer_kind)
    for query in ("", "?api-version=1&x=%2f%00/../v1/config/reload&y=a+b%20c&=;?"):
        front.asked.clear()
        answer = await front.ask(target + query, kind=kind, body=body)
        (asked,) = front.asked
        assert asked.line == f"POST {target}{query} HTTP/1.1"
        assert (asked.headers["content-type"], asked.body == body) == (kind, True)
        assert (answer.status, answer.headers["content-type"]) == (200, answer_kind)
        assert answer.body == says


@pytest.mark.parametrize("base", ["/v1", "/v3", "/v3/v1"])
async def test_every_spelling_of_the_api_and_every_method_passes(front: Front, base: str) -> None:
    front.says = say(b"{}")
    for method in ("POST", "GET", "OPTIONS", "DELETE"):
        await front.ask(f"{base}/responses/resp_1", method=method)
        assert front.asked[-1].line == f"{method} {base}/responses/resp_1 HTTP/1.1"


async def test_headers_that_an_api_needs_pass_in_both_directions(front: Front) -> None:
    front.says = say(NOISE, fields="Content-Encoding: gzip\r\nX-Request-Id: 7\r\nRetry-After: 9\r\n")
    head = (
        f"POST {front.prefix}/v2/models/m/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Inference-Header-Content-Length: 14\r\nAuthorization: Bearer k\r\nOpenAI-Organization: o\r\n"
        f"Accept: text/event-stream\r\nAccept-Encoding: gzip\r\nContent-Length: {len(KSERVE)}\r\n\r\n"
    )
    answer = await send_raw(front.port, head.encode() + KSERVE)
    headers = front.asked[0].headers
    assert headers["inference-header-content-length"] == "14"
    assert (headers["authorization"], headers["openai-organization"]) == ("Bearer k", "o")
    assert (headers["accept"], headers["accept-encoding"]) == ("text/event-stream", "gzip")
    assert (answer.headers["content-encoding"], answer.headers["x-request-id"]) == ("gzip", "7")
    assert (answer.headers["retry-after"], answer.body == NOISE) == ("9", True)


@pytest.mark.parametrize("expect", ["Expect: 100-continue\r\n", ""], ids=["curl asks first", "at once"])
async def test_an_upload_in_chunks_arrives_whole(front: Front, expect: str) -> None:
    """curl asks with Expect before it sends a form of more than 1 MiB."""
    front.says = say(b"{}")
    head = (
        f"POST {front.prefix}/v3/images/edits HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{expect}"
        f"Content-Type: {FORM}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    pieces = [EDIT[begin : begin + 70_001] for begin in range(0, len(EDIT), 70_001)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    async with connect(front) as (reader, writer):
        writer.write(head.encode())
        if expect:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(chunks)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    (asked,) = front.asked
    assert (asked.headers["content-type"], asked.body == EDIT) == (FORM, True)


@pytest.mark.parametrize("says", [b"", b'{"error": "own words"}', b"\0\xff<html>"], ids=["no", "own", "odd"])
async def test_what_an_engine_says_of_an_error_passes_as_it_is(front: Front, says: bytes) -> None:
    for status in (400, 401, 403, 404, 406, 408, 412, 413, 422, 429, 500, 501, 503, 504):
        front.says = say(says, status=status, kind="text/odd", fields="X-Why: because\r\n")
        answer = await front.ask("/v3/images/edits", kind=FORM, body=EDIT)
        assert (answer.status, answer.headers["content-type"], answer.body) == (status, "text/odd", says)
        assert answer.headers["x-why"] == "because"
    assert {asked.body == EDIT for asked in front.asked} == {True}


async def test_a_large_form_that_one_instance_drops_comes_whole_to_another() -> None:
    async with proxy() as running, engines("a-numa0", "a-numa1") as (first, second):
        first.is_crashing = True
        port = free_port()
        fronts = (nginx.Front(listen=(f"127.0.0.1:{port}",), upstreams=(upstream("a", [first, second]),)),)
        files = render(running.directory, fronts, {"a": (member(first), member(second))})
        await running.nginx.install(files)
        for _ in range(4):
            answer = await send(port, "/v3/images/edits", body=EDIT, headers=f"Content-Type: {FORM}\r\n")
            assert answer.status == 200
        assert first.bodies
        assert {body == EDIT for body in (*first.bodies, *second.bodies)} == {True}


async def test_each_event_of_a_streamed_response_passes_by_itself_and_as_it_is(front: Front) -> None:
    """The engine says the next one only when the client has got the last."""
    texts = ['{"delta": "gr\u00f6\u00dfer"}', '{"delta": "\\n\\n"}', '{"delta": "' + "x" * 40_000 + '"}']
    events = [f"event: response.output_text.delta\r\ndata: {text}\n\n".encode() for text in texts]
    events += [b": a comment\n\n", b"event: response.completed\ndata: {}\n\n"]
    front.says = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    front.rest = [b"%x\r\n%s\r\n" % (len(event), event) for event in events] + [b"0\r\n\r\n"]
    async with connect(front) as (reader, writer):
        head = f"POST {front.prefix}/v3/responses HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
        writer.write(head.encode() + b"{}")
        answer = await reader.readuntil(b"\r\n\r\n")
        for event in events:
            front.pace.release()
            assert await read_chunks(reader, len(event)) == event
        front.pace.release()
        assert await reader.readexactly(5) == b"0\r\n\r\n"
    assert b"\r\nContent-Type: text/event-stream\r\n" in answer


async def read_chunks(reader: asyncio.StreamReader, length: int) -> bytes:
    """The content of as many chunks as it takes: where they end is between the two at each connection."""
    found = b""
    while len(found) < length:
        size = int(await reader.readuntil(b"\r\n"), 16)
        found += (await reader.readexactly(size + 2))[:-2]
    return found
