# SPDX-License-Identifier: Apache-2.0
"""The page in a browser: it is live, disturbs nobody, asks nobody else, and fits on every screen."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import page_lab
import pytest
import pytest_asyncio
from browser import Browser, Page, open_browser
from page_lab import change
from page_server import PageServer, serve

# It needs no host, but more time than a test of the fast tier may take.
pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

# As if somebody came back to the tab: the script asks at once, and nobody has to wait.
REFRESH = "document.dispatchEvent(new Event('visibilitychange'))"
TITLE = "document.title"
FAILED = {"state": "failed", "reason": "it fails", "hint": "journalctl -u ovms@chat-numa1.service"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    # Made before any test, so that none is said to have left it behind.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
    await asyncio.to_thread(int)
    async with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def server() -> AsyncIterator[PageServer]:
    async with serve(page_lab.six_with_a_fault) as server:
        yield server


async def refresh(page: Page, until: str) -> None:
    await page.evaluate(REFRESH)
    await page.until(until)


@pytest.mark.parametrize(
    ("width", "scheme"), [(320, "light"), (360, "dark"), (800, "light"), (1280, "dark")]
)
async def test_every_page_fits_and_asks_nobody_else(browser: Browser, width: int, scheme: str) -> None:
    async with serve(page_lab.nothing) as server:
        page = await browser.open(server.url, width=width, scheme=scheme)
        for make in (*page_lab.NAMED.values(), page_lab.longest):
            server.overview = make()
            await page.load(server.url)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), make.__name__
            spills = """[...document.querySelectorAll("dt, dd, td, th, h2, h3, h4, p, li, code, .cores i")]
                .filter((one) => one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display
                        !== "inline" && !one.closest("thead")).map((one) => one.outerHTML)"""
            assert await page.evaluate(spills) == [], make.__name__
    assert page.complaints == []
    # On a slow machine it may be open long enough to ask for news.
    known = {server.url, f"{server.url}fragment"}
    assert {url for url in page.requests if not url.startswith("data:")} <= known
    ground = {"light": "rgb(243, 245, 248)", "dark": "rgb(16, 21, 27)"}[scheme]
    assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == ground


async def test_it_is_live(browser: Browser, server: PageServer) -> None:
    page = await browser.open(server.url)
    assert await page.evaluate(TITLE) == "5 of 6 instances in rotation \N{EN DASH} llm-07"
    icon = await page.evaluate("document.getElementById('icon').href")
    server.overview = change(page_lab.six(), "chat-numa1", **FAILED)
    server.overview["at"] += 2
    # By itself, this once.
    await page.until("document.querySelector('.verdict.bad') !== null")
    assert await page.evaluate("document.querySelector('main time').textContent") == "01:52:09 UTC"
    assert await page.evaluate("document.getElementById('icon').href") != icon
    server.overview = page_lab.six()
    await refresh(page, "document.querySelector('.verdict.good') !== null")
    assert await page.evaluate(TITLE) == "6 of 6 instances in rotation \N{EN DASH} llm-07"
    assert await page.evaluate("document.querySelectorAll('.troubles').length") == 0
    await refresh(page, "true")
    assert page.complaints == []


async def test_what_changes_is_what_the_agent_would_have_served_anew(
    browser: Browser, server: PageServer
) -> None:
    """However the page came to show a state, it is the same."""
    body = "document.getElementById('live').outerHTML"
    page = await browser.open(server.url)
    for make in (*page_lab.NAMED.values(), *reversed(page_lab.NAMED.values())):
        server.overview = make()
        other = await page.evaluate(
            "fetch('fragment').then((r) => r.text()).then((text) => { window.wanted = "
            "new DOMParser().parseFromString(text, 'text/html').getElementById('live').outerHTML; })"
        )
        assert other is None
        await refresh(page, f"{body} === window.wanted")
    assert page.complaints == []


async def test_nobody_is_disturbed(browser: Browser, server: PageServer) -> None:
    """Focus, selection, what was unfolded and where it was scrolled to stay."""
    page = await browser.open(server.url, height=500)
    await page.evaluate(
        """(() => {
            const details = document.querySelector("details");
            details.open = true;
            details.querySelector("summary").focus();
            const text = document.querySelector("#instance-A .name").firstChild;
            getSelection().setBaseAndExtent(text, 0, text, 10);
            scrollTo(0, 700);
            window.before = [document.activeElement, details, text];
        })()"""
    )
    before = await page.evaluate("document.querySelector('#instance-B').getBoundingClientRect().top")
    document = change(page_lab.six_with_a_fault(), "chat-numa1", **FAILED)
    document["measures"]["instances"][0]["requests_per_sec"] = 77.7
    document["events"]["events"].append(
        {"at": page_lab.AT, "level": "info", "event": "starting instance", "instance": "chat-numa1"}
    )
    server.overview = document
    await refresh(page, "document.querySelector('#instance-A').textContent.includes('77.7')")
    assert await page.evaluate(
        """document.activeElement === window.before[0] && window.before[1].open
            && window.before[1].isConnected && getSelection().anchorNode === window.before[2]"""
    )
    assert await page.evaluate("getSelection().toString()") == "chat-numa0"
    # What came above is made up for by the browser, so that what is read stays where it is.
    after = await page.evaluate("document.querySelector('#instance-B').getBoundingClientRect().top")
    assert abs(after - before) < 2


async def test_selected_figures_stand_still(browser: Browser, server: PageServer) -> None:
    page = await browser.open(server.url)
    figure = "document.querySelector('.figures dd')"
    await page.evaluate(f"getSelection().selectAllChildren({figure})")
    shown = await page.evaluate(f"{figure}.textContent")
    server.overview["measures"]["front"] |= {"requests_per_sec": 99.1, "in_flight": 12345}
    await refresh(page, "document.querySelector('.figures').textContent.includes('12,345')")
    assert await page.evaluate(f"{figure}.textContent") == shown
    await page.evaluate("getSelection().removeAllRanges()")
    await refresh(page, f"{figure}.textContent === '99.1'")


async def test_a_focus_that_is_lost_goes_to_the_page_s_content(browser: Browser, server: PageServer) -> None:
    page = await browser.open(server.url)
    await page.evaluate("document.querySelector('.troubles button').focus()")
    server.overview = page_lab.six()
    await refresh(page, "document.querySelector('.verdict.good') !== null")
    assert await page.evaluate("document.activeElement.id") == "live"


async def test_an_agent_that_is_silent_is_said_to_be(browser: Browser, server: PageServer) -> None:
    page = await browser.open(server.url)
    server.is_silent = True
    await refresh(page, "!document.getElementById('silence').hidden")
    assert await page.evaluate("document.querySelector('#silence strong').textContent") == (
        "The agent has not answered since 01:52:07 UTC."
    )
    assert await page.evaluate(TITLE) == (
        "No answer \N{EN DASH} 5 of 6 instances in rotation \N{EN DASH} llm-07"
    )
    assert await page.evaluate("document.getElementById('pulse').hidden")
    tree = await page.read_tree()
    assert ("alert", "") in tree
    assert any("systemctl status ovms-scaler" in name for _, name in tree)
    server.is_silent = False
    await refresh(page, "document.getElementById('silence').hidden")
    assert await page.evaluate(TITLE) == "5 of 6 instances in rotation \N{EN DASH} llm-07"


async def test_nobody_is_asked_for_a_page_that_is_hidden(browser: Browser, server: PageServer) -> None:
    page = await browser.open(server.url)
    await page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    asked = server.fragments
    await page.evaluate(REFRESH)
    # Whatever was asked before this is answered before it.
    await page.evaluate("fetch('/').then((answer) => answer.text())")
    assert server.fragments == asked
    await page.evaluate("delete document.hidden")
    await page.evaluate(REFRESH)
    await server.until_asked(asked + 1)


async def test_a_page_of_another_edition_is_loaded_anew(browser: Browser, server: PageServer) -> None:
    page = await browser.open(server.url)
    await page.evaluate("document.getElementById('live').dataset.edition = 'before the upgrade'")
    page.loads_again()
    await page.evaluate(REFRESH)
    await page.until_loaded()
    assert await page.evaluate("document.getElementById('live').dataset.edition") != "before the upgrade"


async def test_it_is_all_there_without_a_script(browser: Browser, server: PageServer) -> None:
    page = await browser.open("about:blank")
    await page.call("Emulation.setScriptExecutionDisabled", value=True)
    await page.load(server.url)
    tree = await page.read_tree()
    assert ("heading", "5 of 6 instances in rotation") in tree
    assert ("link", "Reload") in tree
    assert not [name for role, name in tree if role == "button"]
    assert not [name for _, name in tree if name == "live"]
    assert page.complaints == []


@pytest.mark.parametrize("width", [360, 1280])
async def test_screen_readers_are_told_everything(browser: Browser, server: PageServer, width: int) -> None:
    page = await browser.open(server.url, width=width)
    tree = await page.read_tree()
    assert [name for role, name in tree if role == "region"] == [
        "5 of 6 instances in rotation", "Front", "Machine", "Instances", "Recent events",
    ]  # fmt: skip
    assert {"banner", "main", "contentinfo", "status"} <= {role for role, _ in tree}
    assert "alert" not in {role for role, _ in tree}
    # Also of rows that are drawn as cards.
    assert [name for role, name in tree if role == "table"] == ["Instances"]
    assert [name for role, name in tree if role == "columnheader"] == [
        "Instance", "State", "Rotation", "Requests/s", "In flight", "Time to first byte median / p99",
        "Errors/s", "CPU cores", "Memory",
    ]  # fmt: skip
    assert [name for role, name in tree if role == "rowheader"][-2:] == [
        "fast-gpu-0000:83:00.0 GPU 0000:83:00.0, port 8007",
        "fast-gpu-0000:9a:00.0 GPU 0000:9a:00.0, port 8008",
    ]  # fmt: skip
    assert [name for role, name in tree if role in ("image", "img")] == [
        f"Node {number}: 16 cores, marked by instance" for number in (0, 1)
    ]  # fmt: skip
    assert [name for role, name in tree if role == "button"] == ["Copy ovms-scalerctl topology"] * 2
    # Cells of figures, and what the drawing is made of, are not read out one by one.
    assert not [name for _, name in tree if name in tuple("ABCDEF")]


async def test_keyboards_reach_everything(browser: Browser, server: PageServer) -> None:
    page = await browser.open(server.url)
    focus = "document.activeElement"
    await page.press("Tab")
    assert await page.evaluate(f"{focus}.textContent") == "Skip to the verdict"
    assert await page.evaluate(f"{focus}.getBoundingClientRect().top >= 0")
    await page.press("Enter")
    assert await page.evaluate(f"{focus}.id") == "live"
    reached = []
    for _ in range(5):
        await page.press("Tab")
        reached.append(await page.evaluate(f"{focus}.textContent"))
        style: list[str] = await page.evaluate(
            f"(({{outlineStyle, outlineWidth}}) => [outlineStyle, outlineWidth])(getComputedStyle({focus}))"
        )
        assert style == ["solid", "3px"]
    copy = "Copy ovms-scalerctl topology"
    assert reached == [copy, copy, "3 older", "all of this as JSON", "metrics for Prometheus"]


async def test_commands_can_be_copied(browser: Browser, server: PageServer) -> None:
    page = await browser.open(server.url)
    await page.call(
        "Browser.grantPermissions",
        permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
        browserContextId=page.context,
    )
    await page.evaluate("document.querySelector('.troubles button').click()")
    await page.until("document.querySelector('.troubles button').textContent.startsWith('Copied')")
    assert await page.evaluate("navigator.clipboard.readText()") == "ovms-scalerctl topology"
    # One click takes the whole command also where there is no button.
    assert await page.evaluate("getComputedStyle(document.querySelector('code')).userSelect") == "all"
