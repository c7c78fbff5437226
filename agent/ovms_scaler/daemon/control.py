# SPDX-License-Identifier: Apache-2.0
"""The control socket: HTTP on a Unix socket that everybody may read and administrators may act on."""

import asyncio
import contextlib
import grp
import inspect
import json
import logging
import os
import pwd
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import structlog
from aiohttp import web

from ovms_scaler.daemon.agent import Agent
from ovms_scaler.daemon.connections import Bounds, Doorkeeper, read_peer
from ovms_scaler.errors import (
    ConfigError,
    HostError,
    InputError,
    RefusedError,
    ScalerError,
    UnknownNameError,
)

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

Document = Mapping[str, object]
# The document that a query asks for. Raises InputError.
Answer = Callable[[Mapping[str, str]], Document | Awaitable[Document]]

SOCKET = Path("/run/ovms-scaler/control.sock")
# Members may change things without being root.
GROUP = "ovms-scaler"
MAX_REQUEST_BYTES = 64 * 1024
BOUNDS = Bounds()
# aiohttp would log each request that is not HTTP with a traceback, and everybody may send them.
_SILENCE = logging.getLogger("ovms_scaler.silence")
_SILENCE.propagate = False
_SILENCE.addHandler(logging.NullHandler())


class Control:
    """Serves the agent's document and takes orders from those who may give them."""

    def __init__(
        self,
        agent: Agent,
        path: Path = SOCKET,
        bounds: Bounds = BOUNDS,
        *,
        answers: Mapping[str, Answer] = MappingProxyType({}),
    ) -> None:
        """``answers``, by name, are what may be read of others than the agent: GET /v1/NAME."""
        self._agent = agent
        self._answers = answers
        self._path = path
        self._bounds = bounds
        self._server: asyncio.Server | None = None
        self._runner: web.AppRunner | None = None
        self._reloads: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen. Raises HostError when that is not possible, which other running parts do not depend on."""
        app = web.Application(
            middlewares=[_errors_as_json, _administrators_only], client_max_size=MAX_REQUEST_BYTES
        )
        app.router.add_get("/v1/status", self._status)
        for name, answer in self._answers.items():
            app.router.add_get(f"/v1/{name}", _serve(answer))
        app.router.add_post("/v1/reload", self._reload)
        for verb in (self._drain, self._undrain, self._restart, self._reset, self._pause, self._resume):
            app.router.add_post(f"/v1/{verb.__name__.strip('_')}", verb)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            logger=_SILENCE,
            # Nobody needs it, and a small body could become a large one.
            auto_decompress=False,
            # What is left of a refused body is waited for, also when the client has gone.
            lingering_time=1.0,
        )
        await self._runner.setup()
        try:
            # It replaces the socket of an agent that was killed: the lock keeps a second one away.
            self._server = await self._listen(self._runner)
            # For everybody to connect to; who they are is asked of the kernel at each request.
            self._path.chmod(0o666)
        except OSError as error:
            await self._runner.cleanup()
            self._runner = None
            raise HostError(f"cannot listen on {self._path}: {error.strerror}") from error

    async def _listen(self, runner: web.AppRunner) -> asyncio.Server:
        make = runner.server
        assert make is not None  # since setup()
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(Doorkeeper(make, self._bounds), self._path, backlog=128)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            for reload in self._reloads:
                reload.cancel()
            # aiohttp would wait a minute for who has sent half a request; other answers take no time.
            for connection in self._runner.server.connections if self._runner.server is not None else ():
                connection.force_close()
            await self._runner.cleanup()
            with contextlib.suppress(OSError):
                self._path.unlink()

    async def _status(self, _request: web.Request) -> web.Response:
        return web.json_response(self._agent.document())

    async def _reload(self, request: web.Request) -> web.Response:
        allow = request.query.get("allow_outage", "0")
        if allow not in ("0", "1"):
            return _refusal(400, f"allow_outage must be 0 or 1, not {allow!r}")
        # Who asks may go; it is the agent's end that ends it.
        reload = asyncio.create_task(self._agent.reload(allow_outage=allow == "1"), name="reload")
        self._reloads.add(reload)
        reload.add_done_callback(self._reloads.discard)
        try:
            await reload
        except ConfigError as error:
            return _refusal(400, str(error), [str(problem) for problem in error.problems])
        except ScalerError as error:
            return _refusal(400, str(error))
        return _taken(self._agent.wanted_count())

    async def _drain(self, request: web.Request) -> web.Response:
        order = await _read_order(request, "allow_outage")
        return _taken(
            self._agent.orders.drain(order.required_name(), allow_outage=order.is_set("allow_outage"))
        )

    async def _undrain(self, request: web.Request) -> web.Response:
        order = await _read_order(request)
        return _taken(await self._agent.orders.undrain(order.required_name()))

    async def _restart(self, request: web.Request) -> web.Response:
        order = await _read_order(request, "allow_outage", "rolling")
        names = self._agent.orders.restart(
            order.name, is_rolling=order.is_set("rolling"), allow_outage=order.is_set("allow_outage")
        )
        return _taken(names)

    async def _reset(self, request: web.Request) -> web.Response:
        order = await _read_order(request)
        return _taken(await self._agent.orders.reset(order.required_name()))

    async def _pause(self, _request: web.Request) -> web.Response:
        self._agent.orders.pause()
        return _taken(())

    async def _resume(self, _request: web.Request) -> web.Response:
        self._agent.orders.resume()
        return _taken(())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """The body of an order: whom it is about, and what is allowed."""

    name: str | None
    flags: Mapping[str, bool]

    def required_name(self) -> str:
        """Raises InputError."""
        if self.name is None:
            raise InputError("name is missing: an instance or a pool")
        return self.name

    def is_set(self, flag: str) -> bool:
        return self.flags.get(flag, False)


async def _read_order(request: web.Request, *flags: str) -> _Order:
    """Raises InputError for anything but a JSON object of ``name`` and these ``flags``."""
    try:
        document = json.loads(await request.read() or b"{}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict) or document.keys() - {"name", *flags}:
        raise InputError(f"the body must be a JSON object of {', '.join(('name', *flags))}")
    name = document.pop("name", None)
    if name is not None and not isinstance(name, str):
        raise InputError(f"name must be an instance or a pool, not {name!r}")
    for flag, value in document.items():
        if not isinstance(value, bool):
            raise InputError(f"{flag} must be true or false, not {value!r}")
    return _Order(name=name, flags=document)


def _serve(answer: Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(request: web.Request) -> web.Response:
        found = answer(request.query)
        return web.json_response(await found if inspect.isawaitable(found) else found)

    return serve


def _taken(instances: tuple[str, ...] | int) -> web.Response:
    """``ordered_sec`` is what status is to be compared with: what it observed before knows of no order."""
    return web.json_response({"accepted": True, "instances": instances, "ordered_sec": time.monotonic()})


def _peer_is_administrator(request: web.Request) -> bool:
    """Whether the peer is root or in the group."""
    peer = read_peer(request.transport)
    if peer is None:
        return False
    if peer.uid in (0, os.geteuid()):
        return True
    try:
        allowed = grp.getgrnam(GROUP)
        return peer.gid == allowed.gr_gid or pwd.getpwuid(peer.uid).pw_name in allowed.gr_mem
    except KeyError:
        return False


@web.middleware
async def _administrators_only(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if request.method not in ("GET", "HEAD") and not _peer_is_administrator(request):
        return _refusal(403, f"only root and the group {GROUP} may do this; use sudo, or join the group")
    return await handler(request)


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _refusal(error.status, f"{request.method} {request.path}: {error.reason}")
    except UnknownNameError as error:
        return _refusal(404, str(error))
    except InputError as error:
        return _refusal(400, str(error))
    except RefusedError as error:
        return _refusal(409, str(error))
    except HostError as error:
        return _refusal(500, str(error))
    except asyncio.CancelledError:
        raise
    except ConnectionError:
        raise  # by a client that has gone before its body was whole; aiohttp ends the connection
    except Exception:
        log.exception("control request failed", method=request.method, path=request.path)
        return _refusal(500, "the agent failed to answer; its log says why")


def _refusal(status: int, message: str, problems: list[str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "problems": problems or []}}, status=status)
