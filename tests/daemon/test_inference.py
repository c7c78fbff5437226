# SPDX-License-Identifier: Apache-2.0
"""How engines that answer probes and do not infer are found out, and others are left alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import world
from fakes.engines import FakeEngine, FakeEngines, status_of

from ovms_scaler.core.books import Books
from ovms_scaler.core.facts import Health
from ovms_scaler.core.progress import Counters
from ovms_scaler.core.record import RUN
from ovms_scaler.core.spec_health import HealthRules
from ovms_scaler.core.target import Target, resolve
from ovms_scaler.daemon import inference
from ovms_scaler.daemon.health import HealthWatch

RULES = HealthRules(interval_sec=0.005, timeout_sec=0.05, canary_interval_sec=0)
NAMES = ("chat-numa0", "chat-numa1")
GENERATES = world.target()
EMBEDS = resolve(world.spec({}), world.topology(2), {"chat": world.model(generates=False)}, Books())
LIMIT_SEC = 10


def rules_with(**keys: Any) -> HealthRules:
    """Shorter times than an administrator may set."""
    return replace(RULES, **keys)


@dataclass(kw_only=True)
class Bench:
    """Two engines that serve; ``cpu_sec`` is what the first has used."""

    watch: HealthWatch
    engines: dict[str, FakeEngine]
    changed: asyncio.Event
    cpu_sec: list[float] = field(default_factory=lambda: [0.0])

    def follow(self, target: Target = GENERATES, rules: HealthRules = RULES) -> None:
        running = {name: (target.wanted[name], "i1") for name in NAMES}
        self.watch.follow(running, rules, warmed=frozenset(NAMES))

    def read(self, name: str = NAMES[0]) -> Health:
        health = self.watch.read(name)
        assert health is not None
        return health

    async def until(self, holds: Callable[[Health], bool]) -> Health:
        async with asyncio.timeout(LIMIT_SEC):
            while not holds(self.read()):
                self.changed.clear()
                await self.changed.wait()
        return self.read()

    def tell(self, *statuses: int, name: str = NAMES[0], client: str = "10.0.0.1") -> None:
        """The proxy's word of finished requests."""
        port = GENERATES.wanted[name].instance.port
        for status in statuses:
            document = {"client": client, "upstream": f"127.0.0.1:{port}", "upstream_status": str(status)}
            self.watch.note_datagram(b"<190>nginx: " + json.dumps(document).encode())

    async def count(self, probes: int, name: str = NAMES[0]) -> None:
        await self.engines[name].count(probes)


