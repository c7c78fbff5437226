# SPDX-License-Identifier: Apache-2.0
"""What the admin listener answers: documents, metrics and the page. Nothing can be changed here."""

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import structlog
from aiohttp import web

from ovms_scaler import __version__
from ovms_scaler.core.status import Document
from ovms_scaler.core.topology import Topology, topology_document
from ovms_scaler.core.values import is_loopback
from ovms_scaler.daemon.connections import end_with_connection
from ovms_scaler.daemon.events import Events
from ovms_scaler.daemon.kept import Kept
from ovms_scaler.daemon.lanes import Lane
from ovms_scaler.errors import HostError, InputError

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

EVENTS = 50  # in the overview; of GET /v1/events as many as are asked for
# What is plugged or pulled is seen so late, on the page only.
MACHINE_SEC = 5.0
# A card that hangs may keep who reads of it: then the machine is shown as it was seen last.
PATIENCE_SEC = 1.0
LATE = "sysfs or a card does not answer: the machine is shown as it was seen last; dmesg may say why"
UNKNOWN = "sysfs or a card does not answer: the machine is not known yet; dmesg may say why"
# Who asks within this time of another gets the same page.
PAGE_SEC = 1.0
# Scripts of other sites may send requests here, and get nothing of the answers; nobody may frame the page.
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
NOTHING = "default-src 'none'; frame-ancestors 'none'"
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]]+))(?::[0-9]{1,5})?", re.ASCII)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the answers come from. ``metrics`` takes an Accept header, and gives text and content type."""

    status: Callable[[], Document]
    measures: Callable[[], Awaitable[Document]]
    events: Events
    topology: Callable[[], Awaitable[Document]]
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]]
    page: Callable[[Document], str]
    fragment: Callable[[Document], str]
    page_policy: str


