# SPDX-License-Identifier: Apache-2.0
"""The engine's client against real servers on 127.0.0.1 that behave, and misbehave in every way."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from ovms_scaler.core.config_status import MAX_BYTES
from ovms_scaler.core.facts import Probe
from ovms_scaler.host.ovms import Engine

SHORT_SEC = 0.2  # a deadline that is to pass
LONG_SEC = 10.0  # one that must not
AVAILABLE = json.dumps(
    {"m": {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK"}}]}}
).encode()


@dataclass
class Server:
    """What a test's server saw."""

    port: int
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    connections: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)  # a client went away


Answer = Callable[[Server, asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def saying(*pieces: bytes, close: bool = False) -> Answer:
    """Answers every request with ``pieces``, each written by itself."""

    async def answer(_server: Server, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if close:
            writer.close()

    return answer


@asynccontextmanager
async def serving(answer: Answer, port: int = 0) -> AsyncIterator[Server]:
    tasks: set[asyncio.Task[None]] = set()
    writers: set[asyncio.StreamWriter] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"
                ]
                body = await reader.readexactly(lengths[0]) if lengths else b""
                server.requests.append((head.split(b"\r\n")[0].decode(), body))
                server.asked.set()
                await answer(server, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            server.closed.set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        task = asyncio.get_running_loop().create_task(talk(reader, writer))
        tasks.add(task)

    listener = await asyncio.start_server(connected, "127.0.0.1", port)
    server = Server(port=listener.sockets[0].getsockname()[1])
    try:
        yield server
    finally:
        listener.close()
        for writer in writers:
            writer.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


@asynccontextmanager
async def engine_at(server: Server, *, timeout_sec: float = LONG_SEC) -> AsyncIterator[Engine]:
    engine = Engine(server.port, timeout_sec=timeout_sec)
    try:
        yield engine
    finally:
        await engine.close()


async def test_probes_share_one_connection() -> None:
    async with serving(saying(http(AVAILABLE))) as server, engine_at(server) as engine:
        for _ in range(5):
            assert await engine.probe(("m",)) == (Probe.available, "'m' is available")
        assert server.connections == 1
        assert server.requests == [("GET /v1/config HTTP/1.1", b"")] * 5


async def test_nobody_listens() -> None:
    async with serving(saying()) as server:
        port = server.port
    engine = Engine(port, timeout_sec=LONG_SEC)
    assert await engine.probe(("m",)) == (
        Probe.refused,
        f"nobody answers on port {port}: Connect call failed ('127.0.0.1', {port})",
    )
    assert (await engine.warm("m"))[0] is False


@pytest.mark.parametrize(
    ("pieces", "probe", "sentence"),
    [
        pytest.param((http(b"{}"),), Probe.loading, "'m' is not listed yet", id="nothing registered yet"),
        pytest.param(
            (http(AVAILABLE, headers="Connection: close\r\n"),),
            Probe.available,
            "'m' is available",
            id="closes after the answer",
        ),
        pytest.param(
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"%x\r\n" % len(AVAILABLE),
                AVAILABLE,
                b"\r\n0\r\n\r\n",
            ),
            Probe.available,
            "'m' is available",
            id="chunked",
        ),
        pytest.param(
            (http(AVAILABLE)[:20], http(AVAILABLE)[20:60], http(AVAILABLE)[60:]),
            Probe.available,
            "'m' is available",
            id="in pieces",
        ),
        pytest.param(
            (b"HTTP/1.1 100 Continue\r\n\r\n", http(AVAILABLE)),
            Probe.available,
            "'m' is available",
            id="an interim answer first",
        ),
        pytest.param(
            (http(b'{"error":"Server is not ready"}', status="503 Service Unavailable"),),
            Probe.nonsense,
            "GET /v1/config was answered with status 503: 'Server is not ready'",
            id="error with a reason",
        ),
        pytest.param(
            (http(b"<html>", status="404 Not Found"),),
            Probe.nonsense,
            "GET /v1/config was answered with status 404",
            id="another server",
        ),
        pytest.param(
            (http(b"", status="302 Found", headers="Location: /v1/config\r\n"),),
            Probe.nonsense,
            "GET /v1/config was answered with status 302",
            id="redirect is not followed",
        ),
        pytest.param((http(b"hello"),), Probe.nonsense, "the answer is not JSON", id="body is no JSON"),
        pytest.param(
            (b"220 mail.example ESMTP\r\n\r\n",), Probe.nonsense, "is not one", id="another protocol"
        ),
        pytest.param(
            (b"\x16\x03\x01" * 50 + b"\r\n\r\n",), Probe.nonsense, "is not one", id="bytes of another kind"
        ),
        pytest.param(
            (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",),
            Probe.nonsense,
            "is not one",
            id="length is not a number",
        ),
        pytest.param(
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",),
            Probe.nonsense,
            "is not one",
            id="two lengths",
        ),
        pytest.param(
            (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,), Probe.nonsense, "is not one", id="endless header"
        ),
        pytest.param(
            (http(b" " * (MAX_BYTES + 1)),), Probe.nonsense, "it has more than 1048576 bytes", id="huge body"
        ),
        pytest.param(
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                + b"10000\r\n"
                + b" " * 65536
                + b"\r\n",
                *[b"10000\r\n" + b" " * 65536 + b"\r\n"] * 20,
            ),
            Probe.nonsense,
            "it has more than",
            id="huge chunks",
        ),
    ],
)
async def test_whole_answers(pieces: tuple[bytes, ...], probe: Probe, sentence: str) -> None:
    async with serving(saying(*pieces)) as server, engine_at(server) as engine:
        for _ in range(2):  # what one answer leaves behind must not spoil the next
            verdict, said = await engine.probe(("m",))
            assert (verdict, sentence in said) == (probe, True), said


@pytest.mark.parametrize(
    ("pieces", "probe", "sentence"),
    [
        pytest.param((), Probe.refused, "the connection was closed without an answer", id="closes at once"),
        pytest.param((http(AVAILABLE)[:30],), Probe.nonsense, "is not one", id="half the head"),
        pytest.param((http(AVAILABLE)[:-10],), Probe.nonsense, "is not one", id="half the body"),
        pytest.param(
            (b"HTTP/1.0 200 OK\r\n\r\n" + AVAILABLE,),
            Probe.available,
            "'m' is available",
            id="the end is the end of the body",
        ),
    ],
)
async def test_cut_answers(pieces: tuple[bytes, ...], probe: Probe, sentence: str) -> None:
    async with serving(saying(*pieces, close=True)) as server, engine_at(server) as engine:
        for _ in range(2):
            verdict, said = await engine.probe(("m",))
            assert (verdict, sentence in said) == (probe, True), said


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((), id="no answer at all"),
        pytest.param((http(AVAILABLE)[:30],), id="half the head"),
        pytest.param((http(AVAILABLE)[:-1],), id="all but one byte"),
        pytest.param(
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",), id="a chunk that never comes"
        ),
        pytest.param((b"HTTP/1.1 100 Continue\r\n\r\n",), id="an interim answer only"),
    ],
)
async def test_what_does_not_end_is_silent_and_the_next_probe_starts_afresh(
    pieces: tuple[bytes, ...],
) -> None:
    async with serving(saying(*pieces)) as server, engine_at(server, timeout_sec=SHORT_SEC) as engine:
        for _ in range(2):
            assert await engine.probe(("m",)) == (
                Probe.silent,
                f"no answer on port {server.port} within 0.2 s",
            )
        assert server.connections == 2


