# SPDX-License-Identifier: Apache-2.0
"""Clients for while the proxy is reloaded: python reload_clients.py SETTINGS, in JSON, until stdin closes.

Each keeps its connection, asks, reads its stream to the end, pauses for up to PAUSE_SEC and asks again.
When a connection is closed before anything of an answer came, it asks once more on a new one, as OpenAI's
clients do: a worker of nginx that leaves closes connections without a word, and a request may be on its way.
Prints JSON: how many answers were whole, how many were asked for again, and what failed for good.
"""

import asyncio
import json
import random
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

SHORTEST, LONGEST = 4, 60
PAUSE_SEC = 0.1


@dataclass(slots=True, kw_only=True)
class Found:
    """What all clients together saw."""

    answers: int = 0
    again: int = 0
    failures: list[str] = field(default_factory=list)


async def main(settings: dict[str, Any]) -> None:
    found = Found()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    async with asyncio.TaskGroup() as group:
        for number in range(settings["clients"]):
            group.create_task(ask_again(settings, number, ended, found))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


async def ask_again(settings: dict[str, Any], number: int, ended: asyncio.Event, found: Found) -> None:
    chance = random.Random(f"{settings['seed']} {number}")
    url = f"http://127.0.0.1:{settings['port']}/v3/completions"
    body = {"model": settings["model"], "prompt": "Tell me about servers.", "stream": True}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        while not ended.is_set():
            asked = body | {"max_tokens": chance.randint(SHORTEST, LONGEST)}
            try:
                if not await ask(session, url, asked):
                    found.again += 1
                    assert await ask(session, url, asked), "the connection was closed twice"
                found.answers += 1
            except (aiohttp.ClientError, AssertionError) as error:
                found.failures.append(repr(error))
            await asyncio.sleep(chance.uniform(0, PAUSE_SEC))  # a client has a use for its answer


async def ask(session: aiohttp.ClientSession, url: str, body: dict[str, object]) -> bool:
    """Whether there was a whole answer; False when the connection was closed before one began.

    Raises ClientError and AssertionError for anything else.
    """
    try:
        answer = await session.post(url, json=body)
    except aiohttp.ClientConnectionError:
        return False
    async with answer:
        answer.raise_for_status()
        text = await answer.text()
    assert text.endswith("data: [DONE]\n\n"), text[-200:]
    return True


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
