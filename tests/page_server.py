# SPDX-License-Identifier: Apache-2.0
"""Serves the status page of an overview that tests change while browsers look."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from page_lab import Overview

from ovms_scaler.page import CONTENT_SECURITY_POLICY, render_fragment, render_page


class PageServer:
    """``overview`` is what is rendered next; while ``is_silent`` requests are broken off."""

    def __init__(self, overview: Overview) -> None:
        self.overview = overview
        self.url = ""
        self.is_silent = False
        self.asked = asyncio.Condition()
        self.fragments = 0

    async def page(self, _request: web.Request) -> web.Response:
        return self._answer(render_page)

    async def fragment(self, request: web.Request) -> web.Response:
        self.fragments += 1
        async with self.asked:
            self.asked.notify_all()
        if self.is_silent:
            assert request.transport is not None
            request.transport.close()
        return self._answer(render_fragment)

    async def until_asked(self, times: int) -> None:
        """Waits until the fragment has been asked for so often."""
        async with self.asked:
            await self.asked.wait_for(lambda: self.fragments >= times)

    def _answer(self, render: Callable[[Overview], str]) -> web.Response:
        headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "X-Content-Type-Options": "nosniff"}
        return web.Response(
            text=render(self.overview), content_type="text/html", charset="utf-8", headers=headers
        )


@contextlib.asynccontextmanager
async def serve(make: Callable[[], Overview]) -> AsyncIterator[PageServer]:
    """On a port of the loopback, with the headers of the agent."""
    server = PageServer(make())
    app = web.Application()
    app.router.add_get("/", server.page)
    app.router.add_get("/fragment", server.fragment)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    try:
        await site.start()
        port = runner.addresses[0][1]
        server.url = f"http://127.0.0.1:{port}/"
        yield server
    finally:
        await runner.cleanup()
