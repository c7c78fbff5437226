# SPDX-License-Identifier: Apache-2.0
"""What the proxy says of finished requests, and which engines it shows to answer nothing but errors.

Errors prove nothing by themselves: one client may send bad requests only. So a run of them, or a large
share, makes an engine *suspect*, which has it asked for a token of the agent's own: a request that is known
to be good. The clients can convict it, too: those that fail here and are answered well elsewhere are
witnesses. Where nothing can be generated, two of them who get nothing but errors are enough; else it takes
so many requests that chance is out of the question, as the token was given.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

# Errors in a row before an engine is suspect, and for how long after the last one it stays so.
RUN = 5
WINDOW_SEC = 10.0
# As suspect is one with so many errors in the last SHARE_SEC, and no more answers than errors.
SHARE_SEC = 30.0
MANY = 10
WITNESSES = 2
# Requests of the witnesses, here and elsewhere, before a share of errors convicts: with 30 % of bad
# requests at random, half of 30 are bad here and a tenth elsewhere in one of ten thousand cases.
ENOUGH = 30
MAX_BYTES = 8192  # of a datagram
_CLIENTS = 256  # remembered for each engine
_TRY = re.compile(r"127\.0\.0\.1:([0-9]{1,5})")
_STATUS = re.compile(r"[0-9]{3}")
_SEC = re.compile(r"[0-9]{1,9}\.[0-9]{1,6}")
_JOINT = re.compile(" : |, ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One finished request: who asked, and each engine that was tried, as (port, status), in order.

    ``status`` is what the client got, None where the proxy does not tell. ``header_sec`` is how long each
    try took until its answer began, None for one that had none; ``ttfb_sec`` is that of the last one with
    the time that the tries before it took. ``is_rejected``: turned away by the proxy, as no instance was
    ready or had room. ``is_complete``: nobody broke off, neither client nor engine nor proxy.
    """

    client: str
    tries: tuple[tuple[int, int], ...]
    status: int | None = None
    header_sec: tuple[float | None, ...] = ()
    ttfb_sec: float | None = None
    is_rejected: bool = False
    is_complete: bool = True


def parse_datagram(data: bytes) -> Answer | None:
    """One line of the proxy's access log, "<PRI>date tag: {JSON}" (nginx, ngx_syslog.c); None for nonsense.

    Tries that ended without a status are left out, and so is what was no engine. A proxy with an earlier
    configuration may leave fields out.
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
    addresses, codes = _split(upstreams), _split(statuses)
    if len(addresses) != len(codes):
        return None
    headers = _parse_times(document.get("upstream_header_time"), len(addresses))
    found = [
        (int(match[1]), int(code), header_sec)
        for address, code, header_sec in zip(addresses, codes, headers, strict=True)
        if (match := _TRY.fullmatch(address)) and _STATUS.fullmatch(code)
    ]
    text = document.get("status")
    status = int(text) if isinstance(text, str) and _STATUS.fullmatch(text) else None
    return Answer(
        client=client,
        tries=tuple((port, code) for port, code, _ in found),
        status=status,
        header_sec=tuple(header_sec for *_, header_sec in found),
        ttfb_sec=_add_up(headers, document.get("upstream_response_time")),
        # What answers behind the backup of each upstream has a socket (core/nginx_text.py).
        is_rejected=status == 503 and addresses[-1].startswith("unix:"),
        is_complete=document.get("completion") != "",
    )


def _split(text: str) -> list[str]:
    """The parts of a variable that nginx has for each try ($upstream_addr).

    "a, b" are tries in one place, "a : b" after an internal redirect.
    """
    return _JOINT.split(text) if " " in text else [text]


def _parse_times(text: object, count: int) -> list[float | None]:
    """Seconds of each try; None for one without, as for all when it is not said of all."""
    parts = _split(text) if isinstance(text, str) else []
    return [_parse_sec(part) for part in parts] if len(parts) == count else [None] * count


def _parse_sec(text: str) -> float | None:
    return float(text) if _SEC.fullmatch(text) else None


def _add_up(headers: list[float | None], responses: object) -> float | None:
    """When the last try began to answer, counted from the first; None when it did not."""
    last_sec = headers[-1]
    if last_sec is None or len(headers) == 1:
        return last_sec
    before = _parse_times(responses, len(headers))[:-1]
    return last_sec + sum(took_sec or 0.0 for took_sec in before)


@dataclass(slots=True)
class _Count:
    """Requests that were answered well, and with an error that may be the engine's."""

    good: int = 0
    bad: int = 0

    def add(self, other: "_Count") -> None:
        self.good += other.good
        self.bad += other.bad

    @property
    def all(self) -> int:
        return self.good + self.bad


