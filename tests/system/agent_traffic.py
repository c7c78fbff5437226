# SPDX-License-Identifier: Apache-2.0
"""Clients of the front, started by agent_host.Traffic in the network of a host; plain sockets.

    python agent_traffic.py SETTINGS

SETTINGS is JSON: port, model, workers, stream ("no", "every second", "all"), max_tokens, and burst, the
number of requests that all begin at once, or 0 to go on until stdin ends. Each line on stdin is answered
with the counts so far. Every request has a connection of its own: an idle one may be closed just when it is
used again, which is between client and server and no matter of rotation.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_SEC = 120.0


@dataclass(slots=True, kw_only=True)
class Counts:
    """What became of the requests; ``lost`` had no answer at all, ``cut`` ended before its end.

    ``cut_by`` counts the latter by instance, ``refused_by`` answers with another status than 200.
    """

    sent: int = 0
    answered: int = 0
    lost: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    cut_by: Counter[str] = field(default_factory=Counter)
    refused_by: Counter[str] = field(default_factory=Counter)
    status: Counter[int] = field(default_factory=Counter)
    instances: Counter[str] = field(default_factory=Counter)
    slowest_sec: float = 0.0
    slowest_refusal_sec: float = 0.0
    retry_after: Counter[str] = field(default_factory=Counter)

    def document(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Clients:
    """Asks and counts."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self.counts = Counts()
        self.ends = asyncio.Event()

    async def work(self, first: int) -> None:
        """One client after the other until told to end."""
        number = first
        while not self.ends.is_set():
            await self.ask(number)
            number += 1

    async def ask(self, number: int) -> None:
        """One request, counted."""
        counts, settings = self.counts, self._settings
        streamed = settings["stream"] == "all" or (settings["stream"] == "every second" and number % 2 == 1)
        counts.sent += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT_SEC):
                status, fields, body, trouble = await self._exchange(streamed=streamed)
        except (OSError, TimeoutError, EOFError) as error:
            counts.lost.append(f"{type(error).__name__}: {error}")
            return
        took = time.monotonic() - began
        counts.status[status] += 1
        if trouble:
            counts.cut.append(trouble)
            counts.cut_by[fields.get("x-ovms-instance", "")] += 1
        elif status == 200:
            counts.answered += 1
            counts.instances[fields.get("x-ovms-instance", "")] += 1
            counts.slowest_sec = max(counts.slowest_sec, took)
        else:
            counts.slowest_refusal_sec = max(counts.slowest_refusal_sec, took)
            counts.retry_after[fields.get("retry-after", "")] += 1
            counts.refused_by[fields.get("x-ovms-instance", "")] += 1
            json.loads(body)

    async def _exchange(self, *, streamed: bool) -> tuple[int, dict[str, str], bytes, str]:
        """Status, header fields, body, and what is wrong with the end of the body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._settings["port"])
        try:
            writer.write(self._request(streamed=streamed))
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            lines = (line.partition(":") for line in head[1:] if line)
            fields = {name.lower(): value.strip() for name, _, value in lines}
            status = int(head[0].split()[1])
            try:
                body = await _read_body(reader, fields)
            except (OSError, EOFError) as error:
                return status, fields, b"", f"{type(error).__name__}: {error}"
        finally:
            writer.close()
        ended = not streamed or status != 200 or body.rstrip().endswith(b"data: [DONE]")
        return status, fields, body, "" if ended else f"ends with {body[-80:]!r}"

    def _request(self, *, streamed: bool) -> bytes:
        settings = self._settings
        document = {"model": settings["model"], "prompt": "Tell me", "max_tokens": settings["max_tokens"]}
        body = json.dumps({**document, "stream": streamed}).encode()
        head = (
            "POST /v3/completions HTTP/1.1\r\nHost: front\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


async def _read_body(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
    """The whole body. Raises EOFError when it ends too early."""
    if "content-length" in fields:
        return await reader.readexactly(int(fields["content-length"]))
    if fields.get("transfer-encoding") != "chunked":
        return await reader.read()
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    return b"".join(parts)


async def _until_stdin_ends(clients: Clients) -> None:
    """Answer each line with the counts so far."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        _show(clients)
    clients.ends.set()


def _show(clients: Clients) -> None:
    sys.stdout.write(json.dumps(clients.counts.document()) + "\n")
    sys.stdout.flush()


async def main(settings: dict[str, Any]) -> None:
    """A burst, or work until stdin ends; then the counts."""
    clients = Clients(settings)
    if settings["burst"]:
        await asyncio.gather(*(clients.ask(number) for number in range(settings["burst"])))
    else:
        workers = (clients.work(number) for number in range(settings["workers"]))
        await asyncio.gather(_until_stdin_ends(clients), *workers)
    _show(clients)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
