# SPDX-License-Identifier: Apache-2.0
"""Clients that keep their connection, as pools of HTTP clients do: python keeping.py SETTINGS, in JSON.

Each asks, reads its stream to the end and asks again on the same connection until the time is over. Prints
JSON: how many whole answers a second there were, and the 99th percentile of the time to the first token.
Answers count that end within ``seconds``, after the first ``settle_sec``: all clients are at work at both
ends of that window, and what they finish after it does not count.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

SHORTEST, LONGEST = 4, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole one; ``ended_sec`` by the monotonic clock."""

    ttft_sec: float
    ended_sec: float


async def main(settings: dict[str, Any]) -> None:
    begins = time.monotonic() + settings["settle_sec"]
    ends = begins + settings["seconds"]
    answers: list[Answer] = []
    async with asyncio.TaskGroup() as group:
        for number in range(settings["clients"]):
            group.create_task(ask_again(settings, number, ends, answers))
    whole = sum(begins <= one.ended_sec < ends for one in answers)
    p99 = statistics.quantiles((one.ttft_sec for one in answers), n=100, method="inclusive")[98]
    found = {"answers_per_sec": whole / settings["seconds"], "ttft_p99_ms": p99 * 1000}
    sys.stdout.write(json.dumps(found) + "\n")


async def ask_again(settings: dict[str, Any], number: int, ends: float, answers: list[Answer]) -> None:
    lengths = random.Random(f"{settings['seed']} {number}")
    url = f"http://127.0.0.1:{settings['port']}/v3/completions"
    body = {"model": settings["model"], "prompt": "Tell me about servers.", "stream": True}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        while time.monotonic() < ends:
            began = time.monotonic()
            asked = body | {"max_tokens": lengths.randint(SHORTEST, LONGEST)}
            async with session.post(url, json=asked) as answer:
                answer.raise_for_status()
                first = await answer.content.readline()
                ttft_sec = time.monotonic() - began
                assert first.startswith(b"data: "), first
                rest = await answer.read()
                assert rest.endswith(b"data: [DONE]\n\n"), rest
                answers.append(Answer(ttft_sec=ttft_sec, ended_sec=time.monotonic()))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
