# SPDX-License-Identifier: Apache-2.0
"""How evenly a front shares unequal work: requests by engine, and how late the first tokens come.

Four simulated engines that work on 8 requests at a time, one of them at a third of the others' pace; 32
clients, each on a connection of its own that it keeps, with answers of 4 to 60 tokens. Who sends more than
its 8 to one engine has the rest wait there, which shows in the tail of the time to the first token. Fronts
are ours, nginx's ``stream`` as in the scaling guide, which balances connections, and nginx and HAProxy, each
with round robin and with least connections, HAProxy also as an expert has it; all before the same engines,
in turns.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from faults import images, peers, rig
from faults.peers import PORTS, Balancer
from faults.rig import MODEL, Rig, Shape
from lab import deb

from bench.measure import Measured

ENGINES = Shape(instances=4, first_token_ms=40, token_ms=20, rest_workers=9)
SLOW_MS = 60
# Once every client has had its first answers, the work in hand is the same at the window's both ends.
CLIENTS, SETTLE_SEC, SECONDS, ROUNDS = 32, 3, 10, 3
CLIENT = str(Path(__file__).with_name("keeping.py"))
ROUND_ROBIN = "-round-robin"
FRONTS = {
    "nginx-stream": (Balancer.stream, 9001),
    "nginx-http": (Balancer.http, 9002),
    f"nginx-http{ROUND_ROBIN}": (Balancer.http, 9003),
    "haproxy": (Balancer.haproxy, 9004),
    f"haproxy{ROUND_ROBIN}": (Balancer.haproxy, 9005),
    "haproxy-tuned": (Balancer.tuned, 9006),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Of one run: whole answers, the tail of the time to a first token, each engine's share of requests."""

    answers_per_sec: float
    ttft_p99_ms: float
    shares: tuple[float, ...]


def measure() -> Iterator[Measured]:
    """Every figure of this module, of a host booted for it. Raises LabError."""
    with rig.boot(images.build_peers(), Balancer.ours, ENGINES, debs=deb.build(images.RELEASE)) as booted:
        slow_down(booted)
        start_peers(booted)
        ports = {Balancer.ours.value: booted.front_port} | {name: one[1] for name, one in FRONTS.items()}
        found = [
            {name: run_load(booted, port, seed=number) for name, port in ports.items()}
            for number in range(ROUNDS)
        ]
    for name in ports:
        yield from describe(name, [each[name] for each in found])


def describe(name: str, rounds: list[Round]) -> Iterator[Measured]:
    yield Measured(name=f"P99 of TTFT, {name}", samples=[one.ttft_p99_ms for one in rounds], unit="ms")
    yield Measured(name=f"answers, {name}", samples=[one.answers_per_sec for one in rounds], unit="1/s")
    spreads = [spread(one.shares) for one in rounds]
    yield Measured(name="   busiest fast engine : idlest fast one", samples=spreads, unit="x")
    slow = [one.shares[0] * 100 for one in rounds]
    yield Measured(name="   requests that the slow one got", samples=slow, unit="%")


def spread(shares: tuple[float, ...]) -> float:
    """Of the fast engines."""
    return max(shares[1:]) / max(min(shares[1:]), 0.001)


def slow_down(booted: Rig) -> None:
    """The first engine is as far behind as one on a busy node."""
    first = booted.engines[0]
    text = f"[Service]\nEnvironment=OVMS_STANDIN_TPOT_MS={SLOW_MS}\n"
    booted.host.write(f"/etc/systemd/system/{first.unit}.d/70-slow.conf", text)
    booted.host.run("systemctl", "daemon-reload")
    booted.host.run("systemctl", "restart", first.unit)
    booted.wait_until_whole()


def start_peers(booted: Rig) -> None:
    host = booted.host
    host.write("/etc/hosts", "127.0.0.1 localhost\n")
    host.run("systemctl", "stop", "nginx.service", "haproxy.service", check=False)
    for name, (balancer, port) in FRONTS.items():
        _, text = peers.render_balancer(balancer, PORTS, listen=port, pid=f"/run/{name}.pid")
        if name.endswith(ROUND_ROBIN):
            text = text.replace("        least_conn;\n", "").replace(
                "balance leastconn", "balance roundrobin"
            )
        path = f"/etc/peers/{name}.conf"
        host.write(path, text.replace(peers.ADMIN_SOCKET, f"/run/{name}.sock"))
        is_nginx = name.startswith("nginx")
        command = ["nginx", "-g", "daemon off;", "-c", path] if is_nginx else ["haproxy", "-W", "-f", path]
        host.run("systemd-run", f"--unit=peer-{name}", "--property=LimitNOFILE=65536", *command)
    for _, port in FRONTS.values():
        host.wait_for(partial(answers, booted, port), 30, f"port {port} to answer")


def answers(booted: Rig, port: int) -> bool:
    body = {"model": MODEL, "prompt": "Tell me", "max_tokens": 1}
    with contextlib.suppress(OSError):
        return (
            booted.host.http("POST", "/v3/completions", port=port, body=body, timeout_sec=10).status == 200
        )
    return False


def run_load(booted: Rig, port: int, *, seed: int) -> Round:
    """What the clients saw, and how many requests each engine got meanwhile."""
    before = [read_count(booted, engine.port) for engine in booted.engines]
    settings = {"port": port, "model": MODEL, "clients": CLIENTS, "seed": seed}
    settings |= {"settle_sec": SETTLE_SEC, "seconds": SECONDS}
    shown = booted.host.netns_run(sys.executable, CLIENT, json.dumps(settings), timeout_sec=90).stdout
    counts = [read_count(booted, one.port) - old for one, old in zip(booted.engines, before, strict=True)]
    shares = tuple(count / max(1, sum(counts)) for count in counts)
    return Round(**json.loads(shown), shares=shares)


def read_count(booted: Rig, port: int) -> int:
    """Requests that the engine took so far, from its metrics."""
    text = booted.host.http("GET", "/metrics", port=port).text
    lines = (line for line in text.splitlines() if line.startswith("ovms_requests_accepted"))
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)
