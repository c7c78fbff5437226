# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium, spoken to over the pipes of its DevTools protocol (chromedevtools.github.io)."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

PROGRAM = "chromium"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions",
    "--disable-sync", "--hide-scrollbars", "--mute-audio", "--force-color-profile=srgb",
    "--remote-debugging-pipe", "about:blank",
)  # fmt: skip
DEADLINE_SEC = 20.0
MOST_BYTES = 64 * 1024 * 1024  # a picture comes as one message


class Browser:
    """One process with any number of pages; each page has cookies and settings of its own."""

    def __init__(self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, pipe: int) -> None:
        self._process = process
        self._reader = reader
        self._pipe = pipe
        self._last = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def call(self, method: str, session: str = "", **parameters: object) -> dict[str, Any]:
        """Raises RuntimeError when the browser refuses."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self._answers[self._last] = asyncio.get_running_loop().create_future()
        os.write(self._pipe, json.dumps(message).encode() + b"\0")
        async with asyncio.timeout(DEADLINE_SEC):
            answer = await self._answers[self._last]
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str, *, width: int = 1280, height: int = 900, **media: str) -> "Page":
        """A page that has been loaded; ``media`` are features such as ``scheme="dark"``."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        made = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        page = Page(self, attached["sessionId"], context)
        self._pages[attached["sessionId"]] = page
        await page.prepare(width=width, height=height, media=media)
        await page.load(url)
        return page

    async def listen(self) -> None:
        """Hands out what the browser says, until it ends."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                said = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                if "id" in said:
                    self._answers.pop(said["id"]).set_result(said)
                elif (page := self._pages.get(said.get("sessionId", ""))) is not None:
                    page.note(said["method"], said["params"])

    async def end(self) -> None:
        # Its own processes are all in its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()


class Page:
    """A tab. ``complaints`` are what its console says, ``requests`` the addresses it asked for."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.context = context
        self._browser = browser
        self._session = session
        self._loaded = asyncio.Event()

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        return await self._browser.call(method, self._session, **parameters)

    async def prepare(self, *, width: int, height: int, media: dict[str, str]) -> None:
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility", "DOM"):
            await self.call(f"{domain}.enable")
        await self.resize(width, height)
        names = {"scheme": "prefers-color-scheme", "motion": "prefers-reduced-motion"}
        features = [{"name": names[name], "value": value} for name, value in media.items()]
        await self.call("Emulation.setEmulatedMedia", features=features)
        # As if it were in front of somebody, also when it is one of several.
        await self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    async def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=False,
        )  # fmt: skip

    def loads_again(self) -> None:
        """``until_loaded`` is about what comes from now on."""
        self._loaded.clear()

    async def load(self, url: str) -> None:
        self.loads_again()
        await self.call("Page.navigate", url=url)
        await self.until_loaded()

    async def until_loaded(self) -> None:
        async with asyncio.timeout(DEADLINE_SEC):
            await self._loaded.wait()

    def note(self, method: str, said: dict[str, Any]) -> None:
        """Keeps an event of the browser's."""
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif method == "Log.entryAdded":
            self.complaints.append(said["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(said["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(said["args"]))

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, waited for if it is a promise."""
        answer = await self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Waits until a JavaScript expression holds, looking at each change of the page."""
        await self.evaluate(
            f"""new Promise((resolve) => {{
                const look = () => {{ if ({condition}) {{ observer.disconnect(); resolve(); }} }};
                const observer = new MutationObserver(look);
                observer.observe(document, {{ subtree: true, childList: true, characterData: true,
                                              attributes: true }});
                look();
            }})"""
        )

    async def press(self, key: str) -> None:
        code = {"Tab": 9, "Enter": 13}[key]
        for kind in ("rawKeyDown", "char", "keyUp") if key == "Enter" else ("rawKeyDown", "keyUp"):
            text = {"text": "\r"} if kind == "char" else {}
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text
            )

    async def read_tree(self) -> list[tuple[str, str]]:
        """Role and name of everything that the accessibility tree holds, in its order."""
        nodes = (await self.call("Accessibility.getFullAXTree"))["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored") and node["role"]["value"] not in ("InlineTextBox", "none")
        ]

    async def take_picture(self) -> bytes:
        """A PNG of the whole page, also of what would have to be scrolled to."""
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])


@contextlib.asynccontextmanager
async def open_browser(directory: Path) -> AsyncIterator[Browser]:
    """Chromium with its files below ``directory``; it and all its processes end with the block."""
    program = shutil.which(PROGRAM)
    assert program is not None, f"{PROGRAM} is not installed; tests/lab/packages.txt lists it"
    (its_input, to_it), (from_it, its_output) = os.pipe(), os.pipe()
    # The browser reads from descriptor 3 and writes to 4, whatever they are here.
    command = f'exec "$0" "$@" 3<&{its_input} 4>&{its_output}'
    process = await asyncio.create_subprocess_exec(
        "/bin/bash", "-c", command, program, f"--user-data-dir={directory}", *FLAGS,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL, pass_fds=(its_input, its_output), start_new_session=True,
        env={**os.environ, "HOME": str(directory), "XDG_CONFIG_HOME": str(directory), "TZ": "UTC"},
    )  # fmt: skip
    os.close(its_input)
    os.close(its_output)
    reader = asyncio.StreamReader(limit=MOST_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(from_it, "rb")
    )
    browser = Browser(process, reader, to_it)
    listening = asyncio.create_task(browser.listen())
    try:
        yield browser
    finally:
        await browser.end()
        await listening
        transport.close()
        os.close(to_it)
