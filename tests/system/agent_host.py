# SPDX-License-Identifier: Apache-2.0
"""A host with the package, an engine and a model on it, as the tests of the whole agent see it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab import paths
from lab.commands import LabError
from lab.guest import Guest
from lab.host import Host
from lab.image import Image

MODEL = "tiny/llama"
CONFIG = "/etc/ovms-scaler/config.toml"
SOCKET = "/run/ovms-scaler/control.sock"
AGENT = "ovms-scaler.service"
PROXY = "ovms-scaler-proxy.service"
TARGET = "ovms.target"
BINDS = {
    "/opt/ovms": paths.CACHE / "ovms-standin",
    "/srv/models/tiny": paths.LAB / "standin" / "model",
}
# While this file is there no engine finishes loading; what the other says is wrong with every engine.
GATE = "/run/lab/gate"
FAULT = "/run/lab/fault"
ENVIRONMENT = {
    "OVMS_STANDIN_ENGINE": "simulated",
    "OVMS_STANDIN_LOAD_GATE": GATE,
    "OVMS_STANDIN_FAULTS": FAULT,
    "OVMS_STANDIN_TPOT_MS": "10",
}
TRAFFIC = str(Path(__file__).with_name("agent_traffic.py"))

# What does not depend on the release is run on one; all of it on each is "make system EVERYWHERE=1". On each
# always is what hangs on systemd, nginx, dpkg or Python: starts, ends, reloads, orders, packages, who asks.
ONE_RELEASE = paths.RELEASES if os.environ.get("EVERYWHERE") else ("bookworm",)
on_bookworm = pytest.mark.parametrize("release", ONE_RELEASE, indirect=True, scope="session")

Document = dict[str, Any]


def pool(
    name: str = "chat",
    *,
    instances: int = 2,
    path: str = "/srv/models/tiny",
    environment: Mapping[str, str] = ENVIRONMENT,
    keys: str = "",
    ovms: str = "",
) -> str:
    """One [[pool]] of a configuration; ``keys`` are further lines of it, ``ovms`` of its table ovms."""
    variables = ", ".join(f"{key} = {json.dumps(value)}" for key, value in environment.items())
    return f"""\
[[pool]]
name = "{name}"
model_name = "{MODEL}"
model_path = "{path}"
instances_per_node = {instances}
{keys}
[pool.ovms]
environment = {{ {variables} }}
{ovms}
"""


@contextmanager
def running_host(image: Image, config: str, *, in_rotation: int) -> Iterator[Host]:
    """A host on which the agent was enabled with ``config`` and brought so many instances into rotation."""
    with Host.boot(image, binds=BINDS) as host:
        host.run("mkdir", "-p", "/run/lab")
        host.write(CONFIG, config)
        host.run("systemctl", "enable", "--now", AGENT)
        wait_until_routed(host, in_rotation)
        yield host


def read_status(host: Guest) -> Document:
    """What the agent says of itself, asked over its socket."""
    answer = host.http("GET", "/v1/status", unix=SOCKET, timeout_sec=10)
    assert answer.status == 200
    return dict(answer.json())


def find_instance(document: Document, name: str) -> Document:
    """One instance of a status document; empty when there is none of that name."""
    return next((dict(entry) for entry in document["instances"] if entry["id"] == name), {})


def wait_for_status(
    host: Guest, condition: Callable[[Document], object], what: str, *, timeout_sec: float = 30
) -> Document:
    """The first status document that meets the condition; one that cannot be had does not meet it."""
    last: Document = {}

    def holds() -> bool:
        nonlocal last
        try:
            last = read_status(host)
        except OSError:
            return False
        return bool(condition(last))

    try:
        host.wait_for(holds, timeout_sec, what)
    except LabError as error:
        raise LabError(f"{error}\nits last status: {json.dumps(last, indent=1)}") from error
    return last


def wait_for_state(
    host: Guest, name: str, state: str, *, reason: str = "", timeout_sec: float = 30
) -> Document:
    """The instance when it is in that state for a reason that contains ``reason``."""
    document = wait_for_status(
        host,
        lambda found: (
            find_instance(found, name).get("state") == state
            and reason in find_instance(found, name)["reason"]
        ),
        f"{name} to be {state} {reason}",
        timeout_sec=timeout_sec,
    )
    return find_instance(document, name)


def wait_until_routed(host: Guest, count: int, *, timeout_sec: float = 60) -> Document:
    """The status when exactly so many instances are in rotation, and the proxy runs with them."""

    def routed(found: Document) -> bool:
        names = [entry["id"] for entry in found["instances"] if entry["in_rotation"]]
        return len(names) == count and bool(found["proxy"]["generation"])

    return wait_for_status(host, routed, f"{count} instances in rotation", timeout_sec=timeout_sec)


def reload(host: Guest, config: str = "", *options: str) -> "subprocess.CompletedProcess[str]":
    """Write the configuration, if one is given, and have the agent take it; what the command printed."""
    if config:
        host.write(CONFIG, config)
    return host.run("ovms-scalerctl", "reload", *options, check=False)


def read_pids(host: Guest) -> dict[str, int]:
    """The engines' processes as systemd knows them, by instance; those that do not run are left out."""
    units = host.run("systemctl", "list-units", "--plain", "--no-legend", "ovms@*.service").stdout.split(
        "\n"
    )
    names = [line.split()[0] for line in units if line]
    pids = {name: int(host.properties(name, "MainPID")["MainPID"]) for name in names}
    return {name.removeprefix("ovms@").removesuffix(".service"): pid for name, pid in pids.items() if pid}


