# SPDX-License-Identifier: Apache-2.0
"""One process of the client: asks when it is told to, says what came of it, and how late it was itself.

    python -m ovms_scaler.bench.worker

A line of JSON each way. It is told ``{"open": ...}``, the endpoint, once; ``{"ask": ...}`` for each request;
``{"sync": N}``, answered with ``{"synced": N}`` when all that was told before is ready; ``{"begin": T}``
(CLOCK_MONOTONIC), from which all times count, and before which nothing is sent; ``{"stop": true}`` to give
up what is under way; ``{"report": N}``. It answers with ``{"outcome": ...}``, ``{"unfinished": ID}`` and
``{"report": ..., "number": N}``. It ends when its standard input does: nobody is left to work for.
"""

import asyncio
import contextlib
import gc
import json
import resource
import sys
import time
from typing import Any

from ovms_scaler.bench import open_files
from ovms_scaler.bench.client import Client, Exchange, parse_endpoint, render_body
from ovms_scaler.bench.outcome import Outcome, outcome_document

LINE_BYTES = 64 * 1024 * 1024
# How often the event loop is looked at.
_BEAT_SEC = 0.02


class Worker:
    """What is under way, and how late the event loop is."""

    def __init__(self, client: Client, settings: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self._client = client
        self._endpoint = parse_endpoint(settings["endpoint"])
        self._settings = settings
        self._writer = writer
        self._asks: dict[int, asyncio.Task[None]] = {}
        self._begun = asyncio.Event()
        self._zero = 0.0
        self._lags: list[float] = []
        self._cpu_sec = 0.0

    def handle(self, line: dict[str, Any]) -> None:
        match line:
            case {"ask": {"id": int(number)} as ask}:
                self._asks[number] = asyncio.create_task(self._ask(ask))
            case {"sync": int(number)}:
                # After the tasks that were made: each has its request ready by then.
                asyncio.get_running_loop().call_soon(self._say, {"synced": number})
            case {"begin": float(zero)}:
                self._zero, self._cpu_sec, self._lags = zero, read_cpu_sec(), []
                self._begun.set()
            case {"stop": True}:
                for number, task in tuple(self._asks.items()):
                    if task.cancel():
                        self._say({"unfinished": number})
                self._asks.clear()
            case {"report": int(number)}:
                self._begun.clear()
                cpu_sec = read_cpu_sec() - self._cpu_sec
                report = {"cpu_sec": cpu_sec, "span_sec": time.monotonic() - self._zero, "lags": self._lags}
                self._say({"report": report, "number": number})

    async def watch(self) -> None:
        """Note by how much each beat is late: so late is whatever else this process does."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(_BEAT_SEC)  # what is measured is how much longer it takes
            self._lags += list_lags(max(0.0, time.monotonic() - before - _BEAT_SEC))

    async def close(self) -> None:
        for task in self._asks.values():
            task.cancel()
        await asyncio.gather(*self._asks.values(), return_exceptions=True)

    async def _ask(self, ask: dict[str, Any]) -> None:
        # All that costs time is done before it is due.
        body = render_body(
            self._endpoint,
            prompt=ask["prompt"],
            max_tokens=ask["max_tokens"],
            temperature=self._settings["temperature"],
            ignore_eos=self._settings["ignore_eos"],
        )
        await self._begun.wait()
        free_at = self._zero + ask["free_sec"]
        if (wait_sec := free_at - time.monotonic()) > 0:
            await asyncio.sleep(wait_sec)
        exchange = await self._client.ask(body)
        if self._asks.pop(ask["id"], None) is not None:
            self._say({"outcome": outcome_document(self._judge(ask, exchange))})

    def _judge(self, ask: dict[str, Any], exchange: Exchange) -> Outcome:
        answer, zero = exchange.answer, self._zero
        return Outcome(
            id=ask["id"],
            due_sec=ask["due_sec"],
            sent_sec=exchange.sent_at - zero,
            end_sec=exchange.end_at - zero,
            tail_sec=exchange.free_at - exchange.end_at,
            late_sec=max(0.0, exchange.sent_at - zero - ask["free_sec"]),
            first_sec=None if answer.first_at is None else answer.first_at - zero,
            last_sec=None if answer.last_at is None else answer.last_at - zero,
            gaps_us=tuple(answer.gaps_us),
            input_tokens=answer.input_tokens,
            generated_tokens=answer.generated_tokens,
            fixed_len=ask["max_tokens"] if self._settings["ignore_eos"] else None,
            instance=exchange.instance,
            failure=exchange.failure,
        )

    def _say(self, document: object) -> None:
        self._writer.write(json.dumps(document, separators=(",", ":")).encode() + b"\n")


async def work() -> None:
    """Until standard input ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    first = await reader.readline()
    if not first:
        return
    settings = json.loads(first)["open"]
    client = Client(parse_endpoint(settings["endpoint"]))
    worker = Worker(client, settings, writer)
    watch = asyncio.create_task(worker.watch())
    try:
        while line := await reader.readline():
            worker.handle(json.loads(line))
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await worker.close()
        await client.close()


def list_lags(lag_sec: float) -> list[float]:
    """The lag of a beat, and of those that would have been in the meantime.

    Else a whole second in which nothing is read would be one of 50 figures, and not half of the time.
    """
    return [round(lag_sec - missed * _BEAT_SEC, 6) for missed in range(1 + int(lag_sec / _BEAT_SEC))]


def read_cpu_sec() -> float:
    """CPU time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    # A connection for each request that is under way.
    open_files.take_all()
    gc.freeze()
    with contextlib.suppress(ConnectionError):
        asyncio.run(work())


if __name__ == "__main__":
    main()
