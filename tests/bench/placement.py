# SPDX-License-Identifier: Apache-2.0
"""What placement is worth: engines with real OpenVINO inference on one machine, placed by us and not.

Placed: two instances of the agent, each bound to half of the cores with as many threads. Not placed: the
same program and model as two plain units without affinity, each with as many threads as it chooses itself,
which is one for each core of the machine. One alone: one of those plain units with every core and all the
clients, as the agent places it on a node by default. All are loaded all the time, and those that are not
asked wait. They are asked directly, by few clients and by many, with short prompts for answers of 96
tokens, which come whole: clients of streams would want the same cores. In turns, on the same host; needs
two cores at least. And the curve of streams that ``ovms-scalerctl bench --scale 1,2`` draws of the two
placed ones, through the front.

The model has random weights, but a real one's size (115 MB, 8 bits), made out of the tests' tiny one: that
itself leaves cores idle between requests, which an engine that is not bound can use.

This machine has one NUMA node. What memory of its own node is worth is not measured here: a server with
several does that with ``ovms-scalerctl bench --scale 1,2,4,6 --against-whole --allow-outage``.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from faults import peers
from lab import installed, paths
from lab.commands import LabError
from lab.host import Host

from bench import enlarge, unary
from bench.measure import Measured

MODEL, MODEL_PATH = "tiny/llama", "/srv/models/tiny"
PLACED, PLAIN = (8003, 8004), (8013, 8014)
# How many clients ask all engines of a way together.
LOADS = (4, 32)
ROUNDS, WORDS, TOKENS = 8, 24, 96
RAMP_SEC, WINDOW_SEC = 3.0, 8.0
CURVE_ROUNDS, CURVE_CLIENTS, CURVE_PROMPTS, CURVE_WARMUPS = 3, 32, 128, 32
GAIN_BUDGET = 1 / 1.15
CONFIG = f"""\
[[pool]]
name = "chat"
model_name = "{MODEL}"
model_path = "{MODEL_PATH}"
instances_per_node = {len(PLACED)}
"""


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
        host.write("/etc/ovms-scaler/config.toml", CONFIG)
        host.run("systemctl", "enable", "--now", "ovms-scaler.service")
        host.wait_for("ovms-scalerctl status --json >/dev/null", 120, "the instances to serve")
        curve = run_curve(host)
        unit = peers.render_engine(model=MODEL, model_path=MODEL_PATH, rest_workers=257)
        host.write("/etc/systemd/system/engine@.service", unit)
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "start", *(f"engine@{port}.service" for port in PLAIN))
        host.wait_for(lambda: all(is_ready(host, port) for port in PLAIN), 120, "the engines to load")
        rounds = [[run_round(host, clients, seed) for clients in LOADS] for seed in range(ROUNDS)]
    for clients, column in zip(LOADS, zip(*rounds, strict=True), strict=True):
        yield from describe(clients, column)
    for instances, samples in sorted(curve.items()):
        yield Measured(name=f"bench --scale: tokens/s with {instances}", samples=samples, unit="1/s")
    ratios = [two / one for one, two in zip(curve[1], curve[2], strict=True)]
    yield Measured(name="bench --scale: 2 instances : 1", samples=ratios, unit="x")


def describe(clients: int, rounds: Sequence[Round]) -> Iterator[Measured]:
    of = f", {clients} clients"
    yield Measured(name=f"tokens/s, two placed{of}", samples=[one.placed for one in rounds], unit="1/s")
    yield Measured(name=f"tokens/s, two not placed{of}", samples=[one.plain for one in rounds], unit="1/s")
    yield Measured(name=f"tokens/s, one alone{of}", samples=[one.alone for one in rounds], unit="1/s")
    gains = [one.plain / one.placed for one in rounds]
    yield Measured(name=f"two not placed : two placed{of}", samples=gains, unit="x", budget=GAIN_BUDGET)
    splits = [one.placed / one.alone for one in rounds]
    yield Measured(name=f"two placed : one alone{of}", samples=splits, unit="x")


def run_curve(host: Host) -> dict[int, list[float]]:
    """Tokens a second through the front by instances in rotation, as an administrator measures it."""
    options = ("--scale", "1,2", "--rounds", str(CURVE_ROUNDS), *render_load())
    shown = host.run("ovms-scalerctl", "bench", *options, "--json", timeout_sec=600).stdout
    found: dict[int, list[float]] = {1: [], 2: []}
    for one in json.loads(shown)["measurements"]:
        found[len(one["instances"])].append(one["summary"]["output_tokens_per_sec"])
    return found


def run_round(host: Host, clients: int, seed: int) -> Round:
    return Round(
        placed=run_load(host, PLACED, clients, seed),
        plain=run_load(host, PLAIN, clients, seed),
        alone=run_load(host, PLAIN[:1], clients, seed),
    )


def is_ready(host: Host, port: int) -> bool:
    try:
        path = f"/v2/models/{MODEL.replace('/', '%2F')}/ready"
        return host.http("GET", path, port=port, timeout_sec=5).status == 200
    except OSError:
        return False


def run_load(host: Host, ports: Sequence[int], clients: int, seed: int) -> float:
    """All engines at once, each with its share of the clients. Raises LabError when a request failed."""
    begin = time.monotonic() + RAMP_SEC
    settings = {"model": MODEL, "words": WORDS, "tokens": TOKENS, "seed": seed, "begin": begin}
    settings |= {"end": begin + WINDOW_SEC, "clients": clients // len(ports)}
    told = [json.dumps({**settings, "port": port}) for port in ports]
    commands = [host.netns_command(sys.executable, unary.__file__, one) for one in told]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    shown = [process.communicate()[0] for process in running]
    if any(process.returncode != 0 for process in running):
        raise LabError(f"cannot measure: {shown}")
    return sum(float(json.loads(one)) for one in shown)


def render_load() -> list[str]:
    options = {
        "--max-concurrency": CURVE_CLIENTS,
        "--num-prompts": CURVE_PROMPTS,
        "--num-warmups": CURVE_WARMUPS,
        "--input-len": WORDS,
        "--output-len": TOKENS,
    }
    return [str(word) for pair in options.items() for word in pair]
