# SPDX-License-Identifier: Apache-2.0
"""What the real nginx writes to the agent's socket, and that nobody waits for who should read it."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from proxy_lab import NOBODY, Engine, Proxy, engines, free_port, member, proxy, render, send, upstream

from ovms_scaler.core import nginx
from ovms_scaler.core.record import parse_datagram
from ovms_scaler.errors import HostError
from ovms_scaler.host import access_log
from ovms_scaler.host.access_log import AccessLog

PATH = "/v3/completions"
LIMIT_SEC = 10
QUEUE = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())


@dataclass(kw_only=True)
class Front:
    """Two engines behind a running proxy."""

    proxy: Proxy
    port: int
    engines: list[Engine]
    got: list[bytes] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def socket(self) -> Path:
        return self.proxy.directory / "access/log.sock"

    def open(self) -> AccessLog:
        return AccessLog(self.socket, self.take)

    def take(self, data: bytes) -> None:
        self.got.append(data)
        self.came.set()

    async def ask(self, *, method: str = "POST", path: str = PATH) -> int:
        return (await send(self.port, path, method=method, to_end=True)).status

    async def ask_until_told(self) -> list[bytes]:
        """Requests until one of them is told of; a proxy that lost its reader loses one datagram, too."""
        before = len(self.got)
        for _ in range(20):
            await self.ask()
        await self.wait_for(before + 1)
        return self.got[before:]

    async def take_out_of_rotation(self) -> None:
        """All of the engines."""
        await self.proxy.nginx.install(self.render(members=()))

    def render(self, members: tuple[nginx.Member, ...]) -> nginx.ProxyFiles:
        listen = nginx.Front(listen=(f"127.0.0.1:{self.port}",), upstreams=(upstream("chat", self.engines),))
        return render(self.proxy.directory, (listen,), {"chat": members})

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(LIMIT_SEC):
            while len(self.got) < count:
                self.came.clear()
                await self.came.wait()


@pytest_asyncio.fixture
async def front() -> AsyncIterator[Front]:
    async with proxy() as running, engines("chat-numa0", "chat-numa1") as both:
        front = Front(proxy=running, port=free_port(), engines=both)
        directory = running.directory / "access"
        directory.mkdir()
        if os.geteuid() == 0:
            os.chown(directory, 0, NOBODY)
        directory.chmod(0o2750)
        await running.nginx.install(front.render(tuple(member(engine) for engine in both)))
        yield front


async def test_every_request_to_infer_is_told(front: Front) -> None:
    log = front.open()
    front.engines[0].status = 400
    try:
        statuses = [await front.ask() for _ in range(6)]
        assert await front.ask(method="GET", path="/v1/config") in (200, 400)
        await front.ask()
        await front.wait_for(7)
        answers = [parse_datagram(data) for data in front.got]
        ports = {engine.port: engine.status for engine in front.engines}
        for answer in answers:
            assert answer is not None
            ((port, status),) = answer.tries
            assert (answer.client, ports[port]) == ("127.0.0.1", status)
            assert (answer.status, answer.is_rejected, answer.is_complete) == (status, False, True)
            assert answer.ttfb_sec is not None
            assert answer.header_sec == (answer.ttfb_sec,)
        told = sorted(answer.tries[0][1] for answer in answers[:6] if answer is not None)
        assert told == sorted(statuses)
        assert len(front.got) == 7
    finally:
        log.close()


async def test_each_try_is_told(front: Front) -> None:
    log = front.open()
    front.engines[0].is_crashing = True
    try:
        for _ in range(2):
            assert await front.ask() == 200
        await front.wait_for(2)
        tries = [answer.tries for data in front.got if (answer := parse_datagram(data)) is not None]
        one, two = (engine.port for engine in front.engines)
        assert ((one, 502), (two, 200)) in tries
        (retried,) = (
            answer for data in front.got if (answer := parse_datagram(data)) and len(answer.tries) > 1
        )
        assert retried.header_sec[0] is None
        assert retried.header_sec[1] is not None
        assert retried.ttfb_sec is not None
        assert retried.ttfb_sec >= retried.header_sec[1]
    finally:
        log.close()


async def test_who_is_turned_away_is_told_as_such(front: Front) -> None:
    log = front.open()
    try:
        await front.take_out_of_rotation()
        assert await front.ask() == 503
        await front.wait_for(1)
        answer = parse_datagram(front.got[-1])
        assert answer is not None
        assert (answer.status, answer.is_rejected, answer.tries) == (503, True, ())
    finally:
        log.close()


async def test_an_engine_s_own_503_is_no_rejection(front: Front) -> None:
    log = front.open()
    for engine in front.engines:
        engine.status = 503
    try:
        assert await front.ask() == 503
        await front.wait_for(1)
        answer = parse_datagram(front.got[-1])
        assert answer is not None
        assert (answer.status, answer.is_rejected) == (503, False)
        assert [status for _, status in answer.tries] == [503]
    finally:
        log.close()


async def test_a_reader_that_stands_still_holds_up_nobody(front: Front) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as still:
        still.bind(str(front.socket))
        front.socket.chmod(0o766)
        # More than the queue of the socket holds (net.unix.max_dgram_qlen).
        for _ in range(QUEUE + 20):
            assert await front.ask() == 200
    assert (front.proxy.directory / "stderr.log").read_text() == ""


async def test_without_a_reader_requests_go_on_and_no_line_is_written(front: Front) -> None:
    assert await front.ask() == 200
    log = front.open()
    for _ in range(20):
        await front.ask()
    await front.wait_for(20)  # one that nginx is about to tell of would find the reader gone
    log.close()
    assert not front.socket.exists()
    for _ in range(20):
        assert await front.ask() == 200
    assert (front.proxy.directory / "stderr.log").read_text() == ""


async def test_a_reader_that_died_and_comes_back_is_told_again(front: Front) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(front.socket))
        front.socket.chmod(0o766)
        assert await front.ask() == 200
    for _ in range(5):
        assert await front.ask() == 200
    log = front.open()
    try:
        assert await front.ask_until_told()
    finally:
        log.close()


async def test_only_the_owner_and_the_group_of_the_directory_may_write(front: Front) -> None:
    log = front.open()
    try:
        seen, directory = front.socket.stat(), front.socket.parent.stat()
        assert (seen.st_mode & 0o777, seen.st_gid) == (0o720, directory.st_gid)
    finally:
        log.close()


async def test_a_flood_is_read_turn_by_turn(tmp_path: Path) -> None:
    got: list[int] = []
    last = asyncio.Event()

    def take(data: bytes) -> None:
        got.append(len(data))
        if data == b"last":
            last.set()

    log = AccessLog(tmp_path / "a.sock", take)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
            writer.settimeout(0)
            writer.connect(str(tmp_path / "a.sock"))
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(LIMIT_SEC):
                for number in range(1000):
                    await loop.sock_sendall(writer, b"x" * (20_000 if number % 100 == 0 else 1))
                await loop.sock_sendall(writer, b"last")
                await last.wait()
        assert (len(got), max(got)) == (1001, 8192)
    finally:
        log.close()


@contextlib.contextmanager
def writing(root: Path, take: Callable[[bytes], None], *, queue: str = "512\n") -> Iterator[socket.socket]:
    """Somebody who writes to an AccessLog where the kernel's queues have that length."""
    file = root / "proc/sys/net/unix/max_dgram_qlen"
    file.parent.mkdir(parents=True)
    file.write_text(queue)
    log = AccessLog(root / "a.sock", take, root=root)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as writer:
            writer.connect(str(root / "a.sock"))
            yield writer
    finally:
        log.close()


