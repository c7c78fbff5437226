# SPDX-License-Identifier: Apache-2.0
"""What the admin listener answers: documents, metrics and the page. Nothing can be changed here."""

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog
from aiohttp import web

from ovms_scaler import __version__
from ovms_scaler.core.status import Document
from ovms_scaler.core.topology import Topology, topology_document
from ovms_scaler.core.values import is_loopback
from ovms_scaler.daemon.events import Events
from ovms_scaler.errors import HostError, InputError

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

EVENTS = 50  # in the overview; of GET /v1/events as many as are asked for
# What is plugged or pulled is seen so late, on the page only.
MACHINE_SEC = 5.0
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


def make_application(sources: Sources) -> web.Application:
    """The routes, all of them for GET and HEAD only."""
    app = web.Application(middlewares=[_bounded, _from_here_only, _errors_as_json], client_max_size=1024)
    pages = _Pages(sources)
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


class Machine:
    """The machine as ``ovms-scalerctl topology --json`` prints it, looked at when somebody asks."""

    def __init__(self, read: Callable[[], Topology]) -> None:
        self._read = read
        self._document: Document = {}
        self._read_sec = float("-inf")
        self._lock = asyncio.Lock()

    async def document(self) -> Document:
        """As it was some seconds ago at most. Raises HostError."""
        async with self._lock:
            if time.monotonic() - self._read_sec > MACHINE_SEC:
                self._document = topology_document(await asyncio.to_thread(self._read))
                self._read_sec = time.monotonic()
            return self._document


class _Pages:
    """The handlers."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

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
        return await self._html(self._sources.page)

    async def fragment(self, _request: web.Request) -> web.Response:
        return await self._html(self._sources.fragment)

    async def _html(self, render: Callable[[Document], str]) -> web.Response:
        text = await asyncio.to_thread(render, await self._overview())
        headers = {"Content-Security-Policy": self._sources.page_policy}
        return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers)

    async def _overview(self) -> Document:
        sources = self._sources
        return {
            "status": sources.status(),
            "measures": await sources.measures(),
            "events": sources.events.document(limit=EVENTS),
            "topology": await sources.topology(),
            "version": __version__,
            "host": socket.gethostname(),
            "at": round(time.time(), 3),
        }


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
    """One request for each connection, so that none is cut off in the middle of an answer by its age."""
    response = await handler(request)
    for name, value in HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Content-Security-Policy", NOTHING)
    response.force_close()
    return response


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "problems": []}}, status=status)
