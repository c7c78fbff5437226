# SPDX-License-Identifier: Apache-2.0
"""Workers of a real nginx after a reload: who is seen to leave, and what is said of those that are cut."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest_asyncio
from proxy_lab import (
    CHAT,
    NOBODY,
    Engine,
    Proxy,
    engines,
    free_port,
    member,
    proxy,
    render,
    upstream,
    wait_for_requests,
)

from ovms_scaler.core import nginx
from ovms_scaler.core.cuts import Cuts
from ovms_scaler.host.access_log import AccessLog
from ovms_scaler.host.proxy_unit import PROXY_UNIT
from ovms_scaler.host.proxy_workers import read_leaving_workers

LIMIT_SEC = 20
REQUEST = b"POST /v3/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(CHAT), CHAT)


@dataclass(kw_only=True)
class Front:
    """Two engines whose answers begin and do not end; ``root`` has the processes of the running proxy."""

    proxy: Proxy
    port: int
    engines: list[Engine]
    root: Path
    cuts: Cuts = field(default_factory=Cuts)
    told: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def install(self, *members: Engine, shutdown_timeout_sec: int = 3600) -> None:
        front = nginx.Front(listen=(f"127.0.0.1:{self.port}",), upstreams=(upstream("chat", self.engines),))
        files = render(
            self.proxy.directory,
            (front,),
            {"chat": tuple(map(member, members))},
            shutdown_timeout_sec=shutdown_timeout_sec,
        )
        await self.proxy.nginx.install(files)

    def take(self, data: bytes) -> None:
        self.cuts.note(data)
        self.told += 1
        self.came.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(LIMIT_SEC):
            while self.told < count:
                self.came.clear()
                await self.came.wait()

    def workers(self) -> list[int]:
        assert self.proxy.process is not None
        pid = self.proxy.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def leaving(self) -> frozenset[int]:
        """As from the control group of the proxy's unit, which is not there in tests."""
        group = self.root / "sys/fs/cgroup/system.slice" / PROXY_UNIT / "cgroup.procs"
        group.parent.mkdir(parents=True, exist_ok=True)
        group.write_text("".join(f"{pid}\n" for pid in (os.getpid(), *self.workers(), 4194304)))
        return read_leaving_workers(PROXY_UNIT, self.root)

    async def ask(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(REQUEST)
        return reader, writer

    async def begin(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A request whose answer has begun."""
        reader, writer = await self.ask()
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        return reader, writer


@pytest_asyncio.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with proxy() as running, engines("chat-numa0", "chat-numa1") as both:
        for engine in both:
            engine.rest = asyncio.Event()
        directory = running.directory / "access"
        directory.mkdir()
        if os.geteuid() == 0:
            os.chown(directory, 0, NOBODY)
        directory.chmod(0o2750)
        (tmp_path / "proc").symlink_to("/proc")
        made = Front(proxy=running, port=free_port(), engines=both, root=tmp_path)
        log = AccessLog(directory / "log.sock", made.take)
        try:
            yield made
        finally:
            log.close()
            for writer in made.writers:
                writer.close()


async def test_workers_with_open_answers_leave_and_the_others_are_gone(front: Front) -> None:
    first, second = front.engines
    await front.install(first)
    assert front.leaving() == frozenset()
    reader, writer = await front.begin()
    await front.install(first, second)
    (leaving,) = front.leaving()
    await front.install(second)
    assert front.leaving() == {leaving}  # those in between had nothing to do
    assert first.rest is not None
    first.rest.set()
    assert await reader.readexactly(len(first.text)) == first.text.encode()
    writer.close()
    await front.wait_for(1)
    front.cuts.expect(front.leaving(), cap_sec=0)
    assert front.cuts.count == 0


async def test_without_a_control_group_no_worker_is_seen(front: Front) -> None:
    assert read_leaving_workers(PROXY_UNIT, front.root) == frozenset()


async def test_what_is_cut_at_the_cap_is_counted_and_a_client_that_left_is_not(front: Front) -> None:
    first, second = front.engines
    await front.install(first, shutdown_timeout_sec=3)
    front.cuts.expect(front.workers(), cap_sec=3)  # those that will be leaving
    _, left = await front.begin()
    left.close()
    await front.wait_for(1)
    streamed, _ = await front.begin()
    first.hold = asyncio.Event()
    first.requests.clear()
    unary, _ = await front.ask()
    await wait_for_requests([first], 1)
    await front.install(second, shutdown_timeout_sec=3)
    async with asyncio.timeout(LIMIT_SEC):
        # The first piece had come; of the other request there was nothing to send yet, not even an error.
        assert await streamed.read() == first.text[:1].encode()
        assert await unary.read() == b""
    await front.wait_for(3)
    assert front.cuts.count == 2
