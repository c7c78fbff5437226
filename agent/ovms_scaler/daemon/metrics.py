# SPDX-License-Identifier: Apache-2.0
"""``GET /metrics``: the agent's own and those of the engines, in the form that Prometheus asks for."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample

from ovms_scaler import __version__
from ovms_scaler.core.metrics import PREFIX, Family, engine_families, families_of
from ovms_scaler.core.tally import Tally
from ovms_scaler.daemon.engine_metrics import LabelSets, merge_engine_metrics, parse_engine_metrics
from ovms_scaler.daemon.kept import Kept
from ovms_scaler.errors import InputError

# Who asks within this time of another gets the same, in whatever form: nobody can have the engines asked all
# the time.
FRESH_SEC = 1.0
# The engines are asked at once. Prometheus waits for ten seconds by default.
ENGINE_SEC = 1.0
# Of the answers of all engines together. With one model each they have some 20 KiB.
MAX_BYTES = 8 << 20

Document = Mapping[str, Any]


class EngineMetrics(Protocol):
    """One engine's REST port."""

    async def read_metrics(self) -> bytes | None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Collection:
    """Everything at one moment, and the texts that were made of it, by content type."""

    own: list[Family]
    engines: Mapping[str, tuple[Metric, ...]]
    texts: dict[str, Kept[bytes]] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Read:
    """What engines answered, by instance, and why not, by instance, too."""

    texts: dict[str, bytes] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


class Metrics:
    """Collects on the event loop; makes text of it in a thread, as much of it would delay health checks."""

    def __init__(
        self,
        *,
        status: Callable[[], Document],
        measures: Callable[[], Awaitable[Document]],
        tally: Tally,
        connect: Callable[[int, float], EngineMetrics],
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """``connect`` opens an engine by port and deadline in seconds."""
        self._status = status
        self._measures = measures
        self._tally = tally
        self._connect = connect
        self._max_bytes = max_bytes
        self._collection = Kept(self._collect, name="metrics")
        self._failures: Counter[tuple[str, str]] = Counter()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")

    async def answer(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type, for an Accept header."""
        encode, content_type = choose_encoder(accept)
        collection = await self._collection.get(within_sec=FRESH_SEC)
        text = collection.texts.get(content_type)
        if text is None:
            text = Kept(partial(self._render, encode, collection), name="text of metrics")
            collection.texts[content_type] = text
        return await text.get(within_sec=float("inf")), content_type

    async def close(self) -> None:
        await self._collection.close()
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def _collect(self) -> _Collection:
        status = self._status()
        running = {one["id"]: one["port"] for one in status["instances"] if one["pid"] and one["port"]}
        measures, read = await asyncio.gather(self._measures(), self._read_engines(running))
        own = families_of(status, measures, self._tally, version=__version__, now_sec=time.monotonic())
        parsed = await asyncio.get_running_loop().run_in_executor(self._worker, _parse, read)
        self._failures.update(read.failures.items())
        own += engine_families(running, parsed.keys(), self._failures)
        return _Collection(own=own, engines=parsed)

    async def _render(self, encode: Callable[[CollectorRegistry], bytes], collection: _Collection) -> bytes:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._worker, render_metrics, encode, collection.own, collection.engines
        )

    async def _read_engines(self, ports: Mapping[str, int]) -> _Read:
        answers = await asyncio.gather(*map(self._read_engine, ports.values()))
        read, size = _Read(), 0
        for instance, text in zip(ports, answers, strict=True):
            size += len(text or b"")
            if text is None:
                read.failures[instance] = "no_answer"
            elif size > self._max_bytes:
                read.failures[instance] = "too_large"
            else:
                read.texts[instance] = text
        return read

    async def _read_engine(self, port: int) -> bytes | None:
        engine = self._connect(port, ENGINE_SEC)
        try:
            return await engine.read_metrics()
        finally:
            await engine.close()


def _parse(read: _Read) -> dict[str, tuple[Metric, ...]]:
    parsed = {}
    known: LabelSets = {}
    for instance, text in read.texts.items():
        try:
            parsed[instance] = parse_engine_metrics(text.decode(errors="replace"), known)
        except InputError:
            read.failures[instance] = "invalid"
    return parsed


def render_metrics(
    encode: Callable[[CollectorRegistry], bytes],
    own: Iterable[Family],
    engines: Mapping[str, tuple[Metric, ...]],
) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    # CPU time, memory and files of the agent itself.
    ProcessCollector(namespace=PREFIX.rstrip("_"), registry=registry)
    registry.register(_Collected(own, engines))
    return encode(registry)


class _Collected(Collector):
    """What was collected, for a registry of its own."""

    def __init__(self, own: Iterable[Family], engines: Mapping[str, tuple[Metric, ...]]) -> None:
        self._own = own
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        yield from map(_metric, self._own)
        yield from merge_engine_metrics(self._engines)


def _metric(family: Family) -> Metric:
    metric = Metric(PREFIX + family.name, family.doc, family.kind)
    metric.samples = [
        Sample(metric.name + one.suffix, dict(one.labels), one.value) for one in family.samples
    ]
    return metric
