# SPDX-License-Identifier: Apache-2.0
"""What a user's program does: the openai client against the front. Run in the network of a host.

    python client.py URL MODEL chat | stream | load REQUESTS WORKERS

``load`` prints a line when the first answer has come, and one JSON object at the end: requests sent,
answered, lost, cut in mid-answer, the slowest in seconds, answers by instance, and by instance those that
were an engine's error.
"""

import asyncio
import json
import sys
import time
from collections import Counter

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


async def load(client: openai.AsyncOpenAI, model: str, requests: int, workers: int) -> None:
    """Many requests at once, every second one streamed, without a retry by the client."""
    counts: Counter[str] = Counter()
    instances: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    slowest = 0.0
    numbers = iter(range(requests))

    async def work() -> None:
        nonlocal slowest
        for number in numbers:
            began = time.monotonic()
            counts["sent"] += 1
            counts[await _ask(client, model, instances, errors, streamed=number % 2 == 0)] += 1
            if counts.total() - counts["sent"] == 1:
                show("begun\n")
            slowest = max(slowest, time.monotonic() - began)

    await asyncio.gather(*(work() for _ in range(workers)))
    summary = {name: counts[name] for name in ("sent", "answered", "lost", "cut")}
    result = {**summary, "slowest_sec": round(slowest, 2), "instances": dict(sorted(instances.items()))}
    result["errors"] = dict(sorted(errors.items()))
    show(f"{json.dumps(result)}\n")


def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


async def _ask(
    client: openai.AsyncOpenAI,
    model: str,
    instances: Counter[str],
    errors: Counter[str],
    *,
    streamed: bool,
) -> str:
    began = False
    try:
        create = client.completions.with_raw_response.create
        if not streamed:
            answer = await create(model=model, prompt=PROMPT, max_tokens=16)
            instances[answer.headers.get("X-OVMS-Instance", "")] += 1
            answer.parse()
            return "answered"
        raw = await create(model=model, prompt=PROMPT, max_tokens=16, stream=True)
        instances[raw.headers.get("X-OVMS-Instance", "")] += 1
        async for _ in raw.parse():
            began = True
    except openai.APIStatusError as error:
        if not (instance := error.response.headers.get("X-OVMS-Instance", "")):
            return "lost"
        errors[instance] += 1
        return "error"
    except (openai.APIError, httpx.HTTPError):  # a stream lets errors of its transport through as they are
        return "cut" if began else "lost"
    return "answered"


def main() -> None:
    url, model, what, *numbers = sys.argv[1:]
    if what == "load":
        client = openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0, timeout=120)
        asyncio.run(load(client, model, int(numbers[0]), int(numbers[1])))
        return
    (chat if what == "chat" else stream)(openai.OpenAI(base_url=url, api_key="unused", max_retries=0), model)


if __name__ == "__main__":
    main()
