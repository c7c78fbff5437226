# SPDX-License-Identifier: Apache-2.0
"""How engines that answer probes and do not infer are found out, and others are left alone."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
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
from ovms_scaler.daemon import health, inference
from ovms_scaler.daemon.health import HealthWatch
from ovms_scaler.daemon.meter import Meter

RULES = HealthRules(interval_sec=0.005, timeout_sec=0.05, canary_interval_sec=0)
NAMES = ("chat-numa0", "chat-numa1")
GENERATES = world.target()
EMBEDS = resolve(world.spec({}), world.topology(2), {"chat": world.model(generates=False)}, Books())
LIMIT_SEC = 10


def rules_with(**keys: Any) -> HealthRules:
    """Shorter times than an administrator may set."""
    return replace(RULES, **keys)


@dataclass(kw_only=True)
class Using:
    """What the first engine has used; with ``is_busy`` each look finds more CPU time."""

    cpu_sec: float | None = 0.0
    is_busy: bool = False
    gpu_idle_sec: tuple[float, ...] | None = None
    is_card_idle: bool = False

    def read_cpu_sec(self, unit: str) -> float | None:
        if unit != GENERATES.wanted[NAMES[0]].instance.unit:
            return 0.0
        if self.is_busy and self.cpu_sec is not None:
            self.cpu_sec += 10.0
        return self.cpu_sec

    def read_gpu_idle_sec(self, _addresses: Iterable[str]) -> tuple[float, ...] | None:
        return (time.monotonic(),) if self.is_card_idle else self.gpu_idle_sec


@dataclass(kw_only=True)
class Bench:
    """Two engines that serve."""

    watch: HealthWatch
    engines: dict[str, FakeEngine]
    changed: asyncio.Event
    use: Using
    faults: set[str]

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
    for name in ("COUNTERS_SEC", "BUSY_COUNTERS_SEC", "_WEIGH_SEC"):
        monkeypatch.setattr(inference, name, 0.0)
    monkeypatch.setattr(inference, "AGAIN_SEC", 0.01)
    engines, changed, use = FakeEngines(), asyncio.Event(), Using()
    meter = Meter(read_cpu_sec=use.read_cpu_sec, read_gpu_idle_sec=use.read_gpu_idle_sec)
    faults: set[str] = set()

    def note() -> None:
        changed.set()
        known = watch.read(NAMES[0])
        faults.add(known.fault if known is not None else "")

    watch = HealthWatch(engines.connect, note, meter=meter)
    by_name = {name: engines[GENERATES.wanted[name].instance.port] for name in NAMES}
    for engine in by_name.values():
        engine.body = status_of("org/tiny")
    yield Bench(watch=watch, engines=by_name, changed=changed, use=use, faults=faults)
    await watch.close()
    assert [engine.connections for engine in by_name.values()] == [0, 0]


def on_gpu(target: Target) -> Target:
    """The same on a card."""
    return replace(
        target,
        wanted={
            name: replace(wanted, instance=replace(wanted.instance, device="GPU", gpus=("0000:03:00.0",)))
            for name, wanted in target.wanted.items()
        },
    )


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


async def test_some_errors_among_answers_ask_for_nothing(bench: Bench) -> None:
    bench.follow()
    for _ in range(20):
        bench.tell(400, 400, 200, 200, 200)
    await bench.count(5)
    assert bench.engines[NAMES[0]].warmed == []


async def test_one_refusal_among_tokens_is_no_fault(bench: Bench) -> None:
    bench.follow()
    bench.engines[NAMES[0]].warms = [False, True, True, True]
    bench.tell(*[400] * RUN)
    await bench.engines[NAMES[0]].wait_for_warm(3)
    await bench.count(5)
    assert bench.faults <= {""}


async def test_one_token_among_refusals_does_not_clear(bench: Bench) -> None:
    bench.follow()
    bench.engines[NAMES[0]].warms = [False, False, True, False, True, False]
    bench.tell(*[400] * RUN)
    await bench.until(lambda health: bool(health.fault))
    await bench.engines[NAMES[0]].wait_for_warm(7)
    assert bench.read().fault


async def test_few_clients_do_not_outweigh_a_token(bench: Bench) -> None:
    bench.follow()
    for client in ("a", "b"):
        bench.tell(*[500] * RUN, client=client)
        bench.tell(200, client=client, name=NAMES[1])
    await bench.engines[NAMES[0]].wait_for_warm()
    await bench.count(5)
    assert bench.read().fault == ""


async def test_many_clients_outweigh_a_token(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.follow()
    for number in range(60):
        client = f"10.0.0.{number % 6}"
        bench.tell(500, 500, 200, client=client)
        bench.tell(200, client=client, name=NAMES[1])
    found = await bench.until(lambda health: bool(health.fault))
    assert found.fault == "it answers with errors to clients that others answer well"
    monkeypatch.setattr(inference, "_WEIGH_SEC", float("inf"))  # what was found out stands by itself
    await bench.count(20)
    assert bench.read().fault
    assert len(bench.engines[NAMES[0]].warmed) == 1
    assert bench.read(NAMES[1]).fault == ""


async def test_errors_that_the_engine_tells_of_are_looked_into(bench: Bench) -> None:
    bench.engines[NAMES[0]].warms = [False]
    bench.engines[NAMES[0]].counters = Counters(graphs=0, responses=9, errors=0)
    bench.follow()
    await bench.count(3)
    assert bench.engines[NAMES[0]].warmed == []
    bench.engines[NAMES[0]].counters = Counters(graphs=0, responses=9, errors=9)
    found = await bench.until(lambda health: bool(health.fault))
    assert "answers a good request with an error" in found.fault


async def test_one_that_infers_again_is_believed_again(bench: Bench) -> None:
    bench.follow()
    bench.engines[NAMES[0]].warms = [False]
    bench.tell(*[500] * RUN)
    await bench.until(lambda health: bool(health.fault))
    bench.follow(rules=rules_with(failures=7))
    assert bench.read().fault
    bench.engines[NAMES[0]].warms = [True]
    await bench.until(lambda health: not health.fault)
    await bench.until(lambda health: "is put back after 3 good probes" in health.doubt)


async def test_a_busy_engine_may_keep_the_token_waiting(bench: Bench) -> None:
    bench.use.is_busy = True
    bench.follow(rules=rules_with(canary_timeout_sec=0.01))
    bench.engines[NAMES[0]].hold = asyncio.Event()
    bench.tell(*[400] * RUN)
    await bench.engines[NAMES[0]].wait_for_warm()
    await bench.count(40)
    assert bench.read().fault == ""


async def test_an_idle_engine_that_gives_no_token_hangs(bench: Bench) -> None:
    bench.engines[NAMES[0]].hold = asyncio.Event()
    bench.follow(rules=rules_with(canary_interval_sec=0.01, canary_timeout_sec=0.02))
    found = await bench.until(lambda health: bool(health.fault))
    assert found.fault == "it gave no token within 0.04 s and was not seen to compute"
    assert found.works is False


async def test_a_deadline_that_passed_while_the_agent_slept_proves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "LATE_SEC", -1.0)  # every deadline passes late
    bench.engines[NAMES[0]].hold = asyncio.Event()
    bench.follow(rules=rules_with(canary_interval_sec=0.01, canary_timeout_sec=0.01))
    await bench.engines[NAMES[0]].wait_for_warm()
    await bench.count(30)
    assert bench.read().fault == ""


async def test_one_that_computes_for_ever_without_a_token_hangs_too(bench: Bench) -> None:
    bench.use.is_busy = True
    bench.engines[NAMES[0]].hold = asyncio.Event()
    bench.follow(rules=rules_with(canary_interval_sec=0.01, canary_timeout_sec=0.01, busy_sec=0.1))
    found = await bench.until(lambda health: bool(health.fault))
    assert (found.fault, found.works) == ("it gave no token within 0.1 s", True)


async def test_an_engine_at_work_is_asked_for_no_token(bench: Bench) -> None:
    bench.use.is_busy = True
    bench.engines[NAMES[0]].counters = Counters(graphs=1, responses=0)
    bench.follow(rules=rules_with(canary_interval_sec=0.01))
    await bench.engines[NAMES[1]].wait_for_warm(3)
    await bench.count(5)
    assert bench.engines[NAMES[0]].warmed == []


async def test_without_counters_one_that_computes_is_not_taken_for_idle(bench: Bench) -> None:
    bench.use.is_busy, bench.engines[NAMES[0]].has_metrics = True, False
    bench.follow(rules=rules_with(canary_interval_sec=0.01))
    await bench.engines[NAMES[1]].wait_for_warm(3)
    await bench.count(5)
    assert bench.engines[NAMES[0]].warmed == []


async def test_without_counters_one_that_computes_nothing_is_asked(bench: Bench) -> None:
    bench.engines[NAMES[0]].has_metrics, bench.engines[NAMES[0]].hold = False, asyncio.Event()
    bench.follow(rules=rules_with(canary_interval_sec=0.01, canary_timeout_sec=0.02))
    found = await bench.until(lambda health: bool(health.fault))
    assert ("no token" in found.fault, found.works) == (True, False)


async def test_requests_in_work_that_get_no_further_are_a_fault(bench: Bench) -> None:
    bench.engines[NAMES[0]].counters = Counters(graphs=3, responses=9)
    bench.follow(rules=rules_with(stall_sec=0.05))
    found = await bench.until(lambda health: bool(health.fault))
    assert (found.fault, found.works) == ("3 requests in work got no further for 0.05 s", False)
    # It was asked for a token half-way, and the fake's counters do not show that it gave one.
    assert bench.engines[NAMES[0]].warmed


async def test_one_that_computes_for_long_is_no_fault(bench: Bench) -> None:
    bench.use.is_busy = True
    bench.engines[NAMES[0]].counters = Counters(graphs=3, responses=9)
    bench.follow(rules=rules_with(stall_sec=0.01))
    await bench.count(60)
    assert bench.read().fault == ""


async def test_one_that_computes_and_answers_nothing_for_very_long_is_one(bench: Bench) -> None:
    bench.use.is_busy = True
    bench.engines[NAMES[0]].counters = Counters(graphs=3, responses=9)
    bench.follow(rules=rules_with(stall_sec=0.01, busy_sec=0.1))
    found = await bench.until(lambda health: bool(health.fault))
    assert found.fault == "3 requests in work got no part of an answer for 0.1 s, though it computes"
    assert found.works is True


@pytest.mark.parametrize("idle", [None, (5.0,)], ids=["the card does not tell", "the card is at work"])
async def test_a_card_that_may_compute_is_no_fault(bench: Bench, idle: tuple[float, ...] | None) -> None:
    bench.use.gpu_idle_sec = idle
    bench.engines[NAMES[0]].counters = Counters(graphs=3, responses=9)
    bench.follow(on_gpu(GENERATES), rules=rules_with(stall_sec=0.01, canary_timeout_sec=0.01))
    bench.engines[NAMES[0]].hold = asyncio.Event()
    await bench.count(60)
    assert bench.read().fault == ""


async def test_an_idle_card_with_requests_in_work_is_one(bench: Bench) -> None:
    bench.use.is_card_idle = True
    bench.engines[NAMES[0]].counters = Counters(graphs=3, responses=9)
    bench.follow(on_gpu(GENERATES), rules=rules_with(stall_sec=0.05))
    found = await bench.until(lambda health: bool(health.fault))
    assert (found.fault, found.works) == ("3 requests in work got no further for 0.05 s", False)


async def test_one_that_cannot_be_asked_is_given_more_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.engines[NAMES[0]].counters = Counters(graphs=3, responses=9)
    bench.follow(EMBEDS, rules=rules_with(stall_sec=0.01))
    await bench.count(60)
    assert bench.read().fault == ""
    monkeypatch.setattr(inference, "UNSEEN_SEC", 0.05)
    await bench.until(lambda health: bool(health.fault))


async def test_embeddings_are_judged_by_clients_that_others_answer_well(bench: Bench) -> None:
    bench.follow(EMBEDS)
    for client in ("a", "b"):
        bench.tell(*[500] * RUN, client=client)
    assert bench.read().fault == ""
    for client in ("a", "b"):
        bench.tell(200, client=client, name=NAMES[1])
        bench.tell(500, client=client)
    found = await bench.until(lambda health: bool(health.fault))
    assert found.fault == "it answers with errors to clients that others answer well"
    assert bench.engines[NAMES[0]].warmed == []


async def test_silence_of_one_that_computed_before_it_stopped(bench: Bench) -> None:
    bench.use.is_busy = True
    bench.follow()
    await bench.count(5)
    bench.use.is_busy, bench.engines[NAMES[0]].is_silent = False, True
    silent = await bench.until(lambda health: health.failures >= 1)
    assert (silent.failures, silent.works) == (1, False)


async def test_silence_while_it_computes_is_told_from_silence(bench: Bench) -> None:
    bench.follow()
    await bench.count(2)
    bench.engines[NAMES[0]].is_silent = True
    silent = await bench.until(lambda health: health.failures >= 2)
    assert silent.works is False
    bench.use.is_busy = True
    await bench.until(lambda health: health.works is True)


async def test_silence_while_it_computes_is_believed_for_a_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "SLOW_SEC", 0.2)
    bench.use.is_busy = True
    bench.follow()
    await bench.count(2)
    bench.engines[NAMES[0]].is_silent = True
    await bench.until(lambda known: known.works is True)
    await bench.until(lambda known: known.failures > 1 and known.works is None)


@pytest.mark.parametrize(
    ("target", "works"),
    [
        pytest.param(EMBEDS, False, id="embeddings on CPUs"),
        pytest.param(on_gpu(EMBEDS), True, id="embeddings on a card that does not tell"),
        pytest.param(on_gpu(GENERATES), False, id="a card does not keep a language model's probes waiting"),
    ],
)
async def test_silence_without_cpu_time(bench: Bench, target: Target, *, works: bool) -> None:
    bench.follow(target)
    await bench.count(2)
    bench.engines[NAMES[0]].is_silent = True
    first = await bench.until(lambda known: known.failures >= 1)
    later = await bench.until(lambda known: known.failures >= 3)
    assert (first.works, later.works) == (works, works)


async def test_nonsense_is_counted_and_dropped(bench: Bench) -> None:
    bench.follow()
    assert bench.watch.describe_nonsense() == ""
    bench.watch.note_datagram(b"\xff")
    bench.tell(400)
    assert bench.watch.nonsense == 1
    assert bench.watch.describe_nonsense().endswith("lines that are none: 1 so far")