async def test_slow_drops_do_not_extend_the_deadline() -> None:
    async def drip(_server: Server, writer: asyncio.StreamWriter) -> None:
        for byte in http(AVAILABLE):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)  # the slowness is what is tested

    async with serving(drip) as server, engine_at(server, timeout_sec=SHORT_SEC) as engine:
        assert (await engine.probe(("m",)))[0] is Probe.silent


async def test_a_length_shorter_than_the_body_does_not_shift_the_next_answer() -> None:
    async with serving(saying(http(b"{}") + AVAILABLE)) as server, engine_at(server) as engine:
        for _ in range(3):
            assert await engine.probe(("m",)) == (Probe.loading, "'m' is not listed yet")
        assert server.connections == 3


async def test_a_restarted_engine_is_asked_again_at_once() -> None:
    async with serving(saying(http(AVAILABLE))) as first:
        engine = Engine(first.port, timeout_sec=LONG_SEC)
        assert (await engine.probe(("m",)))[0] is Probe.available
    async with serving(saying(http(b"{}")), first.port) as second:
        assert await engine.probe(("m",)) == (Probe.loading, "'m' is not listed yet")
        assert len(second.requests) == 1
    assert (await engine.probe(("m",)))[0] is Probe.refused
    await engine.close()


async def test_a_kept_connection_that_is_closed_is_tried_once_more_only() -> None:
    answers = iter([http(AVAILABLE)])

    async def once(_server: Server, writer: asyncio.StreamWriter) -> None:
        piece = next(answers, b"")
        writer.write(piece)
        if not piece:
            writer.close()

    async with serving(once) as server, engine_at(server) as engine:
        assert (await engine.probe(("m",)))[0] is Probe.available
        assert (await engine.probe(("m",)))[0] is Probe.refused
        assert (server.connections, len(server.requests)) == (2, 3)


async def test_proxies_in_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(saying(http(AVAILABLE))) as server, engine_at(server) as engine:
        assert (await engine.probe(("m",)))[0] is Probe.available


