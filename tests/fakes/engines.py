# SPDX-License-Identifier: Apache-2.0
"""Engines in memory, by port: they refuse, are silent, load, fail, serve and count who asks."""

import asyncio
import json
from dataclasses import dataclass, field

from ovms_scaler.core.config_status import parse_config_status
from ovms_scaler.core.facts import Canary, Probe
from ovms_scaler.core.progress import Counters

LOADING = b"{}"


def status_of(name: str, state: str = "AVAILABLE", error: str = "OK") -> bytes:
    """What GET /v1/config says of one model."""
    version = {"version": "1", "state": state, "status": {"error_code": error, "error_message": error}}
    return json.dumps({name: {"model_version_status": [version]}}).encode()


@dataclass(slots=True, kw_only=True)
class FakeEngine:
    """One port. ``body`` is what GET /v1/config says, None for a port where nobody listens.

    ``is_silent`` takes questions and answers none. ``unready`` are models that cannot serve all the same.
    ``warms`` are the answers of generations, the last one for ever. ``hold`` keeps generations waiting while
    it is given and not set.
    """

    body: bytes | None = LOADING
    is_silent: bool = False
    warms: list[bool] = field(default_factory=lambda: [True])
    hold: asyncio.Event | None = None
    has_metrics: bool = True
    counters: Counters = field(default_factory=lambda: Counters(graphs=0, responses=0))
    unready: set[str] = field(default_factory=set)
    asked_ready: list[str] = field(default_factory=list)
    probes: int = 0
    warmed: list[str] = field(default_factory=list)
    connections: int = 0
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def count(self, probes: int) -> None:
        """Return when so many more probes have been answered."""
        wanted = self.probes + probes
        async with asyncio.timeout(10), self.news:
            await self.news.wait_for(lambda: self.probes >= wanted)

    async def wait_for_warm(self, times: int = 1) -> None:
        """Return when so many generations have been asked for in all."""
        async with asyncio.timeout(10), self.news:
            await self.news.wait_for(lambda: len(self.warmed) >= times)

    async def note_warm(self, model_name: str) -> None:
        async with self.news:
            self.warmed.append(model_name)
            self.news.notify_all()

    async def note_probe(self) -> None:
        async with self.news:
            self.probes += 1
            self.news.notify_all()


@dataclass(slots=True, kw_only=True)
class FakeConnection:
    """What HealthWatch gets when it connects."""

    engine: FakeEngine
    port: int
    timeout_sec: float

    async def probe(self, expected: tuple[str, ...], *, ready: tuple[str, ...] = ()) -> tuple[Probe, str]:
        try:
            if self.engine.body is None:
                return Probe.refused, f"nobody answers on port {self.port}"
            if self.engine.is_silent:
                await asyncio.sleep(self.timeout_sec)
                return Probe.silent, f"no answer on port {self.port} within {self.timeout_sec:g} s"
            self.engine.asked_ready += ready
            probe, sentence = parse_config_status(self.engine.body, expected)
            if probe is Probe.available and (unready := self.engine.unready.intersection(ready)):
                return Probe.loading, f"{min(unready)!a} is listed as available, and is not ready"
            return probe, sentence
        finally:
            await self.engine.note_probe()

    async def warm(self, model_name: str) -> tuple[bool, str]:
        if self.engine.body is None:
            return False, f"POST /v3/completions on port {self.port} failed"
        await self.engine.note_warm(model_name)
        if self.engine.hold is not None:
            await self.engine.hold.wait()
        answers = self.engine.warms
        answered = answers.pop(0) if len(answers) > 1 else answers[0]
        return answered, "generated" if answered else "was answered with status 400"

    async def try_token(self, model_name: str, *, timeout_sec: float) -> tuple[Canary, str]:
        if self.engine.body is None:
            return Canary.lost, f"POST /v3/completions on port {self.port} failed"
        try:
            async with asyncio.timeout(timeout_sec):
                answered, sentence = await self.warm(model_name)
        except TimeoutError:
            return Canary.silent, f"no token within {timeout_sec:g} s"
        return Canary.answered if answered else Canary.refused, sentence

    async def read_counters(self) -> Counters | None:
        return self.engine.counters if self.engine.has_metrics else None

    async def close(self) -> None:
        self.engine.connections -= 1


@dataclass(slots=True)
class FakeEngines:
    """Every port of 127.0.0.1; ``engines[8003]`` is made when it is first spoken of."""

    engines: dict[int, FakeEngine] = field(default_factory=dict)

    def __getitem__(self, port: int) -> FakeEngine:
        return self.engines.setdefault(port, FakeEngine())

    def connect(self, port: int, timeout_sec: float) -> FakeConnection:
        self[port].connections += 1
        return FakeConnection(engine=self[port], port=port, timeout_sec=timeout_sec)