@dataclass(slots=True)
class _Span:
    """Half of the window: all that was counted in it, and by client."""

    began_sec: float = 0.0
    total: _Count = field(default_factory=_Count)
    clients: dict[str, _Count] = field(default_factory=dict)

    def note(self, client: str, *, good: bool) -> None:
        counts = [self.total]
        if client in self.clients or len(self.clients) < _CLIENTS:
            counts.append(self.clients.setdefault(client, _Count()))
        for count in counts:
            count.add(_Count(good=int(good), bad=int(not good)))


@dataclass(slots=True, kw_only=True)
class _Engine:
    """``run`` counts the errors since the last success; the spans are the present one and the one before."""

    run: int = 0
    last_sec: float = 0.0
    spans: tuple[_Span, _Span] = field(default_factory=lambda: (_Span(), _Span()))

    def note(self, client: str, *, good: bool, now_sec: float) -> None:
        self._turn(now_sec)
        self.spans[0].note(client, good=good)
        if good:
            self.run = 0
        else:
            self.run = 1 if now_sec - self.last_sec > WINDOW_SEC else self.run + 1
            self.last_sec = now_sec

    def _turn(self, now_sec: float) -> None:
        age_sec = now_sec - self.spans[0].began_sec
        if age_sec > SHARE_SEC / 2:
            before = self.spans[0] if age_sec <= SHARE_SEC else _Span()
            self.spans = (_Span(began_sec=now_sec), before)

    def is_suspect(self, now_sec: float) -> bool:
        if now_sec - self.last_sec > WINDOW_SEC:
            return False
        total = self.total()
        return self.run >= RUN or (total.bad >= MANY and total.bad >= total.good)

    def total(self) -> _Count:
        return _sum(span.total for span in self.spans)

    def of(self, client: str) -> _Count:
        return _sum(span.clients[client] for span in self.spans if client in span.clients)

    def failed(self) -> set[str]:
        """Clients that met with errors here."""
        return {client for span in self.spans for client, count in span.clients.items() if count.bad}


def _sum(counts: Iterable[_Count]) -> _Count:
    total = _Count()
    for count in counts:
        total.add(count)
    return total


class Record:
    """What finished lately, by the engine's port; ``now_sec`` is any clock that does not go back."""

    def __init__(self) -> None:
        self._engines: dict[int, _Engine] = {}

    def note(self, answer: Answer, *, now_sec: float) -> tuple[int, ...]:
        """Take one request in; the ports that are suspect because of it."""
        for port, status in answer.tries:
            # Others (404, 413, 422, 499 ...) are about the request or the client alone.
            if status < 400 or status == 400 or status >= 500:
                engine = self._engines.setdefault(port, _Engine())
                engine.note(answer.client, good=status < 400, now_sec=now_sec)
        return tuple(port for port, _ in answer.tries if self.is_suspect(port, now_sec=now_sec))

    def is_suspect(self, port: int, *, now_sec: float) -> bool:
        """Whether it has lately answered with nothing but errors, or more often with one than not."""
        engine = self._engines.get(port)
        return engine is not None and engine.is_suspect(now_sec)

    def is_convicted(
        self, port: int, others: Iterable[int], *, now_sec: float, generates: bool = False
    ) -> bool:
        """Whether it is suspect, and clients that fail here are answered well by ``others``.

        ``generates``: it can be asked for a token, so that witnesses are needed only against one that
        gives it.
        """
        if not self.is_suspect(port, now_sec=now_sec):
            return False
        engine = self._engines[port]
        peers = [self._engines[other] for other in others if other != port and other in self._engines]
        total, here, there, witnesses = engine.total(), 0, _Count(), 0
        for client in engine.failed():
            elsewhere = _sum(peer.of(client) for peer in peers)
            here += engine.of(client).all if elsewhere.all else 0
            there.add(elsewhere)
            witnesses += elsewhere.good > 0 and elsewhere.bad * 10 <= elsewhere.all
        if witnesses < WITNESSES:
            return False
        if not generates and not total.good and engine.run >= RUN:
            return True
        enough = min(here, there.all) >= ENOUGH
        return enough and total.bad >= total.good and there.bad * 10 <= there.all

    def forget(self, port: int) -> None:
        """Another process is behind the port now."""
        self._engines.pop(port, None)
