# SPDX-License-Identifier: Apache-2.0
"""The main job, shown end to end: from a bare Debian host to answers that survive a crash."""

import json
import subprocess
import sys
import threading
from typing import Any

from lab import deb, image, paths
from lab.commands import LabError
from lab.guest import Guest
from lab.host import Host

MODEL = "demo/tiny-llama"
URL = "http://127.0.0.1:8000/v3"
CONFIG = f"""\
[[pool]]
name = "chat"
model_name = "{MODEL}"
model_path = "/srv/models/tiny"
instances_per_node = {{instances}}
"""
CLIENT = str(paths.LAB / "client.py")


def main() -> int:
    try:
        show()
    except LabError as error:
        sys.stderr.write(f"\ndemo: {error}\n")
        return 1
    return 0


def show() -> None:
    """Every step, in order. Raises LabError at the first that does not hold."""
    step("A bare Debian 12 host: nothing of ours, a model under /srv/models, an engine under /opt/ovms")
    base = image.build("bookworm", image.Kind.HOST)
    debs = deb.build("bookworm")
    binds = {
        "/opt/ovms": paths.CACHE / "ovms-standin",
        "/srv/models/tiny": paths.LAB / "standin" / "model",
    }
    with Host.boot(base, binds=binds) as host:
        show_line(f"systemd came up in {host.boot_sec:.2f} s")
        say("The engine is a stand-in: OVMS's flags and answers around real OpenVINO GenAI inference.")
        command(host, "apt-get", "install", "--yes", "--quiet", *inside(host, debs), quiet=True)
        configure(host)
        command(host, "systemctl", "enable", "--now", "ovms-scaler")
        wait_until_all_serve(host)
        command(host, "ovms-scalerctl", "status")
        show_placement(host)
        step("Inference through the front, by the openai client")
        say("chat completion:")
        show_line(client(host, "chat"))
        say("the same, streamed:")
        show_line(client(host, "stream"))
        show_crash(host)
        show_agent_killed(host)
    step("Done. The host is gone, nothing was left behind.")


def configure(host: Host) -> None:
    step("Three lines of configuration")
    cores = sum(node["cores"] for node in ask(host, "topology")["nodes"])
    host.write("/etc/ovms-scaler/config.toml", CONFIG.format(instances=min(2, cores)))
    command(host, "cat", "/etc/ovms-scaler/config.toml")
    say("(A NUMA node is never split unless asked to; this host may have only one, so the demo asks.)")
    command(host, "ovms-scalerctl", "check-config")


def wait_until_all_serve(host: Host) -> None:
    serving = "ovms-scalerctl status --json >/dev/null"
    host.wait_for(serving, 120, "every instance to serve")


