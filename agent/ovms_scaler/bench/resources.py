# SPDX-License-Identifier: Apache-2.0
"""What the machine did during a run: the agent's measures and the kernel's counters of the network.

What is not known is None, never 0.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ovms_scaler.errors import ScalerError

EACH_SEC = 1.0
LOOPBACK = "lo"
_ROOT = Path("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Average and maximum over the run."""

    average: float
    maximum: float

    def document(self) -> dict[str, float]:
        return {"average": self.average, "maximum": self.maximum}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What an interface carried until ``at`` (CLOCK_MONOTONIC), bytes in all."""

    at: float
    bytes_by_interface: Mapping[str, tuple[int, int]]


@dataclass(slots=True, kw_only=True)
class Samples:
    """All that was seen; ``trouble`` is why there are no measures."""

    measures: list[Mapping[str, Any]] = field(default_factory=list)
    traffic: list[Traffic] = field(default_factory=list)
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Levels by what they are of. ``missing`` tells why what is not there was not measured, "" for no
    reason.

    Keys are the agent's (``nodes``: cpu_share, memory_used_bytes; ``gpus``: busy_share, memory_used_bytes;
    ``instances``: cpu_cores, memory_bytes), then for ``network`` receive_ and transmit_bytes_per_sec.
    """

    nodes: Mapping[str, Mapping[str, Level | None]]
    gpus: Mapping[str, Mapping[str, Level | None]]
    instances: Mapping[str, Mapping[str, Level | None]]
    network: Mapping[str, Mapping[str, Level | None]]
    front_requests: int | None
    missing: str

    def document(self) -> dict[str, Any]:
        groups = {
            name: {
                one: {key: level.document() if level else None for key, level in levels.items()}
                for one, levels in getattr(self, name).items()
            }
            for name in ("nodes", "gpus", "instances", "network")
        }
        return {**groups, "front_requests": self.front_requests, "missing": self.missing}


@asynccontextmanager
async def sampled(
    read_measures: Callable[[], Mapping[str, Any]] | None, *, without: str = ""
) -> AsyncIterator[Samples]:
    """Look each second while the block runs; ``read_measures`` may block.

    It is None where nobody can be asked, and ``without`` says why.
    """
    samples = Samples(trouble=without)
    if read_measures is None:
        yield samples
        return
    over = asyncio.Event()
    await _look(samples, read_measures)
    task = asyncio.create_task(_look_until(over, samples, read_measures))
    try:
        yield samples
    finally:
        over.set()
        await task


async def _look_until(
    over: asyncio.Event, samples: Samples, read_measures: Callable[[], Mapping[str, Any]]
) -> None:
    """Each second, and once more when it is over."""
    is_last = False
    while not is_last:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EACH_SEC):
                await over.wait()
        is_last = over.is_set()
        await _look(samples, read_measures)


async def _look(samples: Samples, read_measures: Callable[[], Mapping[str, Any]]) -> None:
    samples.traffic.append(await asyncio.to_thread(read_traffic))
    if samples.trouble:
        return
    try:
        samples.measures.append(await asyncio.to_thread(read_measures))
    except ScalerError as error:
        samples.trouble = error.message


def read_traffic(root: Path = _ROOT) -> Traffic:
    """The counters of the loopback and of devices: what bridges and tunnels carry would count twice."""
    try:
        text = (root / "proc/net/dev").read_text()
    except OSError:
        text = ""
    found = parse_net_dev(text)
    network = root / "sys/class/net"
    kept = {
        name: counts
        for name, counts in found.items()
        if name == LOOPBACK or (network / name / "device").exists()
    }
    return Traffic(at=time.monotonic(), bytes_by_interface=kept)


def parse_net_dev(text: str) -> dict[str, tuple[int, int]]:
    """Bytes received and sent by interface, from the text of /proc/net/dev (proc_pid_net(5))."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = rest.split()
        if len(numbers) >= 9 and numbers[0].isdigit() and numbers[8].isdigit():
            found[name.strip()] = (int(numbers[0]), int(numbers[8]))
    return found


def collect(samples: Samples, *, began_at: float, duration_sec: float) -> Resources:
    """Levels from the measures whose window lies within the run: others tell of before or after."""
    ended_at = began_at + duration_sec
    inside = [
        one for one in samples.measures if began_at <= one["at"] - _span(one) and one["at"] <= ended_at
    ]
    missing = samples.trouble
    if not missing and not inside:
        span_sec = max(map(_span, samples.measures), default=0.0)
        missing = f"the run was shorter than the {span_sec:.0f} s over which the agent measures"
    return Resources(
        nodes=_levels(inside, "nodes", "id", ("cpu_share", "memory_used_bytes")),
        gpus=_levels(inside, "gpus", "address", ("busy_share", "memory_used_bytes")),
        instances=_levels(inside, "instances", "id", ("cpu_cores", "memory_bytes")),
        network=_network_levels(samples.traffic),
        front_requests=_count_requests(samples.measures),
        missing=missing,
    )


def _span(measures: Mapping[str, Any]) -> float:
    """How far back the use of CPUs was looked at; a window that is not told is that of the requests."""
    span_sec = measures.get("use_span_sec", measures.get("window_sec"))
    return float(span_sec) if isinstance(span_sec, int | float) else 0.0


def _levels(
    documents: Sequence[Mapping[str, Any]], group: str, name: str, keys: tuple[str, ...]
) -> dict[str, dict[str, Level | None]]:
    seen: dict[str, dict[str, list[float]]] = {}
    for document in documents:
        for entry in document.get(group) or ():
            own = seen.setdefault(str(entry.get(name)), {key: [] for key in keys})
            for key in keys:
                if isinstance(value := entry.get(key), int | float):
                    own[key].append(float(value))
    return {one: {key: _level(values) for key, values in own.items()} for one, own in seen.items()}


def _level(values: Sequence[float]) -> Level | None:
    return Level(average=sum(values) / len(values), maximum=max(values)) if values else None


def _network_levels(traffic: Sequence[Traffic]) -> dict[str, dict[str, Level | None]]:
    """The average is exact, from the first look to the last; the maximum is that of a second or so."""
    if len(traffic) < 2:
        return {}
    first, last = traffic[0], traffic[-1]
    levels: dict[str, dict[str, Level | None]] = {}
    for name in sorted(first.bytes_by_interface.keys() & last.bytes_by_interface.keys()):
        levels[name] = {
            f"{way}_bytes_per_sec": _rate_level(traffic, name, index)
            for index, way in enumerate(("receive", "transmit"))
        }
    return levels


def _rate_level(traffic: Sequence[Traffic], name: str, index: int) -> Level | None:
    seen = [
        (one.at, one.bytes_by_interface[name][index]) for one in traffic if name in one.bytes_by_interface
    ]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(seen)]
    # Of less than half a second the rate is chance.
    rates = [size / span for span, size in steps if span >= EACH_SEC / 2]
    span_sec, size = seen[-1][0] - seen[0][0], seen[-1][1] - seen[0][1]
    if span_sec <= 0 or size < 0:
        return None
    return Level(average=size / span_sec, maximum=max([*rates, size / span_sec]))


def _count_requests(measures: Sequence[Mapping[str, Any]]) -> int | None:
    """Requests that the front ended between the first and the last look, whoever sent them."""
    if len(measures) < 2:
        return None
    first, last = ((one.get("front") or {}).get("requests_total") for one in (measures[0], measures[-1]))
    return last - first if isinstance(first, int) and isinstance(last, int) and last >= first else None
