# SPDX-License-Identifier: Apache-2.0
"""Threads that may hang for ever: nobody waits longer than he wants to, and no exit waits for them."""

import asyncio
import subprocess
import sys
import threading

import pytest
from daemon_host import LIMIT_SEC

from ovms_scaler.daemon import lanes
from ovms_scaler.daemon.lanes import Errand, Glance, Source, run_apart
from ovms_scaler.errors import DeadlineError, HostError

HANG = """\
import asyncio, threading
from ovms_scaler.daemon import lanes
from ovms_scaler.daemon.lanes import Errand, Source

async def main():
    hangs = threading.Event()
    held = [threading.Event(), threading.Event()]
    def hang(number):
        held[number].set()
        threading.Event().wait()
    Errand("test").begin(lambda: hang(0))
    Source("the test", hint="", patience_sec=0).ask(lambda: hang(1))
    await asyncio.to_thread(lambda: [one.wait() for one in held])

asyncio.run(main())
print("over")
"""


def refuse(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def make_source() -> Source[str]:
    return Source("the test", hint="look", patience_sec=0.0)


def test_no_exit_waits_for_what_hangs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANG], capture_output=True, text=True, timeout=LIMIT_SEC, check=True
    )
    assert (done.stdout, done.stderr) == ("over\n", "")


async def test_an_errand_is_under_way_until_it_is_over_whoever_waits() -> None:
    errand, go = Errand("test"), threading.Event()
    begun = asyncio.wrap_future(errand.begin(lambda: go.wait(LIMIT_SEC)))
    begun.cancel()
    await asyncio.sleep(0)
    assert errand.is_under_way
    go.set()
    async with asyncio.timeout(LIMIT_SEC):
        await errand.idle()
    assert errand.begin(lambda: 7).result(LIMIT_SEC) == 7


async def test_what_an_errand_raises_is_for_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    errand = Errand("test")

    def fail() -> None:
        raise HostError("no")

    with pytest.raises(HostError, match="no"):
        await asyncio.wrap_future(errand.begin(fail))
    await errand.idle()

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(HostError, match="no more threads may be had"):
            await asyncio.wrap_future(errand.begin(lambda: None))
    async with asyncio.timeout(LIMIT_SEC):
        await errand.idle()


def test_a_source_that_hangs_is_asked_once_and_its_late_answer_kept() -> None:
    source, go, asked = make_source(), threading.Event(), []

    def read() -> str:
        asked.append(threading.current_thread())
        go.wait(LIMIT_SEC)
        return f"answer {len(asked)}"

    for _ in range(3):
        source.ask(read)
        with pytest.raises(DeadlineError, match="the test does not answer") as caught:
            source.answer(within_sec=0.01)
        assert caught.value.hint == "look"
        assert source.is_silent
    go.set()
    asked[0].join(LIMIT_SEC)
    assert (len(asked), source.last, source.is_silent) == (1, "answer 1", False)


def test_a_source_answers_what_was_asked_last() -> None:
    source = Source[str]("the test", hint="", patience_sec=LIMIT_SEC)
    go, asked = threading.Event(), []

    def read_slowly() -> str:
        go.wait(LIMIT_SEC)
        return "old"

    def read() -> str:
        asked.append("new")
        return "new"

    source.ask(read_slowly)
    source.ask(read)
    asking = run_apart("test", lambda: source.answer(within_sec=LIMIT_SEC))
    go.set()
    assert asking.result(LIMIT_SEC) == "new"
    assert source.answer(within_sec=LIMIT_SEC) == "new"  # for another who asked together with it
    assert asked == ["new"]


def test_a_glance_at_what_hangs_is_nothing_and_no_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    go, hung = threading.Event(), []

    def read(which: str) -> str:
        if which == "bad" and not go.is_set():
            hung.append(threading.current_thread())
            go.wait(LIMIT_SEC)
        return which

    glance = Glance("the test", read)
    assert glance.read("good") == "good"
    with monkeypatch.context() as hurried:
        hurried.setattr(lanes, "GLANCE_SEC", 0.01)
        assert [glance.read("bad") for _ in range(3)] == [None] * 3
    assert glance.read("good") == "good"
    assert len(hung) == 1
    go.set()
    hung[0].join(LIMIT_SEC)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        assert glance.read("good") is None
    assert glance.read("bad") == "bad"
