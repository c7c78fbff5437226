# SPDX-License-Identifier: Apache-2.0
"""Listens on the loopback for those who look: Prometheus, and people with a browser."""

import asyncio
import logging
import os
import socket

import structlog
from aiohttp import web

from ovms_scaler.core.nginx_text import parse_listen
from ovms_scaler.daemon.connections import Bounds, Doorkeeper

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

RETRY_SEC = 10.0
# The kernel does not tell who connects over TCP: all are one user. Each request has a connection of its own.
BOUNDS = Bounds(of_user=32, of_all=32, bytes=1 << 16, lifetime_sec=30.0, makes_room=True)
# aiohttp would log each request that is not HTTP with a traceback, and everybody may send them.
_SILENCE = logging.getLogger("ovms_scaler.silence")
_SILENCE.propagate = False
_SILENCE.addHandler(logging.NullHandler())


class Admin:
    """Keeps an application on the address that is wanted; an address that is busy is tried again."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.problem = ""
        self._bounds = bounds
        self._wanted = ""
        self._listen = ""
        self._news = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._task: asyncio.Task[None] | None = None

    def want(self, listen: str) -> None:
        """Listen there, "" for nowhere. It is done soon after; ``problem`` says what hinders it."""
        if listen != self._wanted:
            self._wanted = listen
            self._news.set()

    async def open(self, app: web.Application) -> None:
        """Begin to do what is wanted."""
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            logger=_SILENCE,
            auto_decompress=False,
            lingering_time=0.0,
        )
        await self._runner.setup()
        self._task = asyncio.create_task(self._keep(), name="admin listener")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._leave()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _keep(self) -> None:
        while True:
            self._news.clear()
            # An address that could not be had, and is not wanted any more, is no problem any more.
            if self._listen != self._wanted or (self.problem and not self._wanted):
                self._leave()
                await self._enter(self._wanted)
            try:
                async with asyncio.timeout(RETRY_SEC if self.problem else None):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _leave(self) -> None:
        """Who is being answered does not count: those are the pages of an address that is given up."""
        if self._server is not None:
            self._server.close()
            log.info("admin listener closed", listen=self._listen)
        self._server, self._listen = None, ""
        if self._runner is not None and self._runner.server is not None:
            for connection in self._runner.server.connections:
                connection.force_close()

    async def _enter(self, listen: str) -> None:
        if not listen:
            self.problem = ""
            return
        assert self._runner is not None
        assert self._runner.server is not None  # since open()
        make = Doorkeeper(self._runner.server, self._bounds)
        host, port = parse_listen(listen)
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        try:
            listener = socket.create_server((host.strip("[]"), port), family=family)
        except OSError as error:
            self._note_problem(listen, os.strerror(error.errno) if error.errno else str(error))
            return
        loop = asyncio.get_running_loop()
        # Known here before anything is waited for, so that it is closed whatever happens.
        self._server = await loop.create_server(make, sock=listener, start_serving=False)
        self.problem, self._listen = "", listen
        await self._server.start_serving()
        log.info("admin listener open", listen=listen)

    def _note_problem(self, listen: str, why: str) -> None:
        problem = (
            f"cannot listen on admin.listen {listen}: {why}; "
            f"ss -ltnp 'sport = {listen.rpartition(':')[2]}' shows who does, and it is tried again"
        )
        if problem != self.problem:
            log.warning("admin listener not open", listen=listen, error=why)
        self.problem = problem
