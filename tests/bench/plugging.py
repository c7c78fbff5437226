# SPDX-License-Identifier: Apache-2.0
"""What the agent adds when a card is pulled out or plugged in: the settling of udev's events and its passes.

Everything outside the agent answers at once here; the machine is read from real files each time.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import machines
from daemon_host import SERVING, DaemonHost, daemon_host
from fakes.devices import FakeMonitor

from bench.measure import Measured
from ovms_scaler import offline
from ovms_scaler.config import Config
from ovms_scaler.core.books import Books
from ovms_scaler.core.instance import unit_name
from ovms_scaler.core.target import Target
from ovms_scaler.daemon.agent import Agent
from ovms_scaler.daemon.devices import DeviceWatch
from ovms_scaler.host.notify import Notifier
from ovms_scaler.host.sysfs import read_topology

ROUNDS = 15
LIMIT_SEC = 30.0
PULLED_BUDGET_MS = 250.0
PLUGGED_BUDGET_MS = 500.0
CONFIG = """\
[[pool]]
name = "chat"
model_name = "org/tiny"
model_path = "/srv/models/tiny"
[[pool]]
name = "card"
model_name = "org/tiny"
model_path = "/srv/models/tiny"
placement = "gpu"
host_cpus_per_gpu = 1
"""


def measure() -> Iterator[Measured]:
    """Both ways, on a machine with 4 cards and on one with 16."""
    for machine in (machines.four_gpus, machines.sixteen_gpus):
        yield from asyncio.run(measure_machine(machine))


async def measure_machine(machine: Callable[[Path], Path]) -> list[Measured]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        whole, less = machine(Path(directory, "whole")), machine(Path(directory, "less"))
        address = read_topology(whole).gpus[-1].address
        take_out(less, address)
        async with daemon_host(Path(directory, "host")) as host:
            return await Bench(host, whole=whole, less=less, address=address).measure()


def take_out(root: Path, address: str) -> None:
    """Remove a card from a copied sysfs, with every link to it."""
    device = (root / "sys/bus/pci/devices" / address).resolve()
    for link in (*root.glob("sys/class/drm/*"), root / "sys/bus/pci/devices" / address):
        if link.resolve().is_relative_to(device):
            link.unlink()
    shutil.rmtree(device)


class Bench:
    """An agent whose machine has a card more or less from one moment to the next."""

    def __init__(self, host: DaemonHost, *, whole: Path, less: Path, address: str) -> None:
        self._host = host
        self._whole = whole
        self._less = less
        self._address = address
        self._machine = whole
        self._monitor = FakeMonitor()
        self._changed = asyncio.Event()
        host.configure(CONFIG)
        self._agent = Agent(
            config_file=host.config_file,
            resolve=self._resolve,
            store=host.store,
            observer=host.observer,
            applier=host.applier,
            wedges=host.wedges,
            notifier=Bell(self._changed),
            admin=host.admin,
            tally=host.tally,
        )
        host.agent = self._agent
        host.nodes = len(read_topology(whole).nodes)
        host.units.subscribe(self._agent.wake)
        host.units.subscribe(lambda _: self._changed.set())
        self._agent.load()

    async def measure(self) -> list[Measured]:
        """Pull and plug again and again, when everything serves."""
        for port in self._host.store.read_books().ports.values():
            self._host.engines[port].body = SERVING
        watch = DeviceWatch(self._monitor, changed=self._agent.note_devices, wedged=self._agent.note_hang)
        running = asyncio.create_task(self._agent.run())
        pulled, plugged = [], []
        try:
            await self._until(lambda: len(self._routes()) == self._agent.wanted_count())
            for _ in range(ROUNDS):
                pulled.append(await self._pull())
                plugged.append(await self._plug())
        finally:
            watch.close()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        count = self._agent.wanted_count()
        return [
            Measured(
                name=f"card pulled to out of rotation, {count} instances",
                samples=pulled,
                unit="ms",
                budget=PULLED_BUDGET_MS,
            ),
            Measured(
                name=f"card plugged to its unit's start, {count} instances",
                samples=plugged,
                unit="ms",
                budget=PLUGGED_BUDGET_MS,
            ),
        ]

    async def _pull(self) -> float:
        self._machine = self._less
        began = time.perf_counter()
        self._monitor.remove_gpu(self._address)
        await self._until(lambda: self._instance not in self._routes())
        took = time.perf_counter() - began
        await self._until(lambda: not self._host.units.read_unit(unit_name(self._instance)).is_running)
        return took * 1000

    async def _plug(self) -> float:
        self._machine = self._whole
        began = time.perf_counter()
        self._monitor.add_gpu(self._address)
        await self._until(lambda: self._host.units.read_unit(unit_name(self._instance)).is_running)
        took = time.perf_counter() - began
        await self._until(lambda: self._instance in self._routes())
        return took * 1000

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for the pass, or the change of a unit, after which the condition holds."""
        async with asyncio.timeout(LIMIT_SEC):
            while not condition():
                await self._changed.wait()
                self._changed.clear()

    @property
    def _instance(self) -> str:
        return f"card-gpu-{self._address}"

    def _routes(self) -> set[str]:
        return {Path(path).stem for path in self._host.proxy.files.files if path.startswith("routes/")}

    def _resolve(self, config: Config, books: Books, *, planned: bool) -> Target:
        return offline.resolve_config(
            config, read_topology(self._machine), books, lambda _: self._host.model, planned=planned
        )


class Bell(Notifier):
    """Rings when a pass is over."""

    def __init__(self, rings: asyncio.Event) -> None:
        super().__init__({})
        self._rings = rings

    def status(self, text: str) -> bool:
        self._rings.set()
        return super().status(text)
