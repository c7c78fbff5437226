# SPDX-License-Identifier: Apache-2.0
"""The openai client, every way of asking: python openai_client.py URL MODEL [KEY]. Prints JSON."""

import asyncio
import json
import sys

import openai
from openai.types.chat import ChatCompletionUserMessageParam

MESSAGES: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Tell me about servers."}]
TOKENS = 12


def ask(client: openai.OpenAI, model: str) -> dict[str, object]:
    """Unary and streamed chat, a completion, and what a wrong name of a model gets."""
    chat = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=TOKENS)
    pieces = client.chat.completions.create(
        model=model,
        messages=MESSAGES,
        max_tokens=TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    usage = [piece.usage for piece in pieces if piece.usage is not None][-1]
    text = client.completions.create(model=model, prompt="Servers are", max_tokens=TOKENS)
    try:
        client.chat.completions.create(model="nobody/knows", messages=MESSAGES)
        refusal = "none"
    except openai.APIStatusError as error:
        refusal = type(error).__name__
    return {
        "chat": chat.usage.completion_tokens if chat.usage else None,
        "stream": usage.completion_tokens,
        "text": text.usage.completion_tokens if text.usage else None,
        "unknown model": refusal,
    }


async def ask_async(client: openai.AsyncOpenAI, model: str) -> dict[str, object]:
    """Eight chats at once, half of them streamed."""

    async def one(*, stream: bool) -> bool:
        if not stream:
            answer = await client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=TOKENS)
            return bool(answer.choices[0].message.content)
        text = ""
        pieces = await client.chat.completions.create(
            model=model, messages=MESSAGES, max_tokens=TOKENS, stream=True
        )
        async for piece in pieces:
            text += piece.choices[0].delta.content or "" if piece.choices else ""
        return bool(text)

    answers = await asyncio.gather(*(one(stream=number % 2 == 0) for number in range(8)))
    return {"async": sum(answers)}


def main() -> None:
    url, model, *rest = sys.argv[1:]
    key = rest[0] if rest else "unused"
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=0)
    async_client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0)
    try:
        found = ask(client, model) | asyncio.run(ask_async(async_client, model))
    except openai.AuthenticationError as error:
        found = {"refused": error.status_code}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
