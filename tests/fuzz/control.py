# SPDX-License-Identifier: Apache-2.0
"""Requests to the control socket of an agent that runs."""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from daemon_host import daemon_host, running
from hypothesis import strategies as st
from structlog.testing import capture_logs

from fuzz.driver import ODD, Target, damaged
from fuzz.specs import ANYTHING, HOSTILE
from ovms_scaler.daemon.control import Control
from ovms_scaler.daemon.events import Events

LIMIT_SEC = 30
VERBS = (
    "status", "events?since=1&limit=2", "events?since=nan", "reload", "drain", "undrain", "restart", "reset",
    "pause", "resume", "x", "../status", "",
)  # fmt: skip


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    """A whole agent on a host below a directory; each input is what one client sends, and is answered."""
    with (
        tempfile.TemporaryDirectory(prefix="ovms-fuzz-", dir="/tmp") as made,
        asyncio.Runner() as runner,
        contextlib.ExitStack() as last,
    ):
        stack = contextlib.AsyncExitStack()
        last.callback(lambda: runner.run(stack.aclose()))
        said = last.enter_context(capture_logs())
        path = runner.run(_start(stack, Path(made)))

        def check(data: bytes) -> None:
            runner.run(_exchange(path, data))
            failures = [entry for entry in said if entry["event"] == "control request failed"]
            assert not failures, failures
            said.clear()

        yield check


async def _start(stack: contextlib.AsyncExitStack, root: Path) -> Path:
    host = await stack.enter_async_context(daemon_host(root))
    host.configure()
    run = await stack.enter_async_context(running(host))
    control = Control(run.agent, root / "control.sock", answers={"events": Events().answer})
    await control.open()
    stack.push_async_callback(control.close)
    return root / "control.sock"


async def _exchange(path: Path, data: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    answer = b""
    try:
        async with asyncio.timeout(LIMIT_SEC):
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                await writer.drain()
                writer.write_eof()
                answer = await reader.read()
    finally:
        writer.close()
    _check(answer)
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(b"GET /v1/status HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(LIMIT_SEC):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    assert head.startswith(b"HTTP/1.0 200"), head
    assert "instances" in json.loads(body)


def _check(answer: bytes) -> None:
    for part in answer.split(b"HTTP/1.")[1:]:
        status = int(part[2:5])
        assert status == 100 or status == 200 or 400 <= status < 500, answer[:500]


def _request(verb: str, method: str, version: str, head: str, body: bytes, length: int) -> bytes:
    line = f"{method} /v1/{verb} HTTP/{version}\r\n{head}Content-Length: {len(body) + length}\r\n\r\n"
    return line.encode("utf-8", "replace") + body


ORDERS = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.one_of(st.sampled_from(("chat", "chat-numa0")), ANYTHING),
            "allow_outage": st.one_of(st.booleans(), ANYTHING),
            "rolling": st.one_of(st.booleans(), ANYTHING),
        },
    ),
    ANYTHING,
).map(lambda value: json.dumps(value).encode())
REQUESTS = st.builds(
    _request,
    st.one_of(st.sampled_from(VERBS), HOSTILE, st.just("reload?allow_outage=1"),
    st.just("reload?allow_outage=%00")),
    st.sampled_from(("GET", "POST", "HEAD", "DELETE", "OPTIONS", "post")),
    st.sampled_from(("1.1", "1.0", "1.2", "2")),
    st.sampled_from(
        ("Host: a\r\n", "", "Expect: 100-continue\r\n", "Transfer-Encoding: chunked\r\n",
        "Content-Encoding: gzip\r\n",
         "Content-Type: a; charset=x\r\n", "Connection: upgrade\r\nUpgrade: websocket\r\n",
         "Cookie: \x00\r\n")
    ),
    st.one_of(ORDERS, ODD),
    st.sampled_from((0, 0, 0, 1, -1)),
)  # fmt: skip
WHOLE = (
    b'POST /v1/drain HTTP/1.1\r\nHost: a\r\nContent-Length: 16\r\n\r\n{"name": "chat"}',
    b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/status HTTP/1.0\r\n\r\n",
    b"POST /v1/reset HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n"
    + b'{"name": "chat"}\r\n0\r\n\r\n',
)


def open_control() -> Target:
    return Target(
        name="control",
        about="requests to the control socket",
        inputs=st.one_of(
            REQUESTS, st.lists(REQUESTS, max_size=3).map(b"".join), damaged(WHOLE), st.binary(max_size=60)
        ),
        open=_open,
    )
