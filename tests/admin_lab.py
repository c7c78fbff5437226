# SPDX-License-Identifier: Apache-2.0
"""The admin listener for tests: an agent's worth of pages on a free port, and who asks for them."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email.message import Message
from email.parser import Parser

from daemon_host import LIMIT_SEC
from proxy_lab import free_port

from ovms_scaler.core.status import Document
from ovms_scaler.daemon.admin import BOUNDS, Admin
from ovms_scaler.daemon.admin_pages import PAGE_SEC, Sources, make_application
from ovms_scaler.daemon.connections import Bounds
from ovms_scaler.daemon.events import Events

POLL_SEC = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What somebody got."""

    status: int
    headers: Message
    body: str


async def ask(
    port: int, target: str = "/", *, method: str = "GET", host: str = "localhost", more: str = ""
) -> Answer:
    """One request on a connection of its own, read to its end."""
    return await send(port, f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode())


async def send(port: int, data: bytes, *, address: str = "127.0.0.1") -> Answer:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(data)
        async with asyncio.timeout(LIMIT_SEC):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    first, _, headers = head.decode().partition("\r\n")
    return Answer(status=int(first.split()[1]), headers=Parser().parsestr(headers), body=body.decode())


async def metrics_of(_accept: str) -> tuple[bytes, str]:
    return b"ovms_scaler_problems 0.0\n", "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True, kw_only=True)
class Shown:
    """The documents that are shown, each as the test likes it."""

    status: Document = field(default_factory=lambda: {"instances": []})
    measures: Document = field(default_factory=lambda: {"front": {}})
    topology: Document = field(default_factory=lambda: {"nodes": []})
    events: Events = field(default_factory=Events)
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]] = metrics_of
    machine: Callable[[], Awaitable[Document]] | None = None  # in place of ``topology``
    page_sec: float = PAGE_SEC
    rendered: list[str] = field(default_factory=list)

    def render(self, what: str, overview: Document) -> str:
        self.rendered.append(what)
        return f"<p>{overview['host']}</p>" if what == "page" else f"<p>{sorted(overview)}</p>"

    def sources(self) -> Sources:
        async def measures() -> Document:
            return self.measures

        async def topology() -> Document:
            return self.topology

        return Sources(
            status=lambda: self.status,
            measures=measures,
            events=self.events,
            topology=self.machine or topology,
            metrics=lambda accept: self.metrics(accept),
            page=lambda overview: self.render("page", overview),
            fragment=lambda overview: self.render("fragment", overview),
            page_policy="default-src 'none'; style-src 'self'",
        )


@contextlib.asynccontextmanager
async def admin_open(admin: Admin, shown: Shown) -> AsyncIterator[Admin]:
    await admin.open(make_application(shown.sources(), page_sec=shown.page_sec))
    try:
        yield admin
    finally:
        await admin.close()


@contextlib.asynccontextmanager
async def listening(shown: Shown | None = None, bounds: Bounds = BOUNDS) -> AsyncIterator[int]:
    """The port where it is shown."""
    port = free_port()
    admin = Admin(bounds)
    admin.want(f"127.0.0.1:{port}")
    async with admin_open(admin, shown or Shown()):
        await until(lambda: is_open(port))
        yield port


def is_open(port: int, address: str = "127.0.0.1") -> bool:
    """Whether somebody listens."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        return probe.connect_ex((address, port)) == 0


async def until(holds: Callable[[], bool]) -> None:
    """Return when it holds; the loop goes on meanwhile."""
    for _ in range(int(LIMIT_SEC / POLL_SEC)):
        if holds():
            return
        await asyncio.sleep(POLL_SEC)
    raise TimeoutError(f"not so within {LIMIT_SEC:g} s")


def header(answer: Answer, name: str) -> str:
    return str(answer.headers.get(name, ""))