def saying_by_path(ready: bytes) -> Answer:
    """Answers /v1/config with "available", and anything else with ``ready``."""

    async def answer(server: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(http(AVAILABLE) if " /v1/config " in server.requests[-1][0] else ready)
        await writer.drain()

    return answer


@pytest.mark.parametrize(
    ("ready", "probe", "sentence"),
    [
        pytest.param(http(b""), Probe.available, "'m' is available", id="ready"),
        pytest.param(
            http(b'{"error":"x"}', status="404 Not Found"), Probe.loading,
            "'a/Llama 3\\xe9' is listed as available, and is not ready: status 404: 'x'", id="still loading",
        ),
        pytest.param(
            http(b"", status="500 Internal Server Error"), Probe.loading,
            "'a/Llama 3\\xe9' is listed as available, and is not ready: status 500", id="failed",
        ),
        pytest.param(
            http(b"", status="400 Bad Request"), Probe.available, "'m' is available", id="knows no such path"
        ),
        pytest.param(b"nonsense\r\n\r\n", Probe.nonsense, "is not one", id="nonsense"),
        pytest.param(b"", Probe.silent, "no answer on port", id="no answer"),
    ],
)  # fmt: skip
async def test_a_model_is_asked_by_itself_with_its_name_encoded(
    ready: bytes, probe: Probe, sentence: str
) -> None:
    deadline_sec = LONG_SEC if ready else SHORT_SEC
    async with (
        serving(saying_by_path(ready)) as server,
        engine_at(server, timeout_sec=deadline_sec) as engine,
    ):
        found = await engine.probe(("m",), ready=("a/Llama 3é", "m"))
        assert (found[0], sentence in found[1]) == (probe, True)
        asked = [request for request, _ in server.requests]
        assert asked[:2] == ["GET /v1/config HTTP/1.1", "GET /v2/models/a%2FLlama%203%C3%A9/ready HTTP/1.1"]
        assert (len(asked) == 3) is (probe is Probe.available)


async def test_a_model_that_loads_is_not_asked_whether_it_is_ready() -> None:
    async with serving(saying(http(b"{}"))) as server, engine_at(server) as engine:
        assert (await engine.probe(("m",), ready=("m",)))[0] is Probe.loading
        assert len(server.requests) == 1


async def test_warming_generates_one_token_beyond_the_deadline_of_probes() -> None:
    generated = asyncio.Event()

    async def generate(_server: Server, writer: asyncio.StreamWriter) -> None:
        await generated.wait()
        writer.write(http(b'{"choices": []}'))

    async with serving(generate) as server, engine_at(server, timeout_sec=SHORT_SEC) as engine:
        warming = asyncio.create_task(engine.warm("m/x"))
        assert (await engine.probe(("m",)))[0] is Probe.silent  # a whole deadline passes meanwhile
        assert not warming.done()
        generated.set()
        assert await warming == (True, "'m/x' generated a token")
        line, body = next(request for request in server.requests if request[0].startswith("POST"))
        assert line == "POST /v3/completions HTTP/1.1"
        assert json.loads(body) == {"model": "m/x", "prompt": "Hello", "max_tokens": 1, "stream": False}


async def test_warming_falls_back_to_chat_where_completions_are_refused() -> None:
    async def chat_only(server: Server, writer: asyncio.StreamWriter) -> None:
        is_chat = "/v3/chat/completions" in server.requests[-1][0]
        writer.write(http(b"{}") if is_chat else http(b'{"error":"unsupported"}', status="400 Bad Request"))

    async with serving(chat_only) as server, engine_at(server) as engine:
        assert await engine.warm("m") == (True, "'m' generated a token")
        assert json.loads(server.requests[1][1])["messages"] == [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("pieces", "sentence"),
    [
        pytest.param(
            (http(b'{"error":"out of memory"}', status="500 Internal Server Error"),),
            "POST /v3/chat/completions was answered with status 500: 'out of memory'",
            id="refused",
        ),
        pytest.param((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",), "failed: peer closed", id="cut"),
        pytest.param((), "failed: the connection was closed without an answer", id="closed"),
    ],
)
async def test_warming_that_fails_says_why(pieces: tuple[bytes, ...], sentence: str) -> None:
    async with serving(saying(*pieces, close=True)) as server, engine_at(server) as engine:
        warm, said = await engine.warm("m")
        assert not warm
        assert sentence in said


async def test_cancelled_warming_closes_its_connection_so_that_the_engine_gives_up() -> None:
    async with serving(saying()) as server, engine_at(server) as engine:
        warming = asyncio.create_task(engine.warm("m"))
        async with asyncio.timeout(LONG_SEC):
            await server.asked.wait()
            warming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await warming
            await server.closed.wait()


async def test_cancelled_probe_leaves_no_half_read_connection_behind() -> None:
    answers = iter([b"", http(AVAILABLE), http(AVAILABLE)])

    async def answer(_server: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(next(answers))

    async with serving(answer) as server, engine_at(server) as engine:
        probing = asyncio.create_task(engine.probe(("m",)))
        async with asyncio.timeout(LONG_SEC):
            await server.asked.wait()
            probing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await probing
            await server.closed.wait()
        assert (await engine.probe(("m",)))[0] is Probe.available
        assert server.connections == 2
