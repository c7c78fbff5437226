# SPDX-License-Identifier: Apache-2.0
"""Clients of the control socket that want too much: each harms itself only."""

import asyncio
import contextlib
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from daemon_host import DaemonHost, running

from ovms_scaler.daemon.connections import Bounds
from ovms_scaler.daemon.control import MAX_REQUEST_BYTES, Control

NOBODY = 65534
LIMIT_SEC = 10
REQUEST = b"GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n"
# Opens so many connections as somebody else, asks on each, and tells how many were answered; then the same
# again after all were closed.
CROWD = """\
import os, socket, sys
path, uid, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(uid), os.setuid(uid)
for _ in range(2):
    clients = [socket.socket(socket.AF_UNIX) for _ in range(count)]
    answers = []
    for client in clients:
        client.settimeout(10)
        client.connect(path)
        try:
            client.sendall(b"GET /v1/status HTTP/1.1\\r\\nHost: agent\\r\\n\\r\\n")
            answers.append(client.recv(12))
        except ConnectionError:
            answers.append(b"")
    print(answers.count(b"HTTP/1.1 200"), flush=True)
    for client in clients:
        client.close()
    # Answered when the agent has taken in that they are closed.
    last = b""
    while not last:
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        try:
            client.sendall(b"GET /v1/status HTTP/1.0\\r\\n\\r\\n")
            last = client.recv(12)
        except ConnectionError:
            pass
        client.close()
"""


@contextlib.asynccontextmanager
async def served(host: DaemonHost, bounds: Bounds) -> AsyncIterator[Path]:
    host.configure()
    # pytest's own directories are closed to others.
    with tempfile.TemporaryDirectory(prefix="ovms-control-", dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        async with running(host) as run:
            control = Control(run.agent, Path(directory) / "control.sock", bounds)
            await control.open()
            try:
                yield Path(directory) / "control.sock"
            finally:
                await control.close()
        # aiohttp lingers for what is left of a body.
        lingering = {task for task in asyncio.all_tasks() if "RequestHandler" in repr(task.get_coro())}
        if lingering:
            await asyncio.wait(lingering, timeout=LIMIT_SEC)


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(b"GET\r\n\r\n", id="no HTTP"),
        pytest.param(b"GET / HTTP/9.9\r\n\r\n", id="no version"),
        pytest.param(b"A" * 100_000 + b"\r\n\r\n", id="a long line"),
        pytest.param(b"POST /v1/drain HTTP/1.1\r\nContent-Length: 9\r\n\r\n{", id="half a body"),
        pytest.param(b"POST /v1/drain HTTP/1.1\r\nContent-Length: 2\r\n\r\n\xff{", id="no text"),
        pytest.param(
            b"POST /v1/drain HTTP/1.1\r\nContent-Type: a/b; charset=x\r\nContent-Length: 2\r\n\r\n{}",
            id="an encoding that does not exist",
        ),
    ],
)
async def test_nothing_is_logged_of_a_bad_request(
    host: DaemonHost, part: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Everybody may send them, and would fill the log with what is no news."""
    async with served(host, Bounds()) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(part)
        writer.write_eof()
        async with asyncio.timeout(LIMIT_SEC):
            answer = await reader.read()
        writer.close()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
        assert await ask(path) == 200
    written = "".join(capfd.readouterr())
    assert "Traceback" not in written
    assert "control request failed" not in written


async def test_a_small_body_does_not_become_a_large_one(host: DaemonHost) -> None:
    body = gzip.compress(bytes(1 << 24))
    assert len(body) < MAX_REQUEST_BYTES
    head = f"POST /v1/drain HTTP/1.0\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    async with served(host, Bounds()) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(head.encode() + body)
        async with asyncio.timeout(LIMIT_SEC):
            answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.0 400")  # for a body that is larger it would be 413
    assert b"the body is not JSON" in answer


async def ask(path: Path) -> int:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(REQUEST.replace(b"1.1", b"1.0"))
        async with asyncio.timeout(LIMIT_SEC):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    assert json.loads(body)
    return int(head.split()[1])


def crowd(path: Path, count: int) -> list[int]:
    command = [sys.executable, "-c", CROWD, str(path), str(NOBODY), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * LIMIT_SEC, check=True)
    return [int(line) for line in done.stdout.split()]


async def test_one_user_has_so_many_connections_and_root_any_number(host: DaemonHost) -> None:
    async with served(host, Bounds(of_user=4)) as path:
        assert await asyncio.to_thread(crowd, path, 9) == [4, 4]
        if os.geteuid() == 0:
            clients = [await asyncio.open_unix_connection(path) for _ in range(9)]
            for reader, writer in clients:
                writer.write(REQUEST)
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            for _, writer in clients:
                writer.close()


async def test_all_users_together_leave_room_for_root(host: DaemonHost) -> None:
    async with served(host, Bounds(of_all=3)) as path:
        assert await asyncio.to_thread(crowd, path, 5) == [3, 3]
        if os.geteuid() == 0:
            assert await ask(path) == 200


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /v1/st", id="half a line"),
        pytest.param(b"POST /v1/drain HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{", id="half a body"),
        pytest.param(REQUEST, id="a request and nothing more"),
        pytest.param(REQUEST * 2000, id="requests whose answers are not read"),
    ],
)
async def test_whoever_stays_is_shown_out(host: DaemonHost, part: bytes) -> None:
    async with served(host, Bounds(lifetime_sec=0.2)) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(part)
            async with asyncio.timeout(LIMIT_SEC):
                with contextlib.suppress(ConnectionError):
                    await reader.read()
        finally:
            writer.close()
        assert await ask(path) == 200


@pytest.mark.parametrize(
    ("head", "more"),
    [
        pytest.param(b"GET /v1/status HTTP/1.1\r\n", b"x: y\r\n" * 1000, id="headers"),
        pytest.param(
            b"POST /v1/drain HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n", b"x" * 6000, id="a body"
        ),
        pytest.param(
            b"POST /v1/drain HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n" * 1000,
            id="chunks",
        ),
        pytest.param(b"", b"\r\n" * 3000, id="empty lines"),
    ],
)
async def test_whoever_never_ends_is_cut_off(host: DaemonHost, head: bytes, more: bytes) -> None:
    async with served(host, Bounds(bytes=100_000)) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(LIMIT_SEC):
                    writer.write(head)
                    while not reader.at_eof():
                        writer.write(more)
                        await writer.drain()
                        await asyncio.sleep(0)
        finally:
            writer.close()
        assert await ask(path) == 200
