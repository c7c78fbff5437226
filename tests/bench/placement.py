# SPDX-License-Identifier: Apache-2.0
"""What placement is worth: engines with real OpenVINO inference on one machine, placed by us and not.

Placed: two instances of the agent, each bound to half of the cores with as many threads. Not placed: the
same program and model as two plain units without affinity, each with as many threads as it chooses itself,
which is one for each core of the machine. One alone: one of those plain units with every core and all the
clients, as the agent places it on a node by default. All are asked directly, by 32 clients with short
prompts for answers of 96 tokens, which come whole: clients of streams would want the same cores. In turns,
on the same host; needs two cores at least. And the curve of streams that
``ovms-scalerctl bench --scale 1,2`` draws of the two placed ones, through the front.

The model has random weights, but a real one's size (115 MB, 8 bits), made out of the tests' tiny one: that
itself leaves cores idle between requests, which an engine that is not bound can use.

This machine has one NUMA node. What memory of its own node is worth is not measured here: a server with
several does that with ``ovms-scalerctl bench --scale 1,2,4,6 --against-whole --allow-outage``.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from faults import peers
from lab import installed, paths
from lab.commands import LabError
from lab.host import Host

from bench import enlarge, unary
from bench.measure import Measured

MODEL, MODEL_PATH = "tiny/llama", "/srv/models/tiny"
PORTS = (8003, 8004)
ROUNDS, CURVE_ROUNDS, CLIENTS, PROMPTS, WARMUPS, WORDS, TOKENS = 6, 3, 32, 128, 32, 24, 96
GAIN_BUDGET, SPLIT_BUDGET = 1 / 1.15, 1.0
CONFIG = f"""\
[[pool]]
name = "chat"
model_name = "{MODEL}"
model_path = "{MODEL_PATH}"
instances_per_node = {len(PORTS)}
"""
PLAIN = [f"engine@{port}.service" for port in PORTS]


@dataclass(frozen=True, slots=True)
class Round:
    """Generated tokens a second of all engines together, each way."""

    placed: float
    plain: float
    alone: float


def measure(release: str = "bookworm") -> Iterator[Measured]:
    """Every figure of this module, of a host booted for it. Raises LabError."""
    model = enlarge.make_model(paths.LAB / "standin" / "model", paths.CACHE)
    binds = {"/opt/ovms": paths.CACHE / "ovms-standin", MODEL_PATH: model}
    with Host.boot(installed.build(release), binds=binds, memory_bytes=6 << 30) as host:
        unit = peers.render_engine(model=MODEL, model_path=MODEL_PATH, rest_workers=257)
        host.write("/etc/systemd/system/engine@.service", unit)
        host.write("/etc/ovms-scaler/config.toml", CONFIG)
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "enable", "--now", "ovms-scaler.service")
        host.wait_for("ovms-scalerctl status --json >/dev/null", 120, "the instances to serve")
        curve = run_curve(host)
        host.run("systemctl", "stop", "ovms.target")
        rounds = [run_round(host, seed) for seed in range(ROUNDS)]
    yield Measured(name="tokens/s, two placed", samples=[one.placed for one in rounds], unit="1/s")
    yield Measured(name="tokens/s, two not placed", samples=[one.plain for one in rounds], unit="1/s")
    yield Measured(name="tokens/s, one alone", samples=[one.alone for one in rounds], unit="1/s")
    gains = [one.plain / one.placed for one in rounds]
    yield Measured(name="two not placed : two placed", samples=gains, unit="x", budget=GAIN_BUDGET)
    splits = [one.placed / one.alone for one in rounds]
    yield Measured(name="two placed : one alone", samples=splits, unit="x", budget=SPLIT_BUDGET)
    for instances, samples in sorted(curve.items()):
        yield Measured(name=f"bench --scale: tokens/s with {instances}", samples=samples, unit="1/s")
    ratios = [two / one for one, two in zip(curve[1], curve[2], strict=True)]
    yield Measured(name="bench --scale: 2 instances : 1", samples=ratios, unit="x")


def run_curve(host: Host) -> dict[int, list[float]]:
    """Tokens a second through the front by instances in rotation, as an administrator measures it."""
    options = ("--scale", "1,2", "--rounds", str(CURVE_ROUNDS), *render_load(CLIENTS, PROMPTS, WARMUPS))
    shown = host.run("ovms-scalerctl", "bench", *options, "--json", timeout_sec=600).stdout
    found: dict[int, list[float]] = {1: [], 2: []}
    for one in json.loads(shown)["measurements"]:
        found[len(one["instances"])].append(one["summary"]["output_tokens_per_sec"])
    return found


def run_round(host: Host, seed: int) -> Round:
    with started(host, "ovms.target", ports=PORTS):
        placed = run_load(host, PORTS, seed)
    with started(host, *PLAIN, ports=PORTS):
        plain = run_load(host, PORTS, seed)
    with started(host, PLAIN[0], ports=PORTS[:1]):
        alone = run_load(host, PORTS[:1], seed)
    return Round(placed=placed, plain=plain, alone=alone)


@contextlib.contextmanager
def started(host: Host, *units: str, ports: Sequence[int]) -> Iterator[None]:
    """Until every engine is ready, and until all are gone at the end."""
    host.run("systemctl", "start", *units)
    try:
        host.wait_for(lambda: all(is_ready(host, port) for port in ports), 120, "the engines to load")
        yield
    finally:
        host.run("systemctl", "stop", *units)
        host.wait_for(f"! ss -Hltn | grep -E ':({'|'.join(map(str, PORTS))}) '", 60, "the engines to end")


def is_ready(host: Host, port: int) -> bool:
    try:
        path = f"/v2/models/{MODEL.replace('/', '%2F')}/ready"
        return host.http("GET", path, port=port, timeout_sec=5).status == 200
    except OSError:
        return False


def run_load(host: Host, ports: Sequence[int], seed: int) -> float:
    """All engines at once, each under its share of the load. Raises LabError when a request failed."""
    shares = {"clients": CLIENTS, "prompts": PROMPTS, "warmups": WARMUPS}
    settings = {"model": MODEL, "words": WORDS, "tokens": TOKENS, "seed": seed}
    settings |= {what: count // len(ports) for what, count in shares.items()}
    told = [json.dumps({**settings, "port": port}) for port in ports]
    commands = [host.netns_command(sys.executable, unary.__file__, one) for one in told]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    total = 0.0
    for process in running:
        shown, _ = process.communicate()
        if process.returncode != 0:
            raise LabError(f"cannot measure: {shown}")
        total += json.loads(shown)
    return total


def render_load(clients: int, prompts: int, warmups: int) -> list[str]:
    options = {
        "--max-concurrency": clients,
        "--num-prompts": prompts,
        "--num-warmups": warmups,
        "--input-len": WORDS,
        "--output-len": TOKENS,
    }
    return [str(word) for pair in options.items() for word in pair]
