# SPDX-License-Identifier: Apache-2.0
"""Clients that keep their connection, as pools of HTTP clients do: python keeping.py SETTINGS, in JSON.

Each asks, reads its stream to the end and asks again on the same connection until the time is over. Prints
JSON: how many whole answers there were, and the 99th percentile of the time to the first token.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from typing import Any

import aiohttp

SHORTEST, LONGEST = 4, 60


async def main(settings: dict[str, Any]) -> None:
    ends = time.monotonic() + settings["seconds"]
    first_sec: list[float] = []
    async with asyncio.TaskGroup() as group:
        for number in range(settings["clients"]):
            group.create_task(ask_again(settings, number, ends, first_sec))
    p99 = statistics.quantiles(first_sec, n=100, method="inclusive")[98]
    sys.stdout.write(json.dumps({"answers": len(first_sec), "ttft_p99_ms": p99 * 1000}) + "\n")


async def ask_again(settings: dict[str, Any], number: int, ends: float, first_sec: list[float]) -> None:
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
                first_sec.append(time.monotonic() - began)
                assert first.startswith(b"data: "), first
                await answer.read()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
