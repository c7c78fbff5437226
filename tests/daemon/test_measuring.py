# SPDX-License-Identifier: Apache-2.0
"""What is measured unasked, and what only when somebody asks; nobody waits for a card that hangs."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from daemon_host import CONFIG, LIMIT_SEC, PROXY_UID, DaemonHost, Running, running, write

from ovms_scaler.core.record import Answer
from ovms_scaler.core.spec import ProxyMode
from ovms_scaler.core.use import CardsUse, HostUse
from ovms_scaler.daemon import lanes, measuring
from ovms_scaler.daemon.lanes import Lane
from ovms_scaler.daemon.measuring import Measuring
from ovms_scaler.daemon.orders import View

CARD = "0000:03:00.0"
ON_CARD = f"fast-gpu-{CARD}"
BOTH = CONFIG.replace(
    "[health]",
    """\
[[pool]]
name = "fast"
model_name = "org/tiny"
model_path = "/srv/models/tiny"
placement = "gpu"
[health]""",
)
GOOD = Answer(client="a", tries=((8003, 200),), status=200, header_sec=(0.2,), ttfb_sec=0.2)


def make(host: DaemonHost, view: Callable[[], View]) -> Measuring:
    return Measuring(view, proxy_uid=PROXY_UID, root=host.root)


def of(document: object, name: str = "chat-numa0") -> Any:
    instances = json.loads(json.dumps(document))["instances"]
    return next(one for one in instances if one["id"] == name)


def front(document: object) -> Any:
    return json.loads(json.dumps(document))["front"]


@pytest.fixture
async def measured(host: DaemonHost) -> Any:
    """An agent whose instances have control groups and connections."""
    host.configure()
    group = "sys/fs/cgroup/ovms.slice/ovms@chat-numa0.service"
    write(host.root / group / "cpu.stat", "usage_usec 5000000\n")
    write(host.root / "proc/stat", "cpu0 50 0 0 50 0 0 0 0 0 0\n")
    host.connect((8003, PROXY_UID, "01"), (8003, PROXY_UID, "01"), (8003, 0, "01"))
    async with running(host) as run:
        yield run, make(host, run.agent.view)


Measured = tuple[Running, Measuring]


async def test_requests_are_counted_unasked_and_nothing_else_is_done(measured: Measured) -> None:
    run, one = measured
    for _ in range(3):
        one.note(GOOD)
    assert not [thread for thread in threading.enumerate() if thread.name == "look at the host"]
    await run.until_state("loading")
    document = await one.read()
    assert (front(document)["requests_total"], of(document)["requests_total"]) == (3, 3)


async def test_one_who_asks_is_told_what_is_used_now(measured: Measured) -> None:
    run, one = measured
    await run.until_state("loading")
    document = await one.read()
    own = of(document)
    assert (own["cpu_sec_total"], own["cpu_cores"], own["in_flight"]) == (5.0, None, 2)
    assert front(document)["in_flight"] == 2
    assert document["use_span_sec"] is None


async def test_the_second_look_tells_how_much(
    measured: Measured, host: DaemonHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, one = measured
    monkeypatch.setattr(lanes, "INTERVAL_SEC", 0.0)
    await run.until_state("loading")
    await one.read()
    write(host.root / "sys/fs/cgroup/ovms.slice/ovms@chat-numa0.service/cpu.stat", "usage_usec 5000001\n")
    write(host.root / "proc/stat", "cpu0 125 0 0 75 0 0 0 0 0 0\n")
    document = json.loads(json.dumps(await one.read()))
    assert of(document)["cpu_cores"] is not None
    assert document["nodes"][0]["cpu_share"] == 0.75
    assert document["use_span_sec"] >= 0


async def test_nothing_is_known_without_a_configuration(host: DaemonHost) -> None:
    host.configure("[")
    async with running(host) as run:
        document = json.loads(json.dumps(await make(host, run.agent.view).read()))
    assert document["instances"] == []
    assert document["front"]["requests_per_sec"] is None


async def test_a_record_that_is_not_read_makes_requests_unknown(measured: Measured) -> None:
    run, one = measured
    await run.until_state("loading")
    one.is_told = False
    document = await one.read()
    assert (front(document)["requests_total"], front(document)["in_flight"]) == (None, 2)


async def test_in_stream_mode_nobody_tells_of_requests(measured: Measured, host: DaemonHost) -> None:
    run, _ = measured
    await run.until_state("loading")
    view = run.agent.view()
    assert view.target is not None
    streaming = replace(view.target, proxy=replace(view.target.proxy, mode=ProxyMode.stream))
    document = await make(host, lambda: replace(view, target=streaming)).read()
    assert (front(document)["requests_per_sec"], of(document)["ttfb_sec"]) == (None, None)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A card whose driver does not answer before the event is set."""
    answers = threading.Event()

    def read(_addresses: object, _pid: object, _root: Path) -> CardsUse:
        answers.wait(LIMIT_SEC)
        return CardsUse(at_sec=1.0)

    monkeypatch.setattr(measuring, "read_cards", read)
    yield answers
    answers.set()