def read_command(host: Guest, pid: int) -> list[str]:
    """The command line of a process, empty when there is none of that id any more."""
    return host.run("cat", f"/proc/{pid}/cmdline", check=False).stdout.split("\0")


def read_agent_pid(host: Guest) -> int:
    """The agent's main process."""
    return int(host.properties(AGENT, "MainPID")["MainPID"])


def kill(host: Guest, pid: int) -> None:
    """SIGKILL, as the kernel or a bug would end a process."""
    host.run("kill", "-KILL", str(pid))


def close_gate(host: Guest) -> None:
    """From now on whatever loads goes on loading until open_gate()."""
    host.write(GATE, "")


def open_gate(host: Guest) -> None:
    """Let every engine finish loading."""
    host.run("rm", "-f", GATE)


def read_routes(host: Guest) -> set[str]:
    """The instances that have a route on disk."""
    found = host.run("find", "/run/ovms-scaler-proxy/routes", "-name", "*.conf").stdout.split()
    return {Path(path).stem for path in found}


def read_footprint(host: Guest) -> Document:
    """What must stay the same when nothing is touched: processes, and every file that the agent writes."""
    tree = "find /run/systemd/system /run/ovms-scaler-proxy /run/ovms-scaler/instances /var/lib/ovms-scaler"
    # Of work/ only the listing is left out: nginx writes there.
    files = host.script(f"{tree} -path '*/work/*' -prune -o -printf '%p %i %T@ %C@\\n'").splitlines()
    proxy = host.properties(PROXY, "MainPID")["MainPID"]
    workers = host.run("ps", "-o", "pid=", "--ppid", proxy).stdout.split()
    generation = host.run(
        "curl",
        "-sS",
        "--unix-socket",
        "/run/ovms-scaler-proxy/work/internal.sock",
        "http://proxy/generation",
    ).stdout.strip()
    return {
        "engines": read_pids(host),
        "proxy": proxy,
        "workers": sorted(workers),
        "generation": generation,
        "files": sorted(files),
    }


def ask(host: Guest, *, port: int = 8000, timeout_sec: float = 30) -> Any:
    """One completion through the front."""
    body = {"model": MODEL, "prompt": "Tell me", "max_tokens": 2}
    return host.http("POST", "/v3/completions", port=port, body=body, timeout_sec=timeout_sec)


def wait_for_answer(host: Guest, *, port: int = 8000) -> None:
    """Wait until the front gives an answer: workers of an earlier configuration accept 0.1 s longer."""
    host.wait_for(lambda: ask(host, port=port).status == 200, 10, f"an answer at port {port}")


class Traffic:
    """Clients that keep asking, in the background of a ``with`` block; ``counts`` are final after it."""

    def __init__(
        self,
        host: Guest,
        *,
        workers: int = 8,
        stream: str = "every second",
        max_tokens: int = 10,
        port: int = 8000,
        burst: int = 0,
    ) -> None:
        settings = {
            "port": host.client_port(port),
            "model": MODEL,
            "workers": workers,
            "stream": stream,
            "max_tokens": max_tokens,
            "burst": burst,
        }
        self._argv = host.netns_command(sys.executable, "-u", TRAFFIC, json.dumps(settings))
        self.counts: Document = {}

    def __enter__(self) -> "Traffic":
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._process.kill()
        output, _ = self._process.communicate()
        if error[0] is None:
            self.counts = json.loads(output.splitlines()[-1])

    def read_counts(self) -> Document:
        """The counts so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def wait_for_answers(self, host: Guest, more: int = 50, *, by: str = "") -> None:
        """Wait until clients got so many more answers, by the instance ``by`` if one is given."""

        def answers() -> int:
            counts = self.read_counts()
            return int(counts["instances"].get(by, 0) if by else counts["answered"])

        wanted = answers() + more
        host.wait_for(lambda: answers() >= wanted, 60, f"{more} answers {by and 'by ' + by}")

    def assert_unharmed(self) -> None:
        """Everything that was asked was answered, to the end."""
        assert self.counts["answered"] > 0
        assert (self.counts["lost"], self.counts["cut"]) == ([], [])
        assert self.counts["answered"] == self.counts["sent"], self.counts


def burst(host: Guest, requests: int, *, max_tokens: int = 1, stream: str = "no") -> Document:
    """So many requests at the same time; the counts."""
    with Traffic(host, burst=requests, max_tokens=max_tokens, stream=stream) as traffic:
        pass
    return traffic.counts


def occupy(host: Guest, unit: str, address: str, port: int) -> None:
    """Have another program, the service ``unit``, listen on a port; ``systemctl stop`` frees it."""
    program = (
        "import socket, signal; listener = socket.create_server("
        f"({address!r}, {port}), reuse_port=False); signal.pause()"
    )
    host.run("systemd-run", "--quiet", f"--unit={unit}", "python3", "-c", program)
    host.wait_for(f"ss -Hltn sport = :{port} | grep -q .", 10, f"{unit} to listen")