def make_application(sources: Sources, *, page_sec: float = PAGE_SEC) -> web.Application:
    """The routes, all of them for GET and HEAD only; ``page_sec`` is how old a page may be."""
    app = web.Application(middlewares=[_bounded, _from_here_only, _errors_as_json], client_max_size=1024)
    pages = _Pages(sources, page_sec)
    app.on_cleanup.append(pages.close)
    routes: Mapping[str, Handler] = {
        "/": pages.page,
        "/fragment": pages.fragment,
        "/metrics": pages.metrics,
        "/v1/status": pages.status,
        "/v1/measures": pages.measures,
        "/v1/events": pages.events,
        "/v1/topology": pages.topology,
        "/v1/overview": pages.overview,
    }
    for path, handler in routes.items():
        app.router.add_get(path, handler)
    return app


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The machine as it was once, or why it could not be seen."""

    at_sec: float
    document: Document = field(default_factory=dict)
    error: HostError | None = None


class Machine:
    """The machine as ``ovms-scalerctl topology --json`` prints it, looked at when somebody asks."""

    def __init__(self, read: Callable[[], Topology]) -> None:
        self._read = read
        self._lane: Lane[_Seen] = Lane("look at the machine", kept=1)

    async def document(self) -> Document:
        """As it was some seconds ago, or longer when it does not answer, which is in its warnings then.

        Raises HostError, also while it has never answered.
        """
        seen = self._seen()
        is_late = False
        if seen is None or time.monotonic() - seen.at_sec > MACHINE_SEC:
            self._lane.look(self._look)
            try:
                async with asyncio.timeout(PATIENCE_SEC):
                    await self._lane.wait()
            except TimeoutError:
                is_late = True
            seen = self._seen()
        if seen is None:
            raise HostError(UNKNOWN)
        if seen.error is not None:
            raise seen.error
        return _add_warning(seen.document, LATE) if is_late else seen.document

    def _seen(self) -> _Seen | None:
        samples = self._lane.samples
        return samples[-1] if samples else None

    def _look(self) -> _Seen:
        at_sec = time.monotonic()
        try:
            return _Seen(at_sec=at_sec, document=topology_document(self._read()))
        except HostError as error:
            return _Seen(at_sec=at_sec, error=error)


def _add_warning(topology: Document, warning: str) -> Document:
    warnings = topology.get("warnings")
    return {**topology, "warnings": [*(warnings if isinstance(warnings, list) else ()), warning]}


class _Pages:
    """The handlers."""

    def __init__(self, sources: Sources, page_sec: float) -> None:
        self._sources = sources
        self._page_sec = page_sec
        self._page = Kept(partial(self._render, sources.page), name="page")
        self._fragment = Kept(partial(self._render, sources.fragment), name="live part of the page")

    async def close(self, _app: web.Application) -> None:
        await self._page.close()
        await self._fragment.close()

    async def status(self, _request: web.Request) -> web.Response:
        return web.json_response(self._sources.status())

    async def measures(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._sources.measures())

    async def events(self, request: web.Request) -> web.Response:
        return web.json_response(self._sources.events.answer(request.query))

    async def topology(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._sources.topology())

    async def overview(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._overview())

    async def metrics(self, request: web.Request) -> web.Response:
        text, content_type = await self._sources.metrics(request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def page(self, _request: web.Request) -> web.Response:
        return await self._html(self._page)

    async def fragment(self, _request: web.Request) -> web.Response:
        return await self._html(self._fragment)

    async def _html(self, kept: Kept[bytes]) -> web.Response:
        body = await kept.get(within_sec=self._page_sec)
        headers = {"Content-Security-Policy": self._sources.page_policy}
        return web.Response(body=body, content_type="text/html", charset="utf-8", headers=headers)

    async def _render(self, render: Callable[[Document], str]) -> bytes:
        overview = await self._overview()
        return await asyncio.to_thread(lambda: render(overview).encode())

    async def _overview(self) -> Document:
        """All at once. Of a machine that cannot be seen there is the reason only, among its warnings."""
        sources = self._sources
        measures, topology = await asyncio.gather(sources.measures(), self._topology())
        return {
            "status": sources.status(),
            "measures": measures,
            "events": sources.events.document(limit=EVENTS),
            "topology": topology,
            "version": __version__,
            "host": socket.gethostname(),
            "at": round(time.time(), 3),
        }

    async def _topology(self) -> Document:
        try:
            return await self._sources.topology()
        except HostError as error:
            return {"warnings": ["; ".join(filter(None, (error.message, error.hint)))]}


def is_ours(host: str) -> bool:
    """Whether a Host header names the loopback, by whatever port: it may be forwarded.

    Any other name would be one that a stranger's DNS makes lead here, so that a page of theirs may read.
    """
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    if found["name"] and found["name"].lower() == "localhost":
        return True
    return is_loopback(found["v6"] or found["name"])


@web.middleware
async def _from_here_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1 or not is_ours(hosts[0]):
        return _refusal(
            421, f"Host must be localhost or an address of the loopback, not {', '.join(hosts)[:200]!r}"
        )
    return await handler(request)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        refusal = _refusal(error.status, f"{request.method} {request.path}: {error.reason}")
        if "Allow" in error.headers:
            refusal.headers["Allow"] = error.headers["Allow"]
        return refusal
    except InputError as error:
        return _refusal(400, str(error))
    except HostError as error:
        return _refusal(500, str(error))
    except asyncio.CancelledError:
        raise
    except ConnectionError:
        raise  # by a client that has gone; aiohttp ends the connection
    except Exception:
        log.exception("admin request failed", method=request.method, path=request.path)
        return _refusal(500, "the agent failed to answer; its log says why")


@web.middleware
async def _bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One request for each connection, so that none is cut off in the middle of an answer by its age.

    It is worked on no longer than somebody waits for the answer.
    """
    end_with_connection(request.transport)
    response = await handler(request)
    for name, value in HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Content-Security-Policy", NOTHING)
    response.force_close()
    return response


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "problems": []}}, status=status)
