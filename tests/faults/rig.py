# SPDX-License-Identifier: Apache-2.0
"""A host with four engines and one balancer in front of them, ready to be harmed.

The engines are the same behind each balancer: the stand-in, simulated, at the pace that the fault asks for;
each reads its own fault from /run/lab/fault-NAME (gone when it starts again, unless /run/lab/sticky-NAME is
there) and does not finish loading while /run/lab/gate-NAME is there.

Four instances need four cores, which the machine may not have. Therefore our agent is shown a machine with
four, numbered from 1000 up, of which no process could ever get one, and a drop-in of the administrator's for
all instances takes their affinity back, as the agent lets administrators do. All else is as installed.
"""

import contextlib
import http.client
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machines
from lab import paths
from lab.host import Host
from lab.image import Image

from faults import peers
from faults.peers import PORTS, SERVICE, Balancer

MODEL = "tiny/llama"
FIRST_CPU = 1000
AGENT = "ovms-scaler.service"
CONFIG = "/etc/ovms-scaler/config.toml"
SOCKET = "/run/ovms-scaler/control.sock"
LAB = "/run/lab"
MODEL_PATH = "/srv/models/tiny"
NEW_MODEL_PATH = "/srv/models/tiny-2"  # the same, for who changes the model
BINDS = {
    "/opt/ovms": paths.CACHE / "ovms-standin",
    MODEL_PATH: paths.LAB / "standin" / "model",
    NEW_MODEL_PATH: paths.LAB / "standin" / "model",
}
POOL = """\
[[pool]]
name = "chat"
model_name = "{model}"
model_path = "{model_path}"
instances_per_node = {instances}
memory = "preferred"
{keys}
[pool.ovms]
rest_workers = {rest_workers}
flags = {flags}
{tables}
"""
# In its sandbox the agent has a /proc of its own.
SHOWN = "[Service]\nBindReadOnlyPaths=/shown/proc/1/status:/proc/1/status\n"
FREE = "CPUAffinity=\nAllowedCPUs=\nNUMAPolicy=default\nNUMAMask=\nAllowedMemoryNodes=\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine by what its unit is an instance of."""

    name: str
    unit: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How the engines are: their pace in milliseconds, and how many requests one works on and lets wait.

    ``health`` are lines for the table [health] of our agent.
    """

    instances: int = len(PORTS)
    first_token_ms: int = 10
    token_ms: int = 10
    rest_workers: int = 257
    waiting_room: int = 1024
    health: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """A booted host."""

    host: Host
    balancer: Balancer
    engines: tuple[Engine, ...]
    shape: Shape

    @property
    def is_ours(self) -> bool:
        return self.balancer is Balancer.ours

    @property
    def front_port(self) -> int:
        return peers.FRONT_PORT[self.balancer]

    @property
    def service(self) -> str:
        return SERVICE[self.balancer]

    def read_pid(self, engine: Engine) -> int:
        """Its main process, 0 when it has none."""
        return int(self.host.properties(engine.unit, "MainPID")["MainPID"])

    def read_agent_pid(self) -> int:
        """As read_pid(); 0, too, where the balancer is not ours."""
        return int(self.host.properties(AGENT, "MainPID")["MainPID"]) if self.is_ours else 0

    def read_pids(self) -> dict[str, int]:
        return {engine.name: self.read_pid(engine) for engine in self.engines}

    def read_form(self, engine: Engine, pid: int) -> str:
        """The command line of the process, and the graph that our agent wrote for it before it started."""
        graph = f"/run/ovms-scaler/instances/{engine.name}/graph.pbtxt"
        return self.host.script(f"cat /proc/{pid}/cmdline {graph} || true")

    def is_ready(self, engine: Engine) -> bool:
        path = f"/v2/models/{MODEL.replace('/', '%2F')}/ready"
        try:
            return self.host.http("GET", path, port=engine.port, timeout_sec=5).status == 200
        except OSError:
            return False

    def is_listening(self, engine: Engine) -> bool:
        """Whether there is a process that takes connections, be it loading or serving."""
        try:
            self.host.connect(engine.port, timeout_sec=5).close()
        except OSError:
            return False
        return True

    def set_fault(self, engine: Engine, word: str, *, sticky: bool = False) -> None:
        """From now on the engine has this fault, until it is started again, or for good if ``sticky``."""
        if sticky:
            self.host.write(f"{LAB}/sticky-{engine.name}", "")
        self.host.write(f"{LAB}/fault-{engine.name}", word)

    def close_gates(self, *engines: Engine) -> None:
        """These do not finish loading from now on."""
        self.host.run("touch", *(f"{LAB}/gate-{engine.name}" for engine in engines))

    def open_gates(self) -> None:
        self.host.script(f"rm -f {LAB}/gate-*")

    def read_status(self) -> dict[str, Any]:
        """What the agent says. Raises OSError when it does not answer."""
        return dict(self.host.http("GET", "/v1/status", unix=SOCKET, timeout_sec=10).json())

    def order(self, verb: str, **body: object) -> bool:
        """Give the agent an order; whether it was taken, which one that is being killed may not say."""
        try:
            answer = self.host.http("POST", f"/v1/{verb}", unix=SOCKET, body=body, timeout_sec=10)
        except (OSError, http.client.HTTPException):
            return False
        return answer.status == 200

    def count_reloads(self) -> int:
        """How often the balancer was reloaded since it was started."""
        journal = self.host.journal(self.service)
        return sum(f"Reloaded {self.service}" in line for line in journal.splitlines())

    def count_in_rotation(self) -> int:
        """Instances that the agent has in rotation, -1 when it does not answer."""
        try:
            return sum(entry["in_rotation"] for entry in self.read_status()["instances"])
        except OSError:
            return -1

    def wait_until_whole(self, *, timeout_sec: float = 120) -> None:
        """Until every engine is ready and, with our agent, in rotation."""
        self.host.wait_for(lambda: all(map(self.is_ready, self.engines)), timeout_sec, "the engines to load")
        if self.is_ours:
            count = len(self.engines)
            self.host.wait_for(lambda: self.count_in_rotation() == count, timeout_sec, "all in rotation")

    def answers(self) -> bool:
        """Whether the front answers a request."""
        body = {"model": MODEL, "prompt": "Tell me", "max_tokens": 1}
        try:
            path = "/v3/completions"
            return (
                self.host.http("POST", path, port=self.front_port, body=body, timeout_sec=10).status == 200
            )
        except OSError:
            return False

    def netns_python(self, *argv: str) -> list[str]:
        """The command line of a Python program of the tests in the network of the host."""
        return self.host.netns_command(sys.executable, "-u", *argv)


def render_config(shape: Shape, *, flags: tuple[str, ...] = (), model_path: str = MODEL_PATH) -> str:
    """The agent's configuration."""
    return POOL.format(
        model=MODEL,
        model_path=model_path,
        instances=shape.instances,
        keys=f"waiting_room = {shape.waiting_room}",
        rest_workers=shape.rest_workers,
        flags=json.dumps(flags),
        tables=f"[health]\n{shape.health}" if shape.health else "",
    )


