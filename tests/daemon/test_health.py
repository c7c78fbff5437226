# SPDX-License-Identifier: Apache-2.0
"""What the health watch makes of engines that load, serve, fail, end and come again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import pytest
import world
from fakes.engines import FakeEngine, FakeEngines, status_of

from ovms_scaler.core.books import Books
from ovms_scaler.core.facts import Health, Probe
from ovms_scaler.core.spec_health import HealthRules
from ovms_scaler.core.target import resolve
from ovms_scaler.daemon import health
from ovms_scaler.daemon.health import HealthWatch

RULES = HealthRules(interval_sec=0.005, timeout_sec=0.05, failures=3)
WANTED = world.target(nodes=1).wanted["chat-numa0"]
SERVING = status_of("org/tiny")
LIMIT_SEC = 10


@dataclass(slots=True, kw_only=True)
class Watched:
    """A watch of one instance, its engine, and all that it reported."""

    watch: HealthWatch
    engine: FakeEngine
    changed: asyncio.Condition
    seen: list[Health] = field(default_factory=list)

    def follow(self, invocation: str = "i1", *, warmed: bool = False) -> None:
        names = frozenset({"chat-numa0"} if warmed else ())
        self.watch.follow({"chat-numa0": (WANTED, invocation)}, RULES, warmed=names)

    def read(self) -> Health:
        health = self.watch.read("chat-numa0")
        assert health is not None
        return health

    async def until(self, holds: Callable[[Health], bool]) -> Health:
        async with asyncio.timeout(LIMIT_SEC), self.changed:
            await self.changed.wait_for(lambda: holds(self.read()))
        return self.read()


@pytest.fixture(name="watched")
async def watch_one() -> AsyncIterator[Watched]:
    engines, changed = FakeEngines(), asyncio.Condition()
    notes: set[asyncio.Task[None]] = set()

    async def note() -> None:
        async with changed:
            changed.notify_all()

    def report() -> None:
        health = watched.watch.read("chat-numa0")
        if health is not None:
            watched.seen.append(health)
        notes.add(asyncio.ensure_future(note()))

    watched = Watched(
        watch=HealthWatch(engines.connect, report), engine=engines[WANTED.instance.port], changed=changed
    )
    yield watched
    await watched.watch.close()
    await asyncio.gather(*notes)
    assert watched.engine.connections == 0


async def test_nothing_is_known_of_an_instance_that_is_not_followed(watched: Watched) -> None:
    assert watched.watch.read("chat-numa0") is None


async def test_an_instance_is_warmed_once_when_its_model_is_there(watched: Watched) -> None:
    watched.follow()
    assert watched.read() == Health(invocation_id="i1", probe=Probe.refused, detail="not asked yet")
    await watched.until(lambda health: health.probe is Probe.loading)
    watched.engine.hold = asyncio.Event()
    watched.engine.body = SERVING
    warming = await watched.until(lambda health: health.probe is Probe.available)
    assert not warming.warmed
    watched.engine.hold.set()
    ready = await watched.until(lambda health: health.warmed)
    assert (ready.probe, ready.failures, ready.detail) == (Probe.available, 0, "")
    await watched.engine.count(3)
    assert watched.engine.warmed == ["org/tiny"]


async def test_a_generation_that_fails_is_tried_again_and_says_why(watched: Watched) -> None:
    watched.engine.body, watched.engine.warms = SERVING, [False, False, True]
    watched.follow()
    failed = await watched.until(lambda health: "generation failed" in health.detail)
    assert (failed.probe, failed.warmed, failed.detail) == (
        Probe.available,
        False,
        "its first generation failed: was answered with status 400",
    )
    await watched.until(lambda health: health.warmed)
    assert len(watched.engine.warmed) == 3
    # It said so until it was warmed, also while it was only asked for its status.
    assert {health.detail for health in watched.seen[1:-1]} <= {failed.detail}


async def test_a_model_that_generates_nothing_needs_no_warming(watched: Watched) -> None:
    watched.engine.body = status_of("org/tiny")
    silent = resolve(world.spec({}), world.topology(1), {"chat": world.model(generates=False)}, Books())
    watched.watch.follow({"chat-numa0": (silent.wanted["chat-numa0"], "i1")}, RULES, warmed=frozenset())
    await watched.until(lambda health: health.warmed)
    assert watched.engine.warmed == []


@pytest.mark.parametrize(
    ("body", "silent", "probe"),
    [
        pytest.param(None, False, Probe.refused, id="nobody listens"),
        pytest.param(SERVING, True, Probe.silent, id="no answer"),
        pytest.param(b"[]", False, Probe.nonsense, id="nonsense"),
        pytest.param(b"{}", False, Probe.loading, id="its model went away"),
    ],
)
async def test_failures_are_counted_and_forgotten_with_the_first_good_answer(
    watched: Watched, body: bytes | None, probe: Probe, *, silent: bool
) -> None:
    watched.engine.body = SERVING
    watched.follow()
    await watched.until(lambda health: health.warmed)
    watched.engine.body, watched.engine.is_silent = body, silent
    failing = await watched.until(lambda health: health.failures >= 3)
    assert (failing.probe, failing.warmed) == (probe, True)
    counts = [health.failures for health in watched.seen if health.failures]
    assert counts == sorted(set(counts))
    watched.engine.body, watched.engine.is_silent = SERVING, False
    good = await watched.until(lambda health: health.failures == 0)
    assert good.probe is Probe.available
    assert len(watched.engine.warmed) == 1


async def test_nothing_is_counted_before_it_served(watched: Watched) -> None:
    watched.engine.body = None
    watched.follow()
    await watched.engine.count(5)
    assert watched.read().failures == 0


async def test_a_new_process_is_judged_from_scratch(watched: Watched) -> None:
    watched.engine.body = SERVING
    watched.follow()
    await watched.until(lambda health: health.warmed)
    watched.engine.body = b"{}"
    watched.follow("i2")
    assert watched.read() == Health(invocation_id="i2", probe=Probe.refused, detail="not asked yet")
    await watched.until(lambda health: health.probe is Probe.loading)
    watched.engine.body = SERVING
    await watched.until(lambda health: health.warmed)
    assert watched.engine.warmed == ["org/tiny", "org/tiny"]


async def test_one_in_rotation_is_believed_and_not_warmed_again(watched: Watched) -> None:
    watched.engine.body = SERVING
    watched.follow(warmed=True)
    assert watched.read() == Health(invocation_id="i1", probe=Probe.available, warmed=True)
    await watched.engine.count(3)
    assert (watched.engine.warmed, watched.seen) == ([], [])


async def test_one_in_rotation_that_does_not_answer_loses_its_credit(watched: Watched) -> None:
    watched.engine.body = None
    watched.follow(warmed=True)
    await watched.until(lambda health: health.failures >= 3)


async def test_following_again_changes_nothing(watched: Watched) -> None:
    watched.engine.body = SERVING
    for _ in range(3):
        watched.follow()
        await watched.engine.count(2)
    assert (watched.engine.connections, watched.engine.warmed) == (1, ["org/tiny"])


async def test_other_rules_keep_what_is_known_of_the_same_process(watched: Watched) -> None:
    watched.engine.body = SERVING
    watched.follow()
    await watched.until(lambda health: health.warmed)
    rules = HealthRules(interval_sec=0.005, timeout_sec=1.0)
    watched.watch.follow({"chat-numa0": (WANTED, "i1")}, rules, warmed=frozenset())
    assert watched.read().warmed
    await watched.engine.count(2)
    assert (watched.engine.connections, watched.engine.warmed) == (1, ["org/tiny"])


async def test_an_instance_that_stops_while_it_warms_is_let_go_of(watched: Watched) -> None:
    watched.engine.body, watched.engine.hold = SERVING, asyncio.Event()
    watched.follow()
    await watched.engine.wait_for_warm()
    watched.watch.follow({}, RULES, warmed=frozenset())
    assert watched.watch.read("chat-numa0") is None


async def test_a_new_process_while_the_old_one_is_warmed_does_not_inherit_its_answer(
    watched: Watched,
) -> None:
    watched.engine.body, watched.engine.hold = SERVING, asyncio.Event()
    watched.follow()
    await watched.engine.wait_for_warm()
    watched.follow("i2")
    watched.engine.body = b"{}"
    watched.engine.hold.set()
    await watched.until(lambda health: health.probe is Probe.loading)
    assert (watched.read().invocation_id, watched.read().warmed) == ("i2", False)


async def test_only_changes_are_reported(watched: Watched) -> None:
    watched.engine.body = SERVING
    watched.follow()
    await watched.until(lambda health: health.warmed)
    reported = len(watched.seen)
    await watched.engine.count(5)
    assert len(watched.seen) == reported


async def test_one_that_was_out_comes_back_after_some_good_probes(watched: Watched) -> None:
    watched.engine.body = SERVING
    watched.follow(warmed=True)
    watched.engine.body = None
    await watched.until(lambda health: health.failures >= RULES.failures)
    probes, watched.engine.body = watched.engine.probes, SERVING
    doubted = await watched.until(lambda health: health.failures == 0)
    assert doubted.doubt == "it answers again, and is put back after 3 good probes in a row"
    await watched.until(lambda health: not health.doubt)
    assert watched.engine.probes >= probes + RULES.successes


async def test_other_rules_do_not_bring_it_back(watched: Watched) -> None:
    watched.engine.body = None
    watched.follow(warmed=True)
    await watched.until(lambda health: health.failures >= RULES.failures)
    rules = replace(RULES, successes=100)
    watched.engine.body = SERVING
    watched.watch.follow({"chat-numa0": (WANTED, "i1")}, rules, warmed=frozenset())
    await watched.until(lambda health: "100 good probes" in health.doubt)


async def test_a_model_that_is_available_and_not_ready_is_not_warmed(watched: Watched) -> None:
    watched.engine.body, watched.engine.unready = SERVING, {"org/tiny"}
    watched.follow()
    found = await watched.until(lambda health: "is not ready" in health.detail)
    assert (found.probe, found.warmed, watched.engine.warmed) == (Probe.loading, False, [])
    watched.engine.unready = set()
    await watched.until(lambda health: health.warmed)


async def test_one_that_serves_is_asked_now_and_then_whether_it_is_ready(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.engine.body = SERVING
    watched.follow(warmed=True)
    await watched.engine.count(5)
    assert watched.engine.asked_ready == []
    monkeypatch.setattr(health, "READY_SEC", 0.0)
    watched.engine.unready = {"org/tiny"}
    await watched.until(lambda health: health.failures >= RULES.failures)
    monkeypatch.undo()  # it is asked again and again all the same
    await watched.until(lambda health: health.failures >= 2 * RULES.failures)
    watched.engine.unready = set()
    await watched.until(lambda health: health.failures == 0)
