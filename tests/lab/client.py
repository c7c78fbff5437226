# SPDX-License-Identifier: Apache-2.0
"""What a user's program does: the openai client against the front. Run in the network of a host.

    python client.py URL MODEL chat | stream | load REQUESTS WORKERS

``load`` prints a line when the first answer has come, and one JSON object at the end: requests sent,
answered, lost (no instance answered), cut in mid-answer, the slowest in seconds, answers by instance, and by
instance those that were an engine's error, as a status or inside a stream that had begun. ``reasons`` counts
what was said of those that were not answered.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai

PROMPT = "Tell me about servers."


def chat(client: openai.OpenAI, model: str) -> None:
    """One unary chat completion, as text."""
    answer = client.chat.completions.create(
        model=model, max_tokens=24, messages=[{"role": "user", "content": PROMPT}]
    )
    usage = answer.usage
    show(f"{answer.choices[0].message.content}\n")
    if usage is not None:
        show(f"({usage.prompt_tokens} tokens in, {usage.completion_tokens} out)\n")


def stream(client: openai.OpenAI, model: str) -> None:
    """One streamed chat completion; the pieces as they come."""
    chunks = 0
    answer = client.chat.completions.create(
        model=model, max_tokens=24, messages=[{"role": "user", "content": PROMPT}], stream=True
    )
    for chunk in answer:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            chunks += 1
            show(text)
    show(f"\n({chunks} pieces)\n")


@dataclass(slots=True, kw_only=True)
class Counts:
    """What became of the requests of a load."""

    sent: int = 0
    answered: int = 0
    lost: int = 0
    cut: int = 0
    slowest_sec: float = 0.0
    instances: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def document(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


async def load(client: openai.AsyncOpenAI, model: str, requests: int, workers: int) -> None:
    """Many requests at once, every second one streamed, without a retry by the client."""
    counts = Counts()
    numbers = iter(range(requests))

    async def work() -> None:
        for number in numbers:
            began = time.monotonic()
            counts.sent += 1
            await _ask(client, model, counts, streamed=number % 2 == 0)
            if counts.slowest_sec == 0:
                show("begun\n")
            counts.slowest_sec = max(counts.slowest_sec, round(time.monotonic() - began, 2))

    await asyncio.gather(*(work() for _ in range(workers)))
    show(f"{json.dumps(counts.document())}\n")


def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


async def _ask(client: openai.AsyncOpenAI, model: str, counts: Counts, *, streamed: bool) -> None:
    instance = ""  # whose answer has begun
    try:
        create = client.completions.with_raw_response.create
        if streamed:
            raw = await create(model=model, prompt=PROMPT, max_tokens=16, stream=True)
            instance = raw.headers.get("X-OVMS-Instance", "")
            async for _ in raw.parse():
                pass
        else:
            answer = await create(model=model, prompt=PROMPT, max_tokens=16)
            instance = answer.headers.get("X-OVMS-Instance", "")
            answer.parse()
        counts.instances[instance] += 1
        counts.answered += 1
    except (openai.APIError, httpx.HTTPError) as error:  # a stream lets errors of its transport through
        counts.reasons[f"{type(error).__name__}: {error}"] += 1
        if isinstance(error, openai.APIStatusError):
            instance = error.response.headers.get("X-OVMS-Instance", "")
        if not instance:
            counts.lost += 1
        elif isinstance(error, httpx.HTTPError | openai.APIConnectionError):
            counts.cut += 1
        else:
            counts.errors[instance] += 1


def main() -> None:
    url, model, what, *numbers = sys.argv[1:]
    if what == "load":
        # A reload closes idle connections, perhaps just when one is used again. Clients ask again then;
        # this one never does, so each of its requests has a connection of its own.
        own = {"Connection": "close"}
        client = openai.AsyncOpenAI(
            base_url=url, api_key="unused", max_retries=0, timeout=120, default_headers=own
        )
        asyncio.run(load(client, model, int(numbers[0]), int(numbers[1])))
        return
    (chat if what == "chat" else stream)(openai.OpenAI(base_url=url, api_key="unused", max_retries=0), model)


if __name__ == "__main__":
    main()