@pytest.fixture(name="bench")
async def two_engines(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(inference, "COUNTERS_SEC", 0.0)
    monkeypatch.setattr(inference, "AGAIN_SEC", 0.01)
    engines, changed = FakeEngines(), asyncio.Event()
    cpu_sec = [0.0]
    first = GENERATES.wanted[NAMES[0]].instance
    watch = HealthWatch(
        engines.connect, changed.set, read_cpu_sec=lambda unit: cpu_sec[0] if unit == first.unit else None
    )
    by_name = {name: engines[GENERATES.wanted[name].instance.port] for name in NAMES}
    for engine in by_name.values():
        engine.body = status_of("org/tiny")
    yield Bench(watch=watch, engines=by_name, changed=changed, cpu_sec=cpu_sec)
    await watch.close()
    assert [engine.connections for engine in by_name.values()] == [0, 0]


async def test_errors_only_and_a_token_refused_is_a_fault(bench: Bench) -> None:
    bench.follow()
    bench.engines[NAMES[0]].warms = [False]
    bench.tell(*[400] * RUN)
    found = await bench.until(lambda health: bool(health.fault))
    assert found.fault == "it answers a good request with an error: was answered with status 400"
    assert bench.read(NAMES[1]).fault == ""
    assert bench.engines[NAMES[1]].warmed == []


async def test_bad_requests_are_told_from_a_bad_engine_by_a_token(bench: Bench) -> None:
    bench.follow()
    bench.tell(*[400] * 100)
    await bench.engines[NAMES[0]].wait_for_warm()
    await bench.count(5)
    assert bench.read().fault == ""


async def test_a_success_among_errors_asks_for_nothing(bench: Bench) -> None:
    bench.follow()
    for _ in range(20):
        bench.tell(400, 400, 400, 200)
    await bench.count(5)
    assert bench.engines[NAMES[0]].warmed == []


async def test_one_that_infers_again_is_believed_again(bench: Bench) -> None:
    bench.follow()
    bench.engines[NAMES[0]].warms = [False]
    bench.tell(*[500] * RUN)
    await bench.until(lambda health: bool(health.fault))
    bench.follow(rules=rules_with(failures=7))
    assert bench.read().fault
    bench.engines[NAMES[0]].warms = [True]
    await bench.until(lambda health: not health.fault)


async def test_a_busy_engine_may_keep_the_token_waiting(bench: Bench) -> None:
    bench.follow(rules=rules_with(canary_timeout_sec=0.02))
    bench.engines[NAMES[0]].hold = asyncio.Event()
    while len(bench.engines[NAMES[0]].warmed) < 2:
        bench.tell(*[400] * RUN)
        await bench.count(1)
    assert bench.read().fault == ""


async def test_an_idle_engine_that_gives_no_token_hangs(bench: Bench) -> None:
    bench.engines[NAMES[0]].hold = asyncio.Event()
    bench.follow(rules=rules_with(canary_interval_sec=0.01, canary_timeout_sec=0.02))
    found = await bench.until(lambda health: bool(health.fault))
    assert found.fault == "it gave no token within 0.02 s, though it was idle"
    assert found.works is False


async def test_an_engine_at_work_is_asked_for_no_token(bench: Bench) -> None:
    bench.engines[NAMES[0]].counters = Counters(graphs=1, responses=0)
    bench.follow(rules=rules_with(canary_interval_sec=0.01))
    await bench.engines[NAMES[1]].wait_for_warm(3)
    await bench.count(5)
    assert bench.engines[NAMES[0]].warmed == []


async def test_without_counters_nobody_is_taken_for_idle(bench: Bench) -> None:
    bench.engines[NAMES[0]].has_metrics = False
    bench.follow(rules=rules_with(canary_interval_sec=0.01))
    await bench.engines[NAMES[1]].wait_for_warm(3)
    await bench.count(5)
    assert bench.engines[NAMES[0]].warmed == []


async def test_requests_in_work_that_get_no_further_are_a_fault(bench: Bench) -> None:
    bench.engines[NAMES[0]].counters = Counters(graphs=3, responses=9)
    bench.follow(rules=rules_with(stall_sec=0.05))
    found = await bench.until(lambda health: bool(health.fault))
    assert (found.fault, found.works) == ("3 requests in work got no further for 0.05 s", False)


async def test_one_that_computes_for_long_is_no_fault(bench: Bench) -> None:
    bench.engines[NAMES[0]].counters = Counters(graphs=3, responses=9)
    bench.follow(rules=rules_with(stall_sec=0.05))
    for _ in range(40):
        bench.cpu_sec[0] += 1.0
        await bench.count(1)
    assert bench.read().fault == ""


async def test_embeddings_are_judged_by_clients_that_others_answer_well(bench: Bench) -> None:
    bench.follow(EMBEDS)
    for client in ("a", "b"):
        bench.tell(*[500] * RUN, client=client)
    assert bench.read().fault == ""
    for client in ("a", "b"):
        bench.tell(200, client=client, name=NAMES[1])
        bench.tell(500, client=client)
    assert "errors to clients that others answer well" in bench.read().fault
    assert bench.engines[NAMES[0]].warmed == []


async def test_silence_while_it_computes_is_told_from_silence(bench: Bench) -> None:
    bench.follow()
    await bench.count(2)
    bench.engines[NAMES[0]].is_silent = True
    silent = await bench.until(lambda health: health.failures >= 2)
    assert silent.works is False
    bench.cpu_sec[0] += 10.0
    await bench.until(lambda health: health.works is True)


async def test_nonsense_is_counted_and_dropped(bench: Bench) -> None:
    bench.follow()
    bench.watch.note_datagram(b"\xff")
    bench.tell(400)
    assert bench.watch.nonsense == 1
