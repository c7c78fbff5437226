# SPDX-License-Identifier: Apache-2.0
"""What a front costs: the same load straight to an engine, and to it through each front, in turns.

One host, one simulated engine at the pace of a real one (100 ms to the first token, 40 ms for each further
one), 64 clients, measured by ``ovms-scalerctl bench``. Each round goes through all fronts, in another order
each time, with streamed chats of 32 tokens and then with chats of one token, which are requests and little
else; a ratio is of two figures of the same round. The CPU of a front is that of its control group; that of
our agent, which our proxy tells of each request, is apart. LiteLLM is its proxy with one worker, from PyPI.
A front that costs more CPU than the machine has left shows it here.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from faults import images, peers, rig
from faults.peers import SERVICE, Balancer
from faults.rig import MODEL, Rig, Shape
from lab import deb, paths
from lab.host import Host

from bench.measure import Measured

CLIENTS, ROUNDS, WARMUPS = 64, 6, 2
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
class Load:
    """How many answers of how many tokens."""

    prompts: int
    tokens: int


CHATS = Load(prompts=2 * CLIENTS, tokens=32)
REQUESTS = Load(prompts=10 * CLIENTS, tokens=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one run. ``cpu_us`` is what the front took for each answer, 0 where there is no front.

    ``agent_us`` is what our agent took meanwhile, for each answer, too: our proxy tells it of requests.
    ``client_share`` is the part of a core that the busiest process of the client took.
    """

    tokens_per_sec: float
    requests_per_sec: float
    ttft_ms: float
    cpu_us: float
    agent_us: float
    client_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """To the engine, straight or through a front; ``read_cpu`` gives the front's seconds of CPU so far."""

    port: int
    read_cpu: Callable[[], float]


Round = dict[str, Figures]


def measure() -> Iterator[Measured]:
    """Every figure of this module, of a host booted for it. Raises LabError."""
    debs = deb.build(images.RELEASE)
    chats: list[Round] = []
    requests: list[Round] = []
    with (
        rig.boot(images.build_peers(), Balancer.ours, ENGINE, debs=debs) as booted,
        start_peers(booted) as ways,
    ):
        for number in range(ROUNDS):
            chats.append(run_round(booted, ways, CHATS, number))
            requests.append(run_round(booted, ways, REQUESTS, number))
    yield from compare_chats(chats)
    yield from compare_requests(requests)


def run_round(booted: Rig, ways: Mapping[str, Way], load: Load, number: int) -> Round:
    """One run through each; who is first changes from round to round."""
    names = list(ways)
    names = names[number % len(names) :] + names[: number % len(names)]
    return {name: run_load(booted, ways[name], load, seed=number) for name in names}


def run_load(booted: Rig, way: Way, load: Load, *, seed: int) -> Figures:
    """What the program's own benchmark says. Raises LabError when a request failed."""
    options = {
        "--url": f"http://127.0.0.1:{way.port}/{'v1' if way.port == PORTS[LITELLM] else 'v3'}",
        "--model": MODEL,
        "--max-concurrency": CLIENTS,
        "--num-prompts": load.prompts,
        "--num-warmups": WARMUPS,
        "--input-len": 30,
        "--output-len": load.tokens,
        "--seed": seed,
        "--workers": 1,
    }
    words = [str(word) for pair in options.items() for word in pair]
    environment = f"PYTHONPATH={paths.ROOT / 'agent'}"
    argv = ["env", environment, sys.executable, "-m", "ovms_scaler.ctl", "bench", *words, "--json"]
    before = way.read_cpu(), read_cpu(booted.host, rig.AGENT)
    shown = booted.host.netns_run(*argv, timeout_sec=120).stdout
    after = way.read_cpu(), read_cpu(booted.host, rig.AGENT)
    cpu_us, agent_us = ((b - a) / (load.prompts + WARMUPS) * 1e6 for a, b in zip(before, after, strict=True))
    (one,) = json.loads(shown)["measurements"]
    summary = one["summary"]
    return Figures(
        tokens_per_sec=summary["output_tokens_per_sec"],
        requests_per_sec=summary["requests_per_sec"],
        ttft_ms=summary["ttft_sec"]["median"] * 1000,
        cpu_us=cpu_us,
        agent_us=agent_us,
        client_share=max(summary["client"]["busiest_share"], summary["client"]["own_share"]),
    )