@contextlib.contextmanager
def boot(booted: Image, balancer: Balancer, shape: Shape, *, debs: Iterable[Path] = ()) -> Iterator[Rig]:
    """A host on which the front answers and every engine is in rotation. It ends with the block.

    ``debs`` are installed on it first.
    """
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        shown = Path(directory)
        cores = [(FIRST_CPU + core,) for core in range(shape.instances)]
        machines.write_machine(shown, machines.Machine(cores={0: cores}, numa=False))
        (shown / "none").mkdir()
        shown.chmod(0o755)
        with Host.boot(booted, binds={**BINDS, "/shown": shown}) as host:
            host.run("mkdir", "-p", LAB)
            if packages := tuple(debs):
                host.install(*packages)
            start = start_ours if balancer is Balancer.ours else start_peer
            yield start(host, balancer, shape)


def start_ours(host: Host, balancer: Balancer, shape: Shape) -> Rig:
    host.script(
        """
        mount --bind /shown/sys/devices/system/cpu /sys/devices/system/cpu
        if [ -d /sys/devices/system/node ]; then mount --bind /shown/none /sys/devices/system/node; fi
        mount --bind /shown/proc/1/status /proc/1/status
        """
    )
    host.write("/etc/systemd/system/ovms-scaler.service.d/60-lab.conf", SHOWN)
    host.write("/etc/systemd/system/ovms@.service.d/60-lab.conf", render_drop_in(shape) + FREE)
    host.write(CONFIG, render_config(shape))
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "enable", "--now", "ovms-scaler.service")
    found = json.loads(host.run("ovms-scalerctl", "plan", "--json").stdout)["instances"]
    engines = tuple(Engine(name=one["id"], unit=one["unit"], port=one["port"]) for one in found)
    rig = Rig(host=host, balancer=balancer, engines=engines, shape=shape)
    rig.wait_until_whole()
    host.wait_for(rig.answers, 30, "an answer")
    return rig


def start_peer(host: Host, balancer: Balancer, shape: Shape) -> Rig:
    ports = PORTS[: shape.instances]
    engines = tuple(Engine(name=f"{port}", unit=f"engine@{port}.service", port=port) for port in ports)
    rig = Rig(host=host, balancer=balancer, engines=engines, shape=shape)
    # "localhost" in the guide's configuration would otherwise be two addresses, one of which nobody serves.
    host.write("/etc/hosts", "127.0.0.1 localhost\n")
    write_engine_unit(rig, MODEL_PATH)
    host.write("/etc/systemd/system/engine@.service.d/60-lab.conf", render_drop_in(shape))
    host.run("systemctl", "stop", "nginx.service", "haproxy.service")
    host.write(*peers.render_balancer(balancer, ports))
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", *(engine.unit for engine in engines))
    rig.wait_until_whole()
    host.run("systemctl", "start", rig.service)
    host.wait_for(rig.answers, 30, "an answer")
    return rig


def write_engine_unit(rig: Rig, model_path: str) -> None:
    """The unit of the engines behind other balancers than ours, not yet taken by systemd."""
    workers = rig.shape.rest_workers
    text = peers.render_engine(model=MODEL, model_path=model_path, rest_workers=workers)
    rig.host.write("/etc/systemd/system/engine@.service", text)


def render_drop_in(shape: Shape) -> str:
    """What the lab adds to every engine's unit."""
    variables: Mapping[str, object] = {
        "OVMS_STANDIN_ENGINE": "simulated",
        "OVMS_STANDIN_TTFT_MS": shape.first_token_ms,
        "OVMS_STANDIN_TPOT_MS": shape.token_ms,
        "OVMS_STANDIN_FAULTS": f"{LAB}/fault-%i",
        "OVMS_STANDIN_LOAD_GATE": f"{LAB}/gate-%i",
    }
    heal = f"[ -e {LAB}/sticky-%i ] || rm -f {LAB}/fault-%i"
    lines = (f"Environment={name}={value}" for name, value in variables.items())
    return "\n".join(["[Service]", *lines, f"ExecStartPre=-+/bin/sh -c '{heal}'"]) + "\n"