def show_placement(host: Host) -> None:
    step("Placement: what was planned, and what the kernel says of each process")
    columns = ("instance", "planned CPUs", "kernel's CPUs", "planned memory", "kernel's memory")
    rows = [columns]
    pids = {entry["id"]: entry["pid"] for entry in status(host)["instances"]}
    for planned in ask(host, "plan")["instances"]:
        pid = pids[planned["id"]]
        fields = dict(
            line.split(":\t", 1) for line in host.read(f"/proc/{pid}/status").splitlines() if ":\t" in line
        )
        maps = host.read(f"/proc/{pid}/numa_maps").splitlines()
        policies = {line.split()[1] for line in maps if " anon=" in line}  # its own memory, not files
        memory = f"bind:{planned['memory_nodes']}"
        rows.append(
            (planned["id"], planned["cpus"], fields["Cpus_allowed_list"], memory, ",".join(policies))
        )
        if fields["Cpus_allowed_list"] != planned["cpus"] or policies != {memory}:
            raise LabError(f"{planned['id']} is not where it was planned: {rows[-1]}")
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    for row in rows:
        show_line("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def show_crash(host: Host) -> None:
    step("An instance is killed with SIGKILL while clients keep asking")
    with Traffic(host, requests=1500, workers=8) as traffic:
        victim = next(entry for entry in status(host)["instances"] if entry["in_rotation"])
        command(host, "kill", "-KILL", str(victim["pid"]))
        wait_until_all_serve(host)
    say("What the clients saw (streams that the dead process had begun are cut, nothing else may be lost):")
    show_line(json.dumps(traffic.result))
    if traffic.result["lost"] or traffic.result["errors"]:
        raise LabError("requests were lost")
    command(host, "ovms-scalerctl", "status")


def show_agent_killed(host: Host) -> None:
    step("The agent is killed with SIGKILL, and comes back without touching anything")
    before = untouched(host)
    with Traffic(host, requests=1500, workers=8) as traffic:
        agent = host.properties("ovms-scaler.service", "MainPID")["MainPID"]
        command(host, "kill", "-KILL", agent)
        host.wait_for(
            f"systemctl is-active -q ovms-scaler && [ $(systemctl show -P MainPID ovms-scaler) != {agent} ]",
            60,
            "the agent to come back",
        )
        wait_until_all_serve(host)
    show_line(json.dumps(traffic.result))
    after = untouched(host)
    show_line(f"processes and proxy generation before: {before}")
    show_line(f"                            and after: {after}")
    if before != after or any(traffic.result[name] for name in ("lost", "cut", "errors")):
        raise LabError("the agent's end was noticed")
    command(host, "systemctl", "status", "--no-pager", "--lines=0", "ovms-scaler")


def untouched(host: Host) -> dict[str, Any]:
    """What must be the same before and after."""
    document = status(host)
    pids = {entry["id"]: entry["pid"] for entry in document["instances"]}
    proxy = host.properties("ovms-scaler-proxy.service", "MainPID")["MainPID"]
    return {**pids, "proxy": int(proxy), "generation": document["proxy"]["generation"]}


class Traffic:
    """Requests by the openai client, under way in a ``with`` block; ``result`` after it."""

    def __init__(self, host: Guest, *, requests: int, workers: int, url: str = URL) -> None:
        argv = [sys.executable, "-u", CLIENT, url, MODEL, "load", str(requests), str(workers)]
        self._argv = host.netns_command(*argv)
        self.result: dict[str, Any] = {}

    def __enter__(self) -> "Traffic":
        self._process = subprocess.Popen(self._argv, stdout=subprocess.PIPE, text=True)
        self._end = threading.Timer(600, self._process.kill)
        self._end.start()
        assert self._process.stdout is not None
        self._process.stdout.readline()  # the first answer has come
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._process.kill()
        output, _ = self._process.communicate()
        self._end.cancel()
        if error[0] is None:
            self.result = json.loads(output)


def client(host: Host, what: str) -> str:
    return host.netns_run(sys.executable, CLIENT, URL, MODEL, what).stdout.strip()


def status(host: Guest) -> dict[str, Any]:
    return dict(json.loads(host.run("ovms-scalerctl", "status", "--json", check=False).stdout))


def ask(host: Guest, verb: str) -> dict[str, Any]:
    return dict(json.loads(host.run("ovms-scalerctl", verb, "--json").stdout))


def inside(host: Host, debs: list[Any]) -> list[str]:
    """The packages, copied to where apt inside finds them."""
    for package in debs:
        host.write(f"/var/tmp/{package.name}", package.read_bytes())
    return [f"/var/tmp/{package.name}" for package in debs]


def step(title: str) -> None:
    show_line(f"\n== {title}")


def say(text: str) -> None:
    show_line(f"-- {text}")


def show_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def command(host: Guest, *argv: str, quiet: bool = False, check: bool = True) -> None:
    """Run a command as an administrator would type it, shown with what it prints."""
    show_line(f"# {' '.join(argv)}")
    done = host.run(*argv, timeout_sec=180, check=check)
    if not quiet:
        show_line((done.stdout + done.stderr).rstrip())


if __name__ == "__main__":
    sys.exit(main())
