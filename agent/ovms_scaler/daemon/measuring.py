# SPDX-License-Identifier: Apache-2.0
"""Measures what instances do, from what the proxy tells, and what they use, when somebody asks."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ovms_scaler.core.instance import Instance
from ovms_scaler.core.measures import Document, Looks, measures_document
from ovms_scaler.core.record import Answer
from ovms_scaler.core.spec import ProxyMode
from ovms_scaler.core.traffic import Traffic
from ovms_scaler.core.use import CardsUse, HostUse, InstanceUse, T
from ovms_scaler.daemon.lanes import Lane
from ovms_scaler.daemon.orders import View
from ovms_scaler.errors import HostError
from ovms_scaler.host.cgroups import read_cpu_sec, read_memory
from ovms_scaler.host.gpu_use import read_cards
from ovms_scaler.host.node_use import read_nodes
from ovms_scaler.host.processes import read_connections

# A card that hangs may never answer, and neither may a machine in trouble: then what was seen last is told,
# and nothing when that is older.
PATIENCE_SEC = 1.0
FRESH_SEC = 5.0


class Measuring:
    """Counts requests all the time; looks at the machine at most once a second, and never unasked."""

    def __init__(self, view: Callable[[], View], *, proxy_uid: int | None, root: Path = Path("/")) -> None:
        """``proxy_uid`` owns the connections that count."""
        self._view = view
        self._proxy_uid = proxy_uid
        self._root = root
        self.is_told = True  # whether the proxy's record is read
        self._traffic = Traffic(time.monotonic())
        self._host: Lane[HostUse] = Lane("look at the host")
        self._cards: dict[str, Lane[CardsUse]] = {}

    def note(self, answer: Answer) -> None:
        """Take in a request that has ended."""
        self._traffic.note(answer, now_sec=time.monotonic())

    async def read(self) -> Document:
        """What is known now (core/measures.py), after a look; whatever does not answer is not waited for."""
        self._look()
        waits = [self._host.wait(), *(lane.wait() for lane in self._cards.values())]
        waiting = [asyncio.create_task(wait) for wait in waits]
        try:
            await asyncio.wait(waiting, timeout=PATIENCE_SEC)
        finally:  # also when who asked has gone
            for task in waiting:
                task.cancel()
        return self._tell()

    def _tell(self) -> Document:
        target = self._view().target
        # In stream mode nginx knows no requests.
        is_told = self.is_told and target is not None and target.proxy.mode is ProxyMode.http
        now_sec = time.monotonic()
        looks = Looks(
            host=_fresh(self._host, now_sec),
            cards={name: _fresh(lane, now_sec) for name, lane in self._cards.items()},
        )
        return measures_document(
            target.instances if target is not None else (),
            self._traffic if is_told else None,
            looks,
            at=time.time(),
            now_sec=now_sec,
        )

    def _look(self) -> None:
        """Begin to look at all instances that are wanted."""
        view = self._view()
        instances = view.target.instances if view.target is not None else ()
        pids = {
            name: facts.unit.main_pid
            for name, facts in view.facts.instances.items()
            if facts.unit is not None and facts.unit.main_pid
        }
        self._host.look(partial(self._read_host, instances, pids))
        on_cards = {one.id: one for one in instances if one.gpus}
        for name in self._cards.keys() - on_cards.keys():
            del self._cards[name]
        for name, one in on_cards.items():
            lane = self._cards.setdefault(name, Lane(f"look at the GPUs of {name}"))
            lane.look(partial(read_cards, one.gpus, pids.get(name), self._root))

    def _read_host(self, instances: tuple[Instance, ...], pids: Mapping[str, int]) -> HostUse:
        at_sec = time.monotonic()
        try:
            ports = [one.port for one in instances]
            connections = read_connections(ports, self._root, uid=self._proxy_uid)
        except HostError:
            connections = None
        return HostUse(
            at_sec=at_sec,
            instances={
                one.id: InstanceUse(
                    cpu_sec=read_cpu_sec(one.unit, self._root),
                    memory=read_memory(one.unit, pids.get(one.id), self._root),
                )
                for one in instances
            },
            nodes=read_nodes(self._root),
            connections=connections,
        )


def _fresh(lane: Lane[T], now_sec: float) -> Sequence[T]:
    """What was seen lately; nothing when the last of it is too old to be true still."""
    samples = lane.samples
    return samples if samples and now_sec - samples[-1].at_sec <= FRESH_SEC else ()
