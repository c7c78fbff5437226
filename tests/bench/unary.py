# SPDX-License-Identifier: Apache-2.0
"""Clients that cost next to nothing: each asks for one whole answer after the other, without streams.

A program of its own, told in JSON as its argument: port, model, clients, prompts (requests in all), warmups
(as many before, not counted), words (of a prompt), tokens (of an answer), seed. Prints generated tokens a
second.
"""

import http.client
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

LIMIT_SEC = 300


def main() -> None:
    settings = json.loads(sys.argv[1])
    chance = random.Random(settings["seed"])
    count = settings["warmups"] + settings["prompts"]
    bodies = [render_request(settings, chance) for _ in range(count)]
    with ThreadPoolExecutor(max_workers=settings["clients"]) as clients:
        list(clients.map(lambda body: ask(settings["port"], body), bodies[: settings["warmups"]]))
        began = time.monotonic()
        tokens = sum(clients.map(lambda body: ask(settings["port"], body), bodies[settings["warmups"] :]))
        took_sec = time.monotonic() - began
    sys.stdout.write(json.dumps(tokens / took_sec))


def render_request(settings: dict[str, Any], chance: random.Random) -> bytes:
    words = " ".join(str(chance.randrange(10_000)) for _ in range(settings["words"]))
    body = {"model": settings["model"], "messages": [{"role": "user", "content": words}]}
    return json.dumps({**body, "max_tokens": settings["tokens"], "ignore_eos": True}).encode()


def ask(port: int, body: bytes) -> int:
    """Tokens of the answer. Ends the program when there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_SEC)
    try:
        connection.request("POST", "/v3/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise SystemExit(f"port {port}: {answer.status} {content[:200]!r}")
    tokens: int = json.loads(content)["usage"]["completion_tokens"]
    return tokens


if __name__ == "__main__":
    main()
