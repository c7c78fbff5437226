# SPDX-License-Identifier: Apache-2.0
"""A front that answers as a test scripts it, and outcomes made by hand."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from ovms_scaler.bench.client import Endpoint
from ovms_scaler.bench.lengths import parse_lengths
from ovms_scaler.bench.load import Load
from ovms_scaler.bench.outcome import Outcome
from ovms_scaler.bench.run import Run

MODEL = "org/tiny"
STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-OVMS-Instance: chat-numa0\r\n"
CHUNKED = STREAM + "Transfer-Encoding: chunked\r\n\r\n"

Script = Callable[["Caller"], Awaitable[None]]


def event(document: object) -> bytes:
    return f"data: {document if isinstance(document, str) else json.dumps(document)}\n\n".encode()


def text(content: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": content}}]})


def usage(asked: int, generated: int) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": asked, "completion_tokens": generated}})


DONE = event("[DONE]")


@dataclass(slots=True, kw_only=True)
class Caller:
    """One request, and the way to answer it."""

    number: int
    body: dict[str, Any]
    writer: asyncio.StreamWriter

    async def send(self, data: str | bytes) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def answer(self, *events: bytes) -> None:
        """A whole stream."""
        await self.send(CHUNKED)
        for one in events:
            await self.chunk(one)
        await self.send("0\r\n\r\n")

    async def tell(self, status: int, document: object, content_type: str = "application/json") -> None:
        body = document if isinstance(document, str) else json.dumps(document)
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        await self.send(head + body)

    def reset(self) -> None:
        """End it as a process does that is killed: RST, not FIN."""
        socket = self.writer.get_extra_info("socket")
        socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def good(caller: Caller) -> None:
    """Two tokens in two events."""
    await caller.answer(text("one "), text("two"), usage(7, 2), DONE)


@dataclass(slots=True, kw_only=True)
class Front:
    """What listens; ``script`` answers chat completions from now on, ``gets`` other paths."""

    port: int = 0
    script: Script = good
    gets: dict[str, tuple[int, object]] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v3"

    def endpoint(self, **changes: Any) -> Endpoint:
        usual: dict[str, Any] = {"url": self.url, "model": MODEL, "timeout_sec": 10.0}
        return Endpoint(**usual | changes)


@asynccontextmanager
async def serving() -> AsyncIterator[Front]:
    """A front on a port of its own."""
    models = {"data": [{"id": MODEL}], "object": "list"}
    front = Front(gets={"/v3/models": (200, models), "/v2": (200, {"name": "Engine", "version": "1"})})
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await _converse(front, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # a client that went away, or the end of the test
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1024)
    front.port = server.sockets[0].getsockname()[1]
    try:
        yield front
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _converse(front: Front, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    method, path, _ = head.split(" ", 2)
    lengths = [line for line in head.splitlines() if line.lower().startswith("content-length:")]
    body = await reader.readexactly(int(lengths[0].split(":")[1])) if lengths else b"{}"
    caller = Caller(number=len(front.bodies), body=json.loads(body), writer=writer)
    if method == "GET":
        await caller.tell(*front.gets.get(path, (404, {"error": "no such path"})))
        return
    front.bodies.append(caller.body)
    await front.script(caller)


def load(**changes: Any) -> Load:
    """A small load of a closed loop."""
    usual: dict[str, Any] = {
        "num_prompts": 10,
        "request_rate": None,
        "max_concurrency": 4,
        "seed": 0,
        "input_len": parse_lengths("5"),
        "output_len": parse_lengths("2"),
    }
    return Load(**usual | changes)


def outcome(number: int = 0, **changes: Any) -> Outcome:
    """A request that was due at 1, sent then, and had five tokens from 1.5 to 2.5, and its end at 3."""
    usual: dict[str, Any] = {
        "id": number,
        "due_sec": 1.0,
        "sent_sec": 1.0,
        "end_sec": 3.0,
        "first_sec": 1.5,
        "last_sec": 2.5,
        "gaps_us": (250_000,) * 4,
        "input_tokens": 10,
        "generated_tokens": 5,
        "instance": "chat-numa0",
    }
    return Outcome(**usual | changes)


def run(*outcomes: Outcome, duration_sec: float = 10.0, **changes: Any) -> Run:
    usual: dict[str, Any] = {"workers": (), "began_at": 1000.0}
    return Run(outcomes=outcomes, duration_sec=duration_sec, **usual | changes)
