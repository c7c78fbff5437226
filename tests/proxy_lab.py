# SPDX-License-Identifier: Apache-2.0
"""A real nginx run from rendered files, engines that record what they get, a client that sends raw bytes."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ovms_scaler.core import nginx
from ovms_scaler.core.credentials import OPEN, Access
from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.host.nginx import CHECK_UNIT, Nginx
from ovms_scaler.host.proxy_unit import PROXY_UNIT

NGINX = "/usr/sbin/nginx"
RELOAD_PROXY = Path(__file__).parents[1] / "packaging" / "reload-proxy"
NOBODY = 65534
# As root, nginx runs as nobody: the files it leaves and may write are then those of an unprivileged proxy.
_USER = NOBODY if os.geteuid() == 0 else None
CHAT = b'{"messages": []}'


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error_code(self) -> str:
        code: str = json.loads(self.body)["error"]["code"]
        return code


async def send(
    port: int,
    target: str,
    *,
    method: str = "POST",
    body: bytes = CHAT,
    headers: str = "",
    host: str = "127.0.0.1",
    to_end: bool = False,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """One request with its target byte for byte as given."""
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}"
        "Connection: close\r\n\r\n"
    )
    return await send_raw(port, head.encode("latin-1") + body, host=host, to_end=to_end, tls=tls)


async def send_raw(
    port: int,
    request: bytes,
    *,
    host: str = "127.0.0.1",
    to_end: bool = False,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """The answer to ``request``; ``to_end`` waits until nginx has closed the connection, too."""
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            length = parse_answer(head).headers.get("content-length")
            # Not to its end when the length is known: nginx lingers for the rest of a body that it refused.
            to_end = to_end or length is None
            body = await (reader.read() if to_end else reader.readexactly(int(length or 0)))
    finally:
        writer.close()
    return parse_answer(head + body)


def parse_answer(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("transfer-encoding") == "chunked":
        chunks, rest = [], body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            chunks.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        body = b"".join(chunks)
    return Answer(int(lines[0].split()[1]), headers, body)


@dataclass
class Engine:
    """Answers every request in the way ``behave`` says and records the request lines and bodies."""

    instance: str
    port: int = 0
    status: int = 200
    text: str = '{"from": "engine"}'
    is_crashing: bool = False
    hold: asyncio.Event | None = None
    rest: asyncio.Event | None = None  # answers begin at once and end when it is set
    requests: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 26)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in tuple(self._writers):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._answer(reader, writer):
                pass
        self._writers.discard(writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        length = next(
            (int(line.split(":")[1]) for line in head if line.lower().startswith("content-length")), 0
        )
        self.bodies.append(await reader.readexactly(length))
        self.requests.append(head[0].removesuffix(" HTTP/1.1"))
        self.arrived.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.is_crashing:
            writer.transport.abort()
            return False
        body = self.text.encode()
        headers = f"Content-Length: {len(body)}\r\nX-OVMS-Instance: forged\r\n\r\n"
        writer.write(f"HTTP/1.1 {self.status} X\r\n{headers}".encode() + body[:1])
        if self.rest is not None:
            await self.rest.wait()
        writer.write(body[1:])
        await writer.drain()
        return "Connection: close" not in head


class Proxy:
    """nginx and its directory; stands for systemd where host/nginx.py asks for jobs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.jobs: list[str] = []
        self.process: asyncio.subprocess.Process | None = None
        self.during_check: Callable[[], None] = lambda: None
        self.reloading: list[Callable[[], None]] = []  # a reload is under way; each look calls the next
        self.just_reloaded: list[Callable[[], None]] = []  # it has just ended; likewise
        self.signalled: list[int] = []  # without systemd
        self.nginx = Nginx(directory, self, hang_up=self._hang_up, deadline_sec=8.0)

    def _hang_up(self, pid: int, unit: str) -> bool:
        assert unit == PROXY_UNIT
        self.signalled.append(pid)
        os.kill(pid, signal.SIGHUP)
        return True

    async def start(self, unit: str) -> str:
        self.jobs.append(f"start {unit}")
        if unit == CHECK_UNIT:
            result = await self._test("candidate/nginx.conf", self.directory / "check.log")
            self.during_check()
            return result
        assert unit == PROXY_UNIT
        if self.process is not None and self.process.returncode is None:
            return "done"
        for name in ("internal.sock", "unavailable.sock", "emerg.log"):
            (self.directory / "work" / name).unlink(missing_ok=True)
        if await self._test("nginx.conf", self.directory / "start.log") != "done":
            return "failed"
        command = (NGINX, "-e", "stderr", "-g", "daemon off;", "-c", str(self.directory / "nginx.conf"))
        with (self.directory / "stderr.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, stderr=log, user=_USER, group=_USER
            )
        ended = asyncio.ensure_future(self.process.wait())
        while not ended.done():
            if await self.nginx.read_generation() is not None:
                ended.cancel()
                return "done"
            await asyncio.wait((ended,), timeout=0.01)
        return "failed"

    async def reload(self, unit: str, *, queued: Callable[[], None] = lambda: None) -> str:
        self.jobs.append(f"reload {unit}")
        queued()
        if self.process is None or self.process.returncode is not None:
            return "failed"
        # Given as text: the proxy's user need not be able to see this clone.
        command = ("sh", "-s", str(self.directory), NGINX)
        with RELOAD_PROXY.open("rb") as script, (self.directory / "reload.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=script, stderr=log, user=_USER, group=_USER
            )
            return "done" if await process.wait() == 0 else "failed"

    async def read_units(self, units: Iterable[str]) -> dict[str, UnitFacts]:
        state = "reloading" if self.reloading else "active"
        changed_usec = int(time.monotonic() * 1e6) if self.just_reloaded else 0
        for looks in (self.reloading, self.just_reloaded):
            if looks:
                looks.pop(0)()
        return {
            unit: UnitFacts(
                unit=unit,
                load_state="loaded",
                active_state=state,
                sub_state="",
                state_change_usec=changed_usec,
            )
            for unit in units
        }

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()

    async def _test(self, name: str, log: Path) -> str:
        command = (NGINX, "-t", "-q", "-e", "stderr", "-c", str(self.directory / name))
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(*command, stderr=stream, user=_USER, group=_USER)
            return "done" if await process.wait() == 0 else "failed"


