# SPDX-License-Identifier: Apache-2.0
"""What a front costs: the same load straight to an engine, and to it through each front, in turns.

One host, one simulated engine at the pace of a real one (100 ms to the first token, 40 ms for each further
one), 64 clients with streamed chats of 32 tokens, measured by ``ovms-scalerctl bench``. Each round goes
through all of them, in another order each time; a ratio is of two figures of the same round. LiteLLM is
its proxy with one worker, from PyPI; a front that costs more CPU than the machine has left shows it here.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from faults import images, peers, rig
from faults.peers import Balancer
from faults.rig import MODEL, Rig, Shape
from lab import deb, paths

from bench.measure import Measured

CLIENTS, TOKENS, ROUNDS = 64, 32, 6
PROMPTS = 2 * CLIENTS
ENGINE = Shape(instances=1, first_token_ms=100, token_ms=40)
DIRECT, OURS, LITELLM = "direct", Balancer.ours.value, "litellm"
PORTS = {
    Balancer.stream.value: 9001,
    Balancer.http.value: 9002,
    Balancer.haproxy.value: 9003,
    Balancer.tuned.value: 9004,
    LITELLM: 9005,
}
LITELLM_CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: http://127.0.0.1:{port}/v3
      api_key: unused
litellm_settings:
  telemetry: false
"""
# Of tokens a second at least 98 %, of the median time to the first token at most 2 ms more.
RATIO_BUDGET, TTFT_BUDGET_MS = 1 / 0.98, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one run: tokens a second, and the median time to the first token."""

    tokens_per_sec: float
    ttft_ms: float


def measure() -> Iterator[Measured]:
    """Every figure of this module, of a host booted for it. Raises LabError."""
    debs = deb.build(images.RELEASE)
    with rig.boot(images.build_peers(), Balancer.ours, ENGINE, debs=debs) as booted, start_peers(booted):
        urls = {DIRECT: booted.engines[0].port, OURS: booted.front_port} | PORTS
        rounds = [run_round(booted, urls, number) for number in range(ROUNDS)]
    yield from compare(rounds)


def run_round(booted: Rig, ports: Mapping[str, int], number: int) -> dict[str, Figures]:
    """One run through each; who is first changes from round to round."""
    names = list(ports)
    names = names[number % len(names) :] + names[: number % len(names)]
    return {name: run_load(booted, ports[name], seed=number) for name in names}


def run_load(booted: Rig, port: int, *, seed: int) -> Figures:
    """What the program's own benchmark says. Raises LabError when a request failed."""
    options = {
        "--url": f"http://127.0.0.1:{port}/{'v1' if port == PORTS[LITELLM] else 'v3'}",
        "--model": MODEL,
        "--max-concurrency": CLIENTS,
        "--num-prompts": PROMPTS,
        "--input-len": 30,
        "--output-len": TOKENS,
        "--seed": seed,
        "--workers": 1,
    }
    words = [str(word) for pair in options.items() for word in pair]
    environment = f"PYTHONPATH={paths.ROOT / 'agent'}"
    argv = ["env", environment, sys.executable, "-m", "ovms_scaler.ctl", "bench", *words, "--json"]
    shown = booted.host.netns_run(*argv, timeout_sec=120).stdout
    (one,) = json.loads(shown)["measurements"]
    summary = one["summary"]
    return Figures(
        tokens_per_sec=summary["output_tokens_per_sec"], ttft_ms=summary["ttft_sec"]["median"] * 1000
    )


def compare(rounds: list[dict[str, Figures]]) -> Iterator[Measured]:
    """Each front beside the engine itself."""
    for name in rounds[0]:
        yield Measured(
            name=f"tokens/s, {name}", samples=[each[name].tokens_per_sec for each in rounds], unit="1/s"
        )
    for name in rounds[0].keys() - {DIRECT}:
        ratios = [each[DIRECT].tokens_per_sec / each[name].tokens_per_sec for each in rounds]
        budget = RATIO_BUDGET if name == OURS else None
        yield Measured(name=f"tokens/s, direct : {name}", samples=ratios, unit="x", budget=budget)
        more = [each[name].ttft_ms - each[DIRECT].ttft_ms for each in rounds]
        budget = TTFT_BUDGET_MS if name == OURS else None
        yield Measured(name=f"median TTFT, {name} - direct", samples=more, unit="ms", budget=budget)


@contextlib.contextmanager
def start_peers(booted: Rig) -> Iterator[None]:
    """The other fronts, for the same engine, beside ours; they end with the host."""
    host, engine = booted.host, booted.engines[0]
    host.write("/etc/hosts", "127.0.0.1 localhost\n")
    host.run("systemctl", "stop", "nginx.service", "haproxy.service", check=False)
    for balancer in (Balancer.stream, Balancer.http, Balancer.haproxy, Balancer.tuned):
        name = balancer.value
        _, text = peers.render_balancer(balancer, [engine.port], listen=PORTS[name], pid=f"/run/{name}.pid")
        path = f"/etc/peers/{name}.conf"
        host.write(path, text.replace(peers.ADMIN_SOCKET, f"/run/{name}.sock"))
        is_nginx = name.startswith("nginx")
        command = ["nginx", "-g", "daemon off;", "-c", path] if is_nginx else ["haproxy", "-W", "-f", path]
        host.run("systemd-run", f"--unit=peer-{name}", "--property=LimitNOFILE=65536", *command)
    with start_litellm(booted):
        for name, port in PORTS.items():
            host.wait_for(partial(listens, booted, port), 90, f"{name} to listen")
        yield


def listens(booted: Rig, port: int) -> bool:
    try:
        booted.host.connect(port, timeout_sec=5).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def start_litellm(booted: Rig) -> Iterator[None]:
    """Its proxy as a program of this machine, in the network of the host."""
    environment = paths.CACHE / "litellm"
    script = str(paths.LAB / "venv.sh")
    requirements = str(Path(__file__).with_name("litellm.txt"))
    subprocess.run([script, requirements, str(environment)], check=True, stdout=sys.stderr)
    config = environment / "config.yaml"
    config.write_text(LITELLM_CONFIG.format(model=MODEL, port=booted.engines[0].port))
    program = str(environment / "venv" / "bin" / "litellm")
    argv = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(PORTS[LITELLM])]
    # It refuses to run without a key otherwise; none of the other fronts has one here.
    variables = os.environ | {
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
    }
    with (environment / "log").open("w") as log:
        process = subprocess.Popen(booted.host.netns_command(*argv), env=variables, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)