async def test_a_card_that_hangs_is_not_waited_for(
    host: DaemonHost, hanging: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.plug(CARD)
    host.configure(BOTH)
    monkeypatch.setattr(measuring, "PATIENCE_SEC", 0.05)
    monkeypatch.setattr(lanes, "INTERVAL_SEC", 0.0)
    write(host.root / "proc/stat", "cpu0 50 0 0 50 0 0 0 0 0 0\n")
    async with running(host) as run:
        one = make(host, run.agent.view)
        for _ in range(3):
            document = await one.read()
        assert of(document, ON_CARD)["gpus"] == [{"address": CARD, "busy_share": None, "memory_bytes": None}]
        assert of(document)["in_flight"] == 0
        looks = [thread for thread in threading.enumerate() if thread.name.endswith(ON_CARD)]
        assert len(looks) == 1
        hanging.set()
        await asyncio.to_thread(looks[0].join)


async def test_who_goes_away_leaves_nothing_behind(host: DaemonHost, hanging: threading.Event) -> None:
    host.plug(CARD)
    host.configure(BOTH)
    async with running(host) as run:
        one = make(host, run.agent.view)
        for _ in range(3):
            reading = asyncio.create_task(one.read())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await asyncio.sleep(0)
        waiting = [task for task in asyncio.all_tasks() if "Lane.wait" in repr(task.get_coro())]
        assert waiting == []
        hanging.set()
        looks = [thread for thread in threading.enumerate() if thread.name.endswith(ON_CARD)]
        await asyncio.gather(*(asyncio.to_thread(look.join) for look in looks))


async def test_what_was_seen_long_ago_is_not_told(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, one = measured
    await run.until_state("loading")
    assert of(await one.read())["in_flight"] == 2
    monkeypatch.setattr(measuring, "FRESH_SEC", 0.0)
    document = await one.read()  # a moment later, without another look
    assert (of(document)["in_flight"], of(document)["cpu_sec_total"]) == (None, None)
    assert front(document)["requests_total"] == 0


async def test_a_look_is_shared_by_all_who_ask_at_once() -> None:
    lane, go, looks = Lane[HostUse]("test"), threading.Event(), []

    def read() -> HostUse:
        looks.append(threading.current_thread())
        go.wait(LIMIT_SEC)
        return HostUse(at_sec=float(len(looks)))

    lane.look(read)
    lane.look(read)
    waiting = [asyncio.create_task(lane.wait()) for _ in range(3)]
    go.set()
    await asyncio.gather(*waiting)
    lane.look(read)  # a moment later what was seen is new enough
    await lane.wait()
    assert [one.at_sec for one in lane.samples] == [1.0]
    assert len(looks) == 1


async def test_a_look_that_fails_is_no_sample_and_not_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "INTERVAL_SEC", 0.0)
    told = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _failure: told.set())
    lane = Lane[HostUse]("test")

    def fail() -> HostUse:
        raise RuntimeError("unforeseen")

    lane.look(fail)
    async with asyncio.timeout(LIMIT_SEC):
        await lane.wait()
    assert not lane.samples
    assert await asyncio.to_thread(told.wait, LIMIT_SEC)
    lane.look(lambda: HostUse(at_sec=2.0))
    await lane.wait()
    assert len(lane.samples) == 1


async def test_a_thread_that_may_not_be_had_is_no_news_and_not_the_last_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "INTERVAL_SEC", 0.0)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    lane = Lane[HostUse]("test")
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        lane.look(lambda: HostUse(at_sec=1.0))
    async with asyncio.timeout(LIMIT_SEC):
        await lane.wait()
    assert not lane.samples
    lane.look(lambda: HostUse(at_sec=2.0))
    await lane.wait()
    assert len(lane.samples) == 1
