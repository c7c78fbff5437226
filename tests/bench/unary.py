# SPDX-License-Identifier: Apache-2.0
"""Clients that cost next to nothing: each asks for one whole answer after the other, without streams.

A program of its own, told in JSON as its argument: port, model, clients, words (of a prompt), tokens (of an
answer), seed, begin and end (a window of time, seconds of CLOCK_MONOTONIC, time(7), which all processes
share). The clients ask from the start on, and no more when the window is over; the answers under way are
waited for. Prints the generated tokens a second of the window. Of an answer that is partly in it the same
part of the tokens counts.
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
    with ThreadPoolExecutor(max_workers=settings["clients"]) as clients:
        counts = list(clients.map(lambda number: ask_on(settings, number), range(settings["clients"])))
    sys.stdout.write(json.dumps(sum(counts) / (settings["end"] - settings["begin"])))


def ask_on(settings: dict[str, Any], number: int) -> float:
    """One client's tokens within the window."""
    chance = random.Random(f"{settings['seed']}.{settings['port']}.{number}")
    counted = 0.0
    while (sent := time.monotonic()) < settings["end"]:
        tokens = ask(settings["port"], render_request(settings, chance))
        ended = time.monotonic()
        inside = min(ended, settings["end"]) - max(sent, settings["begin"])
        counted += tokens * max(0.0, inside) / (ended - sent)
    return counted


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
