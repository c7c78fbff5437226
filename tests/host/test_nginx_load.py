# SPDX-License-Identifier: Apache-2.0
"""Who gets how much of a real nginx: instances that join, clients that do not read, bodies that are huge."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from proxy_lab import (
    CHAT,
    Engine,
    Proxy,
    engines,
    free_port,
    member,
    proxy,
    render,
    send,
    upstream,
    wait_for_requests,
)

from ovms_scaler.core import nginx

PATH = "/v3/chat/completions"
FOUR = ("a-numa0", "a-numa1", "a-numa2", "a-numa3")
LARGE = 32 << 20
REQUEST = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (
    PATH.encode(),
    len(CHAT),
    CHAT,
)


async def _install(running: Proxy, port: int, planned: list[Engine], *members: nginx.Member) -> None:
    front = nginx.Front(listen=(f"127.0.0.1:{port}",), upstreams=(upstream("a", planned),))
    await running.nginx.install(render(running.directory, (front,), {"a": members}))


@contextlib.asynccontextmanager
async def _client_that_does_not_read(port: int) -> AsyncIterator[asyncio.StreamReader]:
    with socket.socket() as endpoint:
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        endpoint.settimeout(0)
        await asyncio.get_running_loop().sock_connect(endpoint, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=endpoint, limit=4096)
        writer.write(REQUEST)
        try:
            yield reader
        finally:
            writer.transport.abort()


async def test_instances_that_join_get_their_share_of_what_comes_and_open_answers_go_on() -> None:
    async with proxy() as running, engines(*FOUR) as four:
        port = free_port()
        old, new = four[:2], four[2:]
        await _install(running, port, four, *map(member, old))
        rest = asyncio.Event()
        for engine in four:
            engine.rest = rest
        async with asyncio.TaskGroup() as group:
            before = [group.create_task(send(port, PATH)) for _ in range(40)]
            await wait_for_requests(old, 40)
            await _install(running, port, four, *map(member, four))
            for engine in four:
                engine.requests.clear()
            after = [group.create_task(send(port, PATH)) for _ in range(40)]
            await wait_for_requests(four, 40)
            rest.set()
        # The reload has forgotten the open answers of all alike: who joins is not taken for the idlest.
        assert [len(engine.requests) for engine in four] == [10, 10, 10, 10]
        assert {task.result().body.decode() for task in before + after} == {old[0].text}
        assert {task.result().headers["x-ovms-instance"] for task in before} == set(FOUR[:2])
        assert {task.result().headers["x-ovms-instance"] for task in after} == set(FOUR)
        assert len(new) == 2


async def test_one_that_joins_with_a_smaller_weight_gets_that_much_less() -> None:
    async with proxy() as running, engines(*FOUR[:2]) as (old, new):
        port = free_port()
        await _install(running, port, [old, new], member(old, weight=4))
        await _install(running, port, [old, new], member(old, weight=4), member(new, weight=1))
        hold = old.hold = new.hold = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(40):
                group.create_task(send(port, PATH))
            await wait_for_requests([old, new], 40)
            hold.set()
        assert (len(old.requests), len(new.requests)) == (32, 8)


async def test_a_client_that_does_not_read_holds_up_nobody_and_gets_everything_later() -> None:
    async with proxy() as running, engines(FOUR[0]) as (only,):
        port = free_port()
        await _install(running, port, [only], member(only, max_conns=9))
        short, only.text = only.text, "x" * LARGE
        async with contextlib.AsyncExitStack() as stack:
            # More of them than nginx has workers, so that each worker has some.
            slow = [await stack.enter_async_context(_client_that_does_not_read(port)) for _ in range(8)]
            await wait_for_requests([only], 8)
            only.text = short
            # The ninth place is the only one that is left.
            for _ in range(20):
                answer = await send(port, PATH, to_end=True)
                assert (answer.status, answer.body.decode()) == (200, short)
            first = slow[0]
            async with asyncio.timeout(60):
                assert b" 200 " in await first.readuntil(b"\r\n\r\n")
                got = 0
                while piece := await first.read(1 << 20):
                    got += len(piece)
            assert got == LARGE


async def test_a_client_that_goes_away_without_reading_gives_its_place_back() -> None:
    async with proxy() as running, engines(FOUR[0]) as (only,):
        port = free_port()
        await _install(running, port, [only], member(only, max_conns=1))
        short, only.text = only.text, "x" * LARGE
        async with _client_that_does_not_read(port):
            await wait_for_requests([only], 1)
            only.text = short
            assert (await send(port, PATH)).status == 503
        async with asyncio.timeout(10):
            statuses = [503]
            while statuses[-1] == 503:
                statuses.append((await send(port, PATH)).status)
        assert statuses[-1] == 200


async def test_huge_bodies_that_arrive_slowly_hold_no_instance() -> None:
    async with proxy() as running, engines(FOUR[0]) as (only,):
        port = free_port()
        await _install(running, port, [only], member(only, max_conns=1))
        head = REQUEST.removesuffix(CHAT).replace(b"Length: %d" % len(CHAT), b"Length: %d" % (8 << 20))
        uploads = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        for _, writer in uploads:
            writer.write(head + b"y" * (4 << 20))
            await writer.drain()
        for _ in range(10):
            assert (await send(port, PATH, to_end=True)).status == 200
        reader, writer = uploads[0]
        writer.write(b"y" * (4 << 20))
        assert b" 200 " in await reader.readline()
        assert only.bodies[-1] == b"y" * (8 << 20)
        for _, writer in uploads:
            writer.transport.abort()