@contextlib.asynccontextmanager
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy that does not run yet, in a directory short enough for a socket and open to nobody."""
    directory = Path(tempfile.mkdtemp(prefix="ovms-proxy-", dir="/tmp"))
    running = Proxy(directory)
    try:
        os.chmod(directory, 0o755)
        for name in ("work", "cache"):
            os.mkdir(directory / name)
            if _USER is not None:
                os.chown(directory / name, NOBODY, NOBODY)
        # As packaging/ovms-scaler.tmpfiles has it: of root, and of the proxy's group.
        os.mkdir(directory / "credentials")
        if _USER is not None:
            os.chown(directory / "credentials", 0, NOBODY)
        os.chmod(directory / "credentials", 0o2750)
        yield running
    finally:
        await running.kill()
        shutil.rmtree(directory)


@contextlib.asynccontextmanager
async def engines(*names: str) -> AsyncIterator[list[Engine]]:
    started = [Engine(instance=name) for name in names]
    try:
        for engine in started:
            await engine.start()
        yield started
    finally:
        for engine in started:
            for event in filter(None, (engine.hold, engine.rest)):
                event.set()
            await engine.stop()


async def wait_for_requests(asked: list[Engine], count: int) -> None:
    """Returns when the engines have got so many requests together."""
    async with asyncio.timeout(10):
        while sum(len(engine.requests) for engine in asked) < count:
            for engine in asked:
                engine.arrived.clear()
            waits = [asyncio.ensure_future(engine.arrived.wait()) for engine in asked]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()


def member(
    engine: Engine, *, max_conns: int = 100, invocation: str = "a" * 32, weight: int = 4
) -> nginx.Member:
    return nginx.Member(
        instance=engine.instance, port=engine.port, weight=weight, max_conns=max_conns, invocation=invocation
    )


def upstream(name: str, engines_all: Iterable[Engine], *, prefix: str = "") -> nginx.Upstream:
    planned = tuple((engine.instance, engine.port) for engine in engines_all)
    return nginx.Upstream(name=name, title=f"model of {name}", prefix=prefix, members_all=planned)


def render(
    directory: Path,
    fronts: tuple[nginx.Front, ...],
    members: Mapping[str, tuple[nginx.Member, ...]],
    *,
    mode: nginx.ProxyMode = nginx.ProxyMode.http,
    read_timeout_sec: int = 5,
    shutdown_timeout_sec: int = 3600,
    client_max_body_bytes: int = 1 << 24,
    access: Access = OPEN,
) -> nginx.ProxyFiles:
    settings = nginx.ProxySettings(
        worker_processes=2,
        worker_connections=1024,
        mode=mode,
        read_timeout_sec=read_timeout_sec,
        connect_timeout_sec=1,
        shutdown_timeout_sec=shutdown_timeout_sec,
        client_max_body_bytes=client_max_body_bytes,
        directory=str(directory),
        cache_directory=str(directory / "cache"),
        access_socket=str(directory / "access/log.sock"),
        access=access,
        ipv6=Path("/proc/net/if_inet6").exists(),
    )
    return nginx.render_proxy(settings, fronts, members)


def run(
    command: tuple[str, ...], *, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
