# SPDX-License-Identifier: Apache-2.0
"""What placement is worth: two engines with real OpenVINO inference on one machine, placed by us and not.

Placed: the instances of the agent, each bound to half of the cores with as many threads. Not placed: the
same program and model as plain units without affinity, each with as many threads as it chooses itself, which
is one for each core of the machine. Both are asked directly, by four clients each; prompts are long and
answers short, so that the time goes into computing. In turns, on the same host; needs two cores at least.

The model of the tests is so small that it leaves cores idle between requests, which an engine that is not
bound can use: what is measured here is no reason to place or not to place a model of real size.

This machine has one NUMA node. What memory of its own node is worth is not measured here: a server with
several does that with ``ovms-scalerctl bench --scale 1,2,4,6 --against-whole --allow-outage``.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator

from faults import peers
from lab import installed, paths
from lab.commands import LabError
from lab.host import Host

from bench.measure import Measured

MODEL, MODEL_PATH = "tiny/llama", "/srv/models/tiny"
PORTS = (8003, 8004)
ROUNDS, CLIENTS, PROMPTS, WORDS, TOKENS = 5, 4, 80, 200, 8
CONFIG = f"""\
[[pool]]
name = "chat"
model_name = "{MODEL}"
model_path = "{MODEL_PATH}"
instances_per_node = {len(PORTS)}
"""
PLAIN = " ".join(f"engine@{port}.service" for port in PORTS)


def measure(release: str = "bookworm") -> Iterator[Measured]:
    """Every figure of this module, of a host booted for it. Raises LabError."""
    binds = {"/opt/ovms": paths.CACHE / "ovms-standin", MODEL_PATH: paths.LAB / "standin" / "model"}
    with Host.boot(installed.build(release), binds=binds) as host:
        unit = peers.render_engine(model=MODEL, model_path=MODEL_PATH, rest_workers=257)
        host.write("/etc/systemd/system/engine@.service", unit)
        host.write("/etc/ovms-scaler/config.toml", CONFIG)
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "enable", "--now", "ovms-scaler.service")
        host.wait_for("ovms-scalerctl status --json >/dev/null", 120, "the instances to serve")
        host.run("systemctl", "stop", "ovms.target")
        rounds = [run_round(host, seed) for seed in range(ROUNDS)]
    placed, plain = zip(*rounds, strict=True)
    yield Measured(name="prompt tokens/s, placed", samples=placed, unit="1/s")
    yield Measured(name="prompt tokens/s, not placed", samples=plain, unit="1/s")
    ratios = [loose / bound for bound, loose in rounds]
    yield Measured(name="tokens/s, not placed : placed", samples=ratios, unit="x")


def run_round(host: Host, seed: int) -> tuple[float, float]:
    """Tokens a second of both engines together: placed, and not placed."""
    with started(host, "ovms.target"):
        placed = run_load(host, seed)
    with started(host, *PLAIN.split()):
        return placed, run_load(host, seed)


@contextlib.contextmanager
def started(host: Host, *units: str) -> Iterator[None]:
    """Until every engine is ready, and until all are gone at the end."""
    host.run("systemctl", "start", *units)
    try:
        host.wait_for(lambda: all(is_ready(host, port) for port in PORTS), 120, "the engines to load")
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


def run_load(host: Host, seed: int) -> float:
    """Both engines at once, each under a load of its own. Raises LabError when a request failed."""
    commands = [host.netns_command(*render_command(port, seed)) for port in PORTS]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    total = 0.0
    for process in running:
        shown, _ = process.communicate()
        if process.returncode != 0:
            raise LabError(f"cannot measure: {shown}")
        (one,) = json.loads(shown)["measurements"]
        total += one["summary"]["total_tokens_per_sec"]
    return total


def render_command(port: int, seed: int) -> list[str]:
    options = {
        "--url": f"http://127.0.0.1:{port}/v3",
        "--model": MODEL,
        "--max-concurrency": CLIENTS,
        "--num-prompts": PROMPTS,
        "--input-len": WORDS,
        "--output-len": TOKENS,
        "--seed": seed,
        "--workers": 1,
    }
    words = [str(word) for pair in options.items() for word in pair]
    program = ["-m", "ovms_scaler.ctl", "bench", *words, "--json"]
    return ["env", f"PYTHONPATH={paths.ROOT / 'agent'}", sys.executable, *program]
