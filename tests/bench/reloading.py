# SPDX-License-Identifier: Apache-2.0
"""What a reload costs with 1, 8, 64 and 256 instances: CPU of agent, proxy and systemd, time, and memory.

Real and simulated as in ``running``. Each reload has another ``retry_after_sec``, so that nginx tests its
new configuration and is reloaded through systemd; or an instance is drained: a reload without a test.
Times are from the request at the control socket until new workers answer, and until no old one does any
more, as the proxy itself tells which configuration a worker has. CPU is what windows of 10 s with 5 reloads
take more than windows without. Under load, 64 clients that keep their connections have streamed answers,
about 100 a second; a single one that fails ends the run. Not with 256, which keep two cores busy as it is.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from lab.commands import LabError
from lab.host import Host

from bench import crowd, reload_rounds
from bench.measure import Measured

ROUNDS, DRAINS, OUTLIVED = 12, 6, 3
COUNTS, LOADED = (1, 8, 64, 256), (8, 64)
CLIENTS = 64
PACE = {"OVMS_STANDIN_TTFT_MS": "20", "OVMS_STANDIN_TPOT_MS": "20"}
CLIENT = Path(__file__).with_name("reload_clients.py")
PROGRAM = Path(reload_rounds.__file__)
PLACES = {"agent": "agent", "proxy": "nginx, its test and reload-proxy", "systemd": "PID 1"}
Rounds = list[dict[str, float]]


def measure() -> Iterator[Measured]:
    """Every figure of this module, of a host for each number of instances. Raises LabError."""
    for instances in COUNTS:
        with crowd.boot() as host:
            host.write("/root/reload_rounds.py", PROGRAM.read_text())
            crowd.fill(host, instances, PACE)
            yield from measure_reloads(host, instances)


def measure_reloads(host: Host, instances: int) -> Iterator[Measured]:
    """With so many instances in rotation, idle and under load."""
    texts = [f"{crowd.render_config(instances, PACE)}[proxy]\nretry_after_sec = {sec}\n" for sec in (5, 6)]
    changed = {"texts": texts}
    yield from describe_cpu(
        f"nothing changed, {instances}",
        look(host, {"look": "cpu", "texts": [texts[0]], "is_reloaded": False}),
    )
    yield from measure_times(host, instances, changed, "idle")
    if instances > 1:
        drain = {"look": "times", "drain": "chat0-numa0.0", "rounds": DRAINS}
        yield describe(f"drained, {instances}: old workers gone", look(host, drain), "only")
    yield from measure_memory(host, instances, changed)
    if instances in LOADED:
        found: dict[str, Any] = {}
        with load(host, found):
            yield from measure_times(host, instances, changed, "under load")
        yield describe_clients(found)


def measure_times(host: Host, instances: int, changed: Mapping[str, Any], when: str) -> Iterator[Measured]:
    rounds = look(host, {"look": "times", "rounds": ROUNDS, **changed})
    shown = f"reload, {instances}, {when}"
    yield describe(f"{shown}: accepted", rounds, "answered")
    yield describe(f"{shown}: first new worker", rounds, "first")
    yield describe(f"{shown}: new workers only", rounds, "only")
    yield from describe_cpu(shown, look(host, {"look": "cpu", **changed}))


def describe_clients(found: Mapping[str, Any]) -> Measured:
    reloads = ROUNDS + reload_rounds.PAIRS * reload_rounds.RELOADS
    name = f"sent again: {found['answers']} answers, {reloads} reloads"
    return Measured(name=name, samples=[found["again"]], unit="")


def describe(name: str, rounds: Rounds, key: str) -> Measured:
    return Measured(name=name, samples=[one[key] for one in rounds], unit="ms")


def describe_cpu(name: str, rounds: Rounds) -> Iterator[Measured]:
    """Milliseconds of CPU for each reload, all and by who took them."""
    samples = [sum(one.values()) * 1000 for one in rounds]
    yield Measured(name=f"{name}: CPU", samples=samples, unit="ms")
    for key, place in PLACES.items():
        yield Measured(name=f"   {place}", samples=[one[key] * 1000 for one in rounds], unit="ms")


def measure_memory(host: Host, instances: int, changed: Mapping[str, Any]) -> Iterator[Measured]:
    """Of the proxy, before and while answers outlive reloads."""
    body = {"model": "tiny/llama", "prompt": "Tell me", "max_tokens": 20_000, "stream": True}
    asked = {"request": "POST /v3/completions", "body": json.dumps(body), "rounds": OUTLIVED}
    found = look(host, {"look": "memory", **asked, **changed})
    yield Measured(name=f"proxy's memory (Pss), {instances}", samples=[found[0]["megabytes"]], unit="MB")
    steps = [{key: new[key] - old[key] for key in new} for old, new in pairwise(found)]
    yield Measured(
        name="   workers that stay after a reload", samples=[one["leaving"] for one in steps], unit=""
    )
    each = [one["megabytes"] / one["leaving"] for one in steps if one["leaving"]]
    yield Measured(name="   more for each worker that stays", samples=each, unit="MB")


def look(host: Host, settings: Mapping[str, Any]) -> Rounds:
    """What reload_rounds.py found. Raises LabError when it did not find it."""
    done = host.run("python3", "/root/reload_rounds.py", json.dumps(settings), timeout_sec=300)
    found: Rounds = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def load(host: Host, found: dict[str, Any]) -> Iterator[None]:
    """Clients at the front; ``found`` gets what they saw. Raises LabError when a request failed."""
    settings = {"port": 8000, "model": "tiny/llama", "clients": CLIENTS, "seed": 1}
    argv = host.netns_command(sys.executable, str(CLIENT), json.dumps(settings))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        try:
            yield
            shown, _ = client.communicate(timeout=60)
        finally:
            client.kill()
    found |= json.loads(shown) if client.returncode == 0 else {"failures": ["the clients failed"]}
    if found["failures"]:
        raise LabError(f"{len(found['failures'])} requests failed as the proxy was reloaded:\n{found}")
