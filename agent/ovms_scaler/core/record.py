# SPDX-License-Identifier: Apache-2.0
"""What the proxy says of finished requests, and which engines it shows to answer nothing but errors.

A run of errors proves nothing by itself: one client may send bad requests only. So a run makes an engine
*suspect*, which has it asked for a token of the agent's own: a request that is known to be good. Where
nothing can be generated, the clients must do: those that fail here and are answered well elsewhere are
witnesses.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

# Errors in a row before an engine is suspect, and for how long after the last one it stays so.
RUN = 5
WINDOW_SEC = 10.0
WITNESSES = 2
MAX_BYTES = 8192  # of a datagram
_CLIENTS = 256  # remembered for each engine
_TRY = re.compile(r"127\.0\.0\.1:([0-9]{1,5})")
_STATUS = re.compile(r"[0-9]{3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One finished request: who asked, and each engine that was tried, as (port, status), in order."""

    client: str
    tries: tuple[tuple[int, int], ...]


def parse_datagram(data: bytes) -> Answer | None:
    """One line of the proxy's access log, "<PRI>date tag: {JSON}" (nginx, ngx_syslog.c); None for nonsense.

    Tries that ended without a status are left out, and so is what was no engine.
    """
    begin = data.find(b"{")
    if begin < 0 or len(data) > MAX_BYTES:
        return None
    try:
        document = json.loads(data[begin:])
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    client, upstreams, statuses = (document.get(key) for key in ("client", "upstream", "upstream_status"))
    if not (isinstance(client, str) and isinstance(upstreams, str) and isinstance(statuses, str)):
        return None
    # "a, b" are tries in one place, "a : b" after an internal redirect ($upstream_addr).
    addresses, codes = (re.split(" : |, ", text) for text in (upstreams, statuses))
    if len(addresses) != len(codes):
        return None
    tries = [
        (int(found[1]), int(code))
        for address, code in zip(addresses, codes, strict=True)
        if (found := _TRY.fullmatch(address)) and _STATUS.fullmatch(code)
    ]
    return Answer(client=client, tries=tuple(tries))


@dataclass(slots=True, kw_only=True)
class _Engine:
    """``errors`` are those since the last success, from ``clients``; ``good`` has when each client last got
    an answer."""

    errors: int = 0
    began_sec: float = 0.0
    last_sec: float = 0.0
    clients: set[str] = field(default_factory=set)
    good: OrderedDict[str, float] = field(default_factory=OrderedDict)


class Record:
    """What finished lately, by the engine's port; ``now_sec`` is any clock that does not go back."""

    def __init__(self) -> None:
        self._engines: dict[int, _Engine] = {}

    def note(self, answer: Answer, *, now_sec: float) -> tuple[int, ...]:
        """Take one request in; the ports that are suspect because of it."""
        for port, status in answer.tries:
            engine = self._engines.setdefault(port, _Engine())
            if status < 400:
                engine.errors = 0
                engine.clients.clear()
                engine.good[answer.client] = now_sec
                engine.good.move_to_end(answer.client)
                if len(engine.good) > _CLIENTS:
                    engine.good.popitem(last=False)
            elif status == 400 or status >= 500:
                # Others (404, 413, 422, 499 ...) are about the request or the client alone.
                if not engine.errors or now_sec - engine.last_sec > WINDOW_SEC:
                    engine.errors, engine.began_sec = 0, now_sec
                    engine.clients.clear()
                engine.errors += 1
                engine.last_sec = now_sec
                if len(engine.clients) < _CLIENTS:
                    engine.clients.add(answer.client)
        return tuple(port for port, _ in answer.tries if self.is_suspect(port, now_sec=now_sec))

    def is_suspect(self, port: int, *, now_sec: float) -> bool:
        """Whether it has lately answered with nothing but errors."""
        engine = self._engines.get(port)
        return engine is not None and engine.errors >= RUN and now_sec - engine.last_sec <= WINDOW_SEC

    def is_convicted(self, port: int, others: Iterable[int], *, now_sec: float) -> bool:
        """Whether it is suspect, and clients that fail here have been answered well by ``others`` since."""
        if not self.is_suspect(port, now_sec=now_sec):
            return False
        engine = self._engines[port]
        peers = [self._engines[other] for other in others if other != port and other in self._engines]
        witnesses = {
            client
            for client in engine.clients
            if any(other.good.get(client, -1.0) >= engine.began_sec for other in peers)
            and not any(client in other.clients for other in peers)
        }
        return len(witnesses) >= WITNESSES

    def forget(self, port: int) -> None:
        """Another process is behind the port now."""
        self._engines.pop(port, None)
