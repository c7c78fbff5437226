# SPDX-License-Identifier: Apache-2.0
"""Serves the status page as the agent does, of an overview that tests change while browsers look."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from page_lab import Overview

from ovms_scaler.core.status import Document
from ovms_scaler.daemon.admin_pages import Sources, make_application
from ovms_scaler.daemon.events import Events
from ovms_scaler.page import CONTENT_SECURITY_POLICY, render_fragment, render_page


class PageServer:
    """``overview`` is what is rendered next; while ``is_silent`` requests are broken off."""

    def __init__(self, overview: Overview) -> None:
        self.overview = overview
        self.url = ""
        self.is_silent = False
        self.fragments = 0
        self._asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def page(self, _real: Document) -> str:
        return render_page(self.overview)

    def fragment(self, _real: Document) -> str:
        # In a thread of its own, as the agent renders.
        self.fragments += 1
        self._loop.call_soon_threadsafe(self._asked.set)
        if self.is_silent:
            raise ConnectionResetError
        return render_fragment(self.overview)

    async def until_asked(self, times: int) -> None:
        """Waits until the fragment has been asked for so often."""
        while self.fragments < times:
            self._asked.clear()
            await self._asked.wait()

    def application(self) -> web.Application:
        """The agent's own, with all its headers; of what it observes there is nothing."""

        async def nothing() -> Document:
            return {}

        async def no_metrics(_accept: str) -> tuple[bytes, str]:
            return b"", "text/plain"

        return make_application(
            Sources(
                status=dict,
                measures=nothing,
                events=Events(),
                topology=nothing,
                metrics=no_metrics,
                page=self.page,
                fragment=self.fragment,
                page_policy=CONTENT_SECURITY_POLICY,
            ),
            page_sec=0.0,
        )


@contextlib.asynccontextmanager
async def serve(make: Callable[[], Overview]) -> AsyncIterator[PageServer]:
    """On a port of the loopback."""
    server = PageServer(make())
    runner = web.AppRunner(server.application(), access_log=None, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    try:
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        yield server
    finally:
        await runner.cleanup()
