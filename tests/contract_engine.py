# SPDX-License-Identifier: Apache-2.0
"""What everything that stands for an engine's REST port must do: run on the fake and on the real client."""

import asyncio
from dataclasses import dataclass

import pytest
from fakes.engines import FakeEngine, status_of

from ovms_scaler.core.facts import Canary, Probe
from ovms_scaler.core.progress import Counters
from ovms_scaler.daemon.ports import EnginePort

MODEL = "org/tiny"
LIMIT_SEC = 10


@dataclass(frozen=True, kw_only=True)
class EngineBench:
    """A client under test, and the engine that it asks."""

    client: EnginePort
    engine: FakeEngine


class EngineContract:
    """Subclasses provide the ``bench`` fixture, whose client gives up on a probe after 0.2 s."""

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            pytest.param(None, Probe.refused, id="nobody listens"),
            pytest.param(b"{}", Probe.loading, id="nothing registered yet"),
            pytest.param(status_of("other"), Probe.loading, id="another model"),
            pytest.param(status_of(MODEL, "LOADING"), Probe.loading, id="loading"),
            pytest.param(status_of(MODEL, "LOADING", "FAILED_PRECONDITION"), Probe.failed, id="failed"),
            pytest.param(status_of(MODEL), Probe.available, id="available"),
            pytest.param(b"hello", Probe.nonsense, id="not JSON"),
        ],
    )
    async def test_probe(self, bench: EngineBench, body: bytes | None, expected: Probe) -> None:
        bench.engine.body = body
        for _ in range(2):
            probe, sentence = await bench.client.probe((MODEL,))
            assert probe is expected
            assert sentence

    async def test_silence_is_told_after_the_deadline(self, bench: EngineBench) -> None:
        bench.engine.is_silent = True
        async with asyncio.timeout(LIMIT_SEC):
            probe, sentence = await bench.client.probe((MODEL,))
        assert (probe, sentence[:17]) == (Probe.silent, "no answer on port")

    async def test_probes_follow_what_the_engine_says(self, bench: EngineBench) -> None:
        seen = []
        for body in (None, b"{}", status_of(MODEL), None, status_of(MODEL)):
            bench.engine.body = body
            seen.append((await bench.client.probe((MODEL,)))[0])
        assert seen == [Probe.refused, Probe.loading, Probe.available, Probe.refused, Probe.available]

    @pytest.mark.parametrize("answered", [True, False], ids=["a token", "a refusal"])
    async def test_warm(self, bench: EngineBench, *, answered: bool) -> None:
        bench.engine.body, bench.engine.warms = status_of(MODEL), [answered]
        result, sentence = await bench.client.warm(MODEL)
        assert result is answered
        assert sentence
        assert MODEL in bench.engine.warmed

    async def test_warm_without_an_engine(self, bench: EngineBench) -> None:
        bench.engine.body = None
        answered, sentence = await bench.client.warm(MODEL)
        assert not answered
        assert "POST" in sentence

    async def test_warm_takes_longer_than_a_probe_may(self, bench: EngineBench) -> None:
        bench.engine.body, bench.engine.hold = status_of(MODEL), asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, bench.engine.hold.set)
        async with asyncio.timeout(LIMIT_SEC):
            assert (await bench.client.warm(MODEL))[0]

    async def test_a_warm_that_is_cancelled_ends(self, bench: EngineBench) -> None:
        bench.engine.body, bench.engine.hold = status_of(MODEL), asyncio.Event()
        warming = asyncio.create_task(bench.client.warm(MODEL))
        await bench.engine.wait_for_warm()
        warming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await warming
        bench.engine.hold.set()

    @pytest.mark.parametrize("answered", [True, False], ids=["a token", "a refusal"])
    async def test_try_token(self, bench: EngineBench, *, answered: bool) -> None:
        bench.engine.body, bench.engine.warms = status_of(MODEL), [answered]
        result, sentence = await bench.client.try_token(MODEL, timeout_sec=LIMIT_SEC)
        assert result is (Canary.answered if answered else Canary.refused)
        assert sentence

    async def test_try_token_gives_up_in_time(self, bench: EngineBench) -> None:
        bench.engine.body, bench.engine.hold = status_of(MODEL), asyncio.Event()
        async with asyncio.timeout(LIMIT_SEC):
            result, _ = await bench.client.try_token(MODEL, timeout_sec=0.05)
        assert result is Canary.silent
        bench.engine.hold.set()

    async def test_try_token_without_an_engine(self, bench: EngineBench) -> None:
        bench.engine.body = None
        assert (await bench.client.try_token(MODEL, timeout_sec=LIMIT_SEC))[0] is Canary.lost

    async def test_one_that_is_available_and_not_ready_loads(self, bench: EngineBench) -> None:
        bench.engine.body, bench.engine.unready = status_of(MODEL), {MODEL}
        assert (await bench.client.probe((MODEL,)))[0] is Probe.available
        probe, sentence = await bench.client.probe((MODEL,), ready=(MODEL,))
        assert (probe, "is not ready" in sentence) == (Probe.loading, True)
        bench.engine.unready = set()
        assert (await bench.client.probe((MODEL,), ready=(MODEL,)))[0] is Probe.available

    async def test_counters(self, bench: EngineBench) -> None:
        bench.engine.body, bench.engine.counters = (
            status_of(MODEL),
            Counters(graphs=2, responses=7, errors=3),
        )
        assert await bench.client.read_counters() == Counters(graphs=2, responses=7, errors=3)
        bench.engine.has_metrics = False
        assert await bench.client.read_counters() is None