def compare_chats(rounds: list[Round]) -> Iterator[Measured]:
    """Each front beside the engine itself, by tokens."""
    for name in rounds[0]:
        yield Measured(
            name=f"tokens/s, {name}", samples=[each[name].tokens_per_sec for each in rounds], unit="1/s"
        )
    for name in (OURS, *PORTS):
        ratios = [each[DIRECT].tokens_per_sec / each[name].tokens_per_sec for each in rounds]
        budget = RATIO_BUDGET if name == OURS else None
        yield Measured(name=f"tokens/s, direct : {name}", samples=ratios, unit="x", budget=budget)
        more = [each[name].ttft_ms - each[DIRECT].ttft_ms for each in rounds]
        budget = TTFT_BUDGET_MS if name == OURS else None
        yield Measured(name=f"median TTFT, {name} - direct", samples=more, unit="ms", budget=budget)
        used = [each[name].cpu_us / CHATS.tokens for each in rounds]
        yield Measured(name=f"CPU of the front per token, {name}", samples=used, unit="us")
    yield tell_client(rounds)


def compare_requests(rounds: list[Round]) -> Iterator[Measured]:
    """The same by requests of which each gets one token."""
    for name in rounds[0]:
        samples = [each[name].requests_per_sec for each in rounds]
        yield Measured(name=f"requests/s, {name}", samples=samples, unit="1/s")
    for name in (OURS, *PORTS):
        ratios = [each[DIRECT].requests_per_sec / each[name].requests_per_sec for each in rounds]
        yield Measured(name=f"requests/s, direct : {name}", samples=ratios, unit="x")
        used = [each[name].cpu_us for each in rounds]
        yield Measured(name=f"CPU of the front per request, {name}", samples=used, unit="us")
    # In as many requests straight to the engine, it does what it does when idle.
    told = [each[OURS].agent_us - each[DIRECT].agent_us for each in rounds]
    yield Measured(name=f"CPU of the agent per request, {OURS}", samples=told, unit="us")
    yield tell_client(rounds)


def tell_client(rounds: list[Round]) -> Measured:
    """Near the whole of a core, the other figures would be those of the client."""
    shares = [one.client_share * 100 for each in rounds for one in each.values()]
    return Measured(name="   of a core, the client's busiest process", samples=shares, unit="%")


@contextlib.contextmanager
def start_peers(booted: Rig) -> Iterator[dict[str, Way]]:
    """All ways to the engine: the other fronts are started beside ours, and end with the host."""
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
    with start_litellm(booted) as process:
        for name, port in PORTS.items():
            host.wait_for(partial(listens, booted, port), 90, f"{name} to listen")
        ways = {
            DIRECT: Way(port=engine.port, read_cpu=lambda: 0.0),
            OURS: Way(port=booted.front_port, read_cpu=partial(read_cpu, host, SERVICE[Balancer.ours])),
        }
        for name, port in PORTS.items():
            ways[name] = Way(port=port, read_cpu=partial(read_cpu, host, f"peer-{name}.service"))
        ways[LITELLM] = Way(port=PORTS[LITELLM], read_cpu=partial(read_process_cpu, process))
        yield ways


def read_cpu(host: Host, unit: str) -> float:
    return int(host.properties(unit, "CPUUsageNSec")["CPUUsageNSec"]) / 1e9


def read_process_cpu(process: psutil.Process) -> float:
    """Of the process and of all that it started."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def listens(booted: Rig, port: int) -> bool:
    try:
        booted.host.connect(port, timeout_sec=5).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def start_litellm(booted: Rig) -> Iterator[psutil.Process]:
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
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(timeout=30)
