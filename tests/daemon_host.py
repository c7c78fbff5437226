# SPDX-License-Identifier: Apache-2.0
"""The daemon's parts on a host below a directory: real files and sockets, fakes at the ports."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import world
from fakes.engines import FakeEngine, FakeEngines, status_of
from fakes.proxy import FakeProxy
from fakes.units import FakeUnits

from ovms_scaler.config import Config
from ovms_scaler.core.books import Books
from ovms_scaler.core.facts import Facts
from ovms_scaler.core.model import ModelFacts
from ovms_scaler.core.tally import Tally
from ovms_scaler.core.target import Target
from ovms_scaler.core.topology import Gpu, Topology
from ovms_scaler.daemon.admin import Admin
from ovms_scaler.daemon.agent import Agent
from ovms_scaler.daemon.apply import Applier
from ovms_scaler.daemon.ends import Ends
from ovms_scaler.daemon.health import HealthWatch
from ovms_scaler.daemon.observe import Memory, Observer
from ovms_scaler.daemon.wedges import Wedges
from ovms_scaler.host.notify import Notifier
from ovms_scaler.host.store import Store
from ovms_scaler.offline import resolve_config

PROXY_UID = 4711
LIMIT_SEC = 10.0
SERVING = status_of("org/tiny")
CONFIG = """\
[[pool]]
name = "chat"
model_name = "org/tiny"
model_path = "/srv/models/tiny"
[health]
interval_sec = 0.1
"""


@dataclass(slots=True, kw_only=True)
class DaemonHost:
    """Everything that the agent is made of; ``nodes`` nodes of four CPUs, ``model`` in every pool.

    ``resolved`` tells of each time that the machine was looked at whether that was for a planned change;
    ``trouble`` is raised then. ``asked`` is how often that began: it hangs while ``answers`` is cleared.
    """

    root: Path
    units: FakeUnits
    proxy: FakeProxy
    engines: FakeEngines
    store: Store
    memory: Memory
    health: HealthWatch
    observer: Observer
    applier: Applier
    wedges: Wedges
    nodes: int = 1
    model: ModelFacts = field(default_factory=world.model)
    gpus: dict[str, Gpu] = field(default_factory=dict)
    plugged: int = 0
    resolved: list[bool] = field(default_factory=list)
    trouble: Exception | None = None
    asked: int = 0
    answers: threading.Event = field(default_factory=threading.Event)
    _asking: threading.Condition = field(default_factory=threading.Condition)
    woken: int = 0
    agent: Agent | None = None
    admin: Admin = field(default_factory=Admin)
    tally: Tally = field(default_factory=Tally)
    notifiers: list[Notifier] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def config_file(self) -> Path:
        return self.root / "etc/config.toml"

    def engine(self, number: int = 0) -> FakeEngine:
        return self.engines[8003 + number]

    def target(self, *pools: dict[str, object], **options: int) -> Target:
        return world.target(*pools, nodes=options.get("nodes", self.nodes))

    async def observe(self, target: Target | None = None) -> Facts:
        return await self.observer.observe(target or self.target())

    def configure(self, text: str = CONFIG) -> None:
        self.config_file.parent.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(text)

    @property
    def topology(self) -> Topology:
        return world.topology(self.nodes, gpus=self.gpus.values())

    def resolve(self, config: Config, books: Books, *, planned: bool) -> Target:
        with self._asking:
            self.asked += 1
            self._asking.notify_all()
        self.answers.wait(LIMIT_SEC)
        if self.trouble is not None:
            raise self.trouble
        self.resolved.append(planned)
        return resolve_config(config, self.topology, books, read=lambda _: self.model, planned=planned)

    async def until_asked(self, times: int) -> None:
        """Until somebody has begun so often to look at the machine, whatever comes of it."""

        def wait() -> bool:
            with self._asking:
                return self._asking.wait_for(lambda: self.asked >= times, LIMIT_SEC)

        assert await asyncio.to_thread(wait)

    def plug(self, address: str, *, render: int = 128, node: int = 0) -> None:
        """A GPU is put in: its render node leads to a directory of its own, as in sysfs."""
        self.gpus[address] = world.gpu(address, node, render=render)
        self.plugged += 1
        device = self.root / f"sys/devices/{self.plugged}"
        device.mkdir(parents=True)
        link = self.root / f"sys/class/drm/renderD{render}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(device)

    def pull(self, address: str) -> None:
        """A GPU is pulled out. What systemd does then is left to the test."""
        (self.root / "sys/class/drm" / Path(self.gpus.pop(address).render_node or "").name).unlink()

    def connect(self, *clients: tuple[int, int, str]) -> None:
        """Connections to 127.0.0.1: (port, uid, state), as proc_net(5) has them."""
        lines = ["  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"]
        lines += [
            f"   0: 0100007F:C000 0100007F:{port:04X} {state} 00000000:00000000 00:00000000 00000000 {uid:5}"
            for port, uid, state in clients
        ]
        write(self.root / "proc/net/tcp", "\n".join(lines) + "\n")

    def note_processes(self, _unit: str = "") -> None:
        """What the kernel does when systemd starts a process: /proc/PID/status."""
        for entry in self.units.loaded.values():
            if entry.facts.main_pid:
                found = [line for line in entry.text.splitlines() if line.startswith("CPUAffinity=")]
                cpus = found[0].partition("=")[2] if found else f"0-{4 * self.nodes - 1}"
                status = f"Name:\tovms\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t0-{self.nodes - 1}\n"
                write(self.root / f"proc/{entry.facts.main_pid}/status", status)

    # The whole agent

    def start_agent(self) -> Agent:
        self.notifiers.append(Notifier({"NOTIFY_SOCKET": str(self.root / "notify"), **self.environment}))
        self.agent = Agent(
            config_file=self.config_file,
            resolve=self.resolve,
            store=self.store,
            observer=self.observer,
            applier=self.applier,
            wedges=self.wedges,
            notifier=self.notifiers[-1],
            admin=self.admin,
            tally=self.tally,
        )
        self.units.subscribe(self.agent.wake)
        self.agent.load()
        return self.agent

    def wake(self) -> None:
        self.woken += 1
        if self.agent is not None:
            self.agent.wake()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@contextlib.asynccontextmanager
async def daemon_host(root: Path) -> AsyncIterator[DaemonHost]:
    units, proxy, engines = FakeUnits(root=root), FakeProxy(), FakeEngines()
    store, memory = Store(root), Memory()
    wedges, ends = Wedges(store), Ends(store)
    made: list[DaemonHost] = []
    health = HealthWatch(engines.connect, lambda: made[0].wake())
    observer = Observer(
        units=units,
        proxy=proxy,
        store=store,
        health=health,
        memory=memory,
        wedges=wedges,
        ends=ends,
        proxy_uid=PROXY_UID,
        root=root,
    )
    applier = Applier(
        units=units,
        proxy=proxy,
        store=store,
        memory=memory,
        wedges=wedges,
        ends=ends,
        settled=lambda: made[0].wake(),
        kill=lambda pid, unit: units.kill_process(pid, unit),
    )
    host = DaemonHost(
        root=root,
        units=units,
        proxy=proxy,
        engines=engines,
        store=store,
        memory=memory,
        health=health,
        observer=observer,
        applier=applier,
        wedges=wedges,
    )
    made.append(host)
    host.answers.set()
    units.subscribe(host.note_processes)
    host.connect()
    try:
        yield host
    finally:
        host.answers.set()
        await applier.close()
        await health.close()
        for notifier in host.notifiers:
            notifier.close()


@dataclass(slots=True, kw_only=True)
class Running:
    """An agent whose passes run; each tells the socket of sd_notify(3), which is what tests wait for."""

    host: DaemonHost
    agent: Agent
    socket: socket.socket
    passes: asyncio.Task[None]

    async def next_word(self) -> str:
        """The next datagram."""
        async with asyncio.timeout(LIMIT_SEC):
            word = (await asyncio.get_running_loop().sock_recv(self.socket, 4096)).decode()
        self.host.said.append(word)
        return word

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when it holds after some pass."""
        async with asyncio.timeout(LIMIT_SEC):
            while not holds():
                if self.passes.done():
                    self.passes.result()
                await self.next_word()

    async def until_state(self, state: str, instance: str = "chat-numa0") -> dict[str, object]:
        await self.until(lambda: self.read(instance).get("state") == state)
        return self.read(instance)

    def read(self, instance: str = "chat-numa0") -> dict[str, object]:
        """One entry of the status document, {} for none."""
        document = json.loads(json.dumps(self.agent.document()))
        found = [one for one in document["instances"] if one["id"] == instance]
        return found[0] if found else {}

    @property
    def routed(self) -> bool:
        return self.read().get("in_rotation") is True


@contextlib.asynccontextmanager
async def running(host: DaemonHost) -> AsyncIterator[Running]:
    """The agent's passes until the block ends, as main() runs them."""
    address = host.root / "notify"
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as words:
        words.bind(str(address))
        agent = host.start_agent()
        passes = asyncio.create_task(agent.run(), name="passes")
        try:
            yield Running(host=host, agent=agent, socket=words, passes=passes)
        finally:
            passes.cancel()
            await asyncio.gather(passes, return_exceptions=True)
