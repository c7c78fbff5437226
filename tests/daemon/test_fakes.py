# SPDX-License-Identifier: Apache-2.0
"""The fakes keep the contracts that the real adapters keep."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from contract_engine import EngineBench, EngineContract
from contract_proxy import UNUSABLE, ProxyBench, ProxyContract
from fakes.engines import FakeEngine, FakeEngines
from fakes.proxy import FakeProxy
from proxy_lab import free_port, proxy

from ovms_scaler.host.ovms import Engine

PROBE_SEC = 0.2


class TestFakeEngine(EngineContract):
    @pytest.fixture
    async def bench(self) -> EngineBench:
        engines = FakeEngines()
        return EngineBench(client=engines.connect(8003, PROBE_SEC), engine=engines[8003])


class Server:
    """A small HTTP server on a port that answers as a FakeEngine says."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.writers: set[asyncio.StreamWriter] = set()

    def abort(self) -> None:
        for writer in tuple(self.writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while self.engine.body is not None and await self.answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.writers.discard(writer)
            writer.transport.abort()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = [line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length")]
        body = await reader.readexactly(int(length[0])) if length else b""
        if self.engine.body is None:
            return False
        if self.engine.is_silent:
            await reader.read()
            return False
        status, text = 200, self.engine.body
        if head.startswith("post"):
            await self.engine.note_warm("org/tiny" if b'"org/tiny"' in body else "")
            if self.engine.hold is not None:
                await self.engine.hold.wait()
            status, text = (200 if self.engine.warms[0] else 400), b"{}"
        elif head.startswith("get /metrics"):
            counters = self.engine.counters
            status = 200 if self.engine.has_metrics else 400
            text = b'ovms_current_graphs{} %d\novms_responses{} %d\novms_graph_error{} %d\n' % (
                counters.graphs, counters.responses, counters.errors,
            )  # fmt: skip
        elif head.startswith("get /v2/models/"):
            name = unquote(head.split()[1].split("/")[3])
            status, text = 404 if name in self.engine.unready else 200, b""
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), text))
        await writer.drain()
        return True


class TestRealEngineClient(EngineContract):
    @pytest.fixture
    async def bench(self) -> AsyncIterator[EngineBench]:
        serving = Server(FakeEngine())
        server = await asyncio.start_server(serving.serve, "127.0.0.1", 0)
        client = Engine(server.sockets[0].getsockname()[1], timeout_sec=PROBE_SEC)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(server.wait_closed)
            stack.callback(serving.abort)
            stack.callback(server.close)
            stack.push_async_callback(client.close)
            yield EngineBench(client=client, engine=serving.engine)


class TestFakeProxy(ProxyContract):
    @pytest.fixture
    async def bench(self, tmp_path: Path) -> ProxyBench:
        return ProxyBench(proxy=FakeProxy(refuses=UNUSABLE), directory=tmp_path, port=8000)


class TestRealProxy(ProxyContract):
    @pytest.fixture
    async def bench(self) -> AsyncIterator[ProxyBench]:
        async with proxy() as running:
            yield ProxyBench(proxy=running.nginx, directory=running.directory, port=free_port())