async def next_of(got: asyncio.Queue[bytes]) -> bytes:
    async with asyncio.timeout(LIMIT_SEC):
        return await got.get()


@pytest.mark.parametrize(
    ("queue", "is_paused"), [("512\n", True), ("10\n", False), ("many", False)], ids=["512", "10", "unknown"]
)
async def test_pauses_are_made_where_the_queue_is_long_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, queue: str, is_paused: bool
) -> None:
    monkeypatch.setattr(access_log, "_PAUSE_SEC", 1000.0)
    got: asyncio.Queue[bytes] = asyncio.Queue()
    with writing(tmp_path, got.put_nowait, queue=queue) as writer:
        writer.send(b"one")
        assert await next_of(got) == b"one"
        writer.send(b"two")
        for _ in range(10):
            await asyncio.sleep(0)  # turns of the event loop, which takes what it may
        assert got.empty() is is_paused


async def test_what_comes_in_a_pause_and_after_it_is_taken(tmp_path: Path) -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()
    with writing(tmp_path, got.put_nowait) as writer:
        for _ in range(3):
            writer.send(b"alone")
            assert await next_of(got) == b"alone"
            writer.send(b"one")
            writer.send(b"two")
            assert [await next_of(got), await next_of(got)] == [b"one", b"two"]


async def test_a_reader_that_fails_over_one_goes_on_with_the_next(tmp_path: Path) -> None:
    failures: asyncio.Queue[str] = asyncio.Queue()
    got: asyncio.Queue[bytes] = asyncio.Queue()

    def take(data: bytes) -> None:
        if data == b"bad":
            raise ValueError("not to be had")
        got.put_nowait(data)

    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: failures.put_nowait(str(context["exception"]))
    )
    with writing(tmp_path, take) as writer:
        writer.send(b"bad")
        writer.send(b"good")
        assert await next_of(got) == b"good"
    assert [failures.get_nowait(), failures.empty()] == ["not to be had", True]


async def test_a_socket_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot listen on .*/missing/a\.sock: No such file") as caught:
        AccessLog(tmp_path / "missing/a.sock", lambda _: None)
    assert caught.value.hint
