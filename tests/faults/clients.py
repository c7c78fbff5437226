# SPDX-License-Identifier: Apache-2.0
"""The load, and what is seen of it: ``python -m faults.clients SETTINGS`` in the network of a host.

Prints a line when it begins. Each line on stdin is an odd request to send beside the load ("poison" or
"bad"). When stdin ends no request is begun any more; when the last one has ended, the record is printed as
one line of JSON (figures.Record). Times are CLOCK_MONOTONIC, which all processes of a machine share.

Each client asks, waits for the end of the answer and asks again, half of them streamed, on a new connection
each time: an idle one may be closed just when it is used again, which is no matter of balancing. After a
failure it waits until the time that an answer takes has passed, as one that asks at once again would measure
how fast errors can be had.
"""

import asyncio
import contextlib
import dataclasses
import json
import resource
import sys
import time
from dataclasses import dataclass

from faults.answers import Answer, Outcome, judge
from faults.figures import Record, Request
from faults.tap import Tap

MARKER = b"ovms-faults"
READY_PATH = "/v2/models/{}/ready"
POLL_SEC = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``burst``: so many requests at once instead of clients that go on; ``shape``: half or all streamed."""

    port: int
    engine_ports: tuple[int, ...]
    model: str
    clients: int
    tokens: int
    answer_sec: float
    timeout_sec: float = 8.0
    shape: str = "half"
    burst: int = 0


class Exchange(asyncio.Protocol):
    """Sends one request and collects what comes until the connection ends."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.parts: list[bytes] = []
        self.trouble = ""
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.parts.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.trouble = type(exc).__name__ if exc else ""
        if not self.ended.done():
            self.ended.set_result(None)


class Load:
    """Asks and records."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends = asyncio.Event()
        self.record = Record(requests=[], posts=[], changes=[], ended=0.0)

    async def run(self) -> None:
        """Until told to end, and the last request has ended."""
        settings = self._settings
        ports = settings.engine_ports
        tap = Tap(min(ports), max(ports), marker=MARKER)
        loop = asyncio.get_running_loop()
        loop.add_reader(tap, self._note_posts, tap)
        polls = [asyncio.create_task(self._poll(port)) for port in ports]
        show(json.dumps({"begun": time.monotonic()}))
        try:
            count = settings.burst or settings.clients
            clients = [asyncio.create_task(self._client(number)) for number in range(count)]
            await self._obey()
            self.record.ended = time.monotonic()
            self._ends.set()
            await asyncio.gather(*clients, *self._tasks)
        finally:
            for poll in polls:
                poll.cancel()
            await asyncio.gather(*polls, return_exceptions=True)
            loop.remove_reader(tap)
            tap.close()

    async def ask(self, kind: str) -> Outcome:
        """One request, recorded. ``kind``: unary, stream, poison or bad."""
        began = time.monotonic()
        answer, trouble = await self._exchange(kind)
        request = Request(
            kind=kind,
            began=began,
            ended=time.monotonic(),
            outcome=answer.outcome,
            status=answer.status,
            instance=answer.instance,
            is_json=answer.is_json,
            trouble=trouble,
        )
        self.record.requests.append(request)
        return answer.outcome

    async def _client(self, number: int) -> None:
        settings = self._settings
        if not settings.burst:
            await asyncio.sleep(settings.answer_sec * number / settings.clients)  # not in step
        while not self._ends.is_set():
            began = time.monotonic()
            streamed = settings.shape == "all" or number % 2 == 1
            outcome = await self.ask("stream" if streamed else "unary")
            if settings.burst:
                return
            if outcome is not Outcome.answered:
                await asyncio.sleep(max(0.0, began + settings.answer_sec - time.monotonic()))
            number += 1

    async def _obey(self) -> None:
        """Send what the lines of stdin ask for, until it ends."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            task = asyncio.create_task(self._odd(line.decode().strip()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _odd(self, kind: str) -> None:
        await self.ask(kind)

    async def _exchange(self, kind: str) -> tuple[Answer, str]:
        settings = self._settings
        protocol: Exchange | None = None
        transport: asyncio.WriteTransport | None = None
        trouble = ""
        try:
            async with asyncio.timeout(settings.timeout_sec):
                transport, protocol = await asyncio.get_running_loop().create_connection(
                    lambda: Exchange(self._request(kind)), "127.0.0.1", settings.port
                )
                await protocol.ended
                trouble = protocol.trouble
        except (OSError, TimeoutError) as error:
            trouble = type(error).__name__
        finally:
            if transport is not None:
                transport.abort()
        data = b"".join(protocol.parts) if protocol is not None else b""
        return judge(data, is_streamed=kind == "stream"), trouble

    def _request(self, kind: str) -> bytes:
        settings = self._settings
        document = {"model": settings.model, "prompt": "Tell me", "max_tokens": settings.tokens}
        document["stream"] = kind == "stream"
        if kind == "poison":
            document["prompt"] = "poison"
        elif kind == "bad":
            document["max_tokens"] = "many"
        body = json.dumps(document).encode()
        head = (
            f"POST /v3/completions HTTP/1.1\r\nHost: front\r\nUser-Agent: {MARKER.decode()}\r\n"
            "Connection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    # What the engines are

    def _note_posts(self, tap: Tap) -> None:
        now = time.monotonic()
        self.record.posts += [(now, port) for port in tap.read_ports()]

    async def _poll(self, port: int) -> None:
        """Note each change of whether the engine says that its model is ready."""
        was_ready: bool | None = None
        while True:
            is_ready = await self._is_ready(port)
            if is_ready is not was_ready:
                self.record.changes.append((time.monotonic(), port, is_ready))
                was_ready = is_ready
            await asyncio.sleep(POLL_SEC)

    async def _is_ready(self, port: int) -> bool:
        path = READY_PATH.format(self._settings.model.replace("/", "%2F"))
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n".encode())
                    return b" 200 " in await reader.readline()
                finally:
                    writer.transport.abort()
        return False


def show(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(text: str) -> None:
    settings = json.loads(text)
    settings["engine_ports"] = tuple(settings["engine_ports"])
    # A burst is more connections than the usual 1024 open files.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    load = Load(Settings(**settings))
    asyncio.run(load.run())
    show(json.dumps(dataclasses.asdict(load.record)))


if __name__ == "__main__":
    main(sys.argv[1])
