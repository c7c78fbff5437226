# SPDX-License-Identifier: Apache-2.0
"""What the installed agent costs on a booted host, with 1, 8 and 64 instances, as many as a node may have.

Real: systemd, D-Bus, the proxy, the package as installed, the agent in its sandbox, HTTP to every engine.
Simulated: the engines (the stand-in without inference), and the machine: the host is shown one node with 64
cores of two threads, numbered from 1000 up, of which no process could ever get one. A drop-in of the
administrator's for all instances therefore takes their affinity back, as the agent lets administrators do.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import machines
from lab import deb, installed, paths
from lab.host import Host

from bench.measure import Measured

CORES = 64
FIRST_CPU = 1000
COUNTS = (1, 8, 64)
WINDOWS, WINDOW_SEC = 4, 5.0
READY_BUDGET_MS, RSS_BUDGET_MB, IDLE_BUDGET_PERCENT = 1000.0, 75.0, 1.5
RSS_GROWTH_BUDGET_MB, RECORD_BUDGET_PERCENT, RECORDS_PER_SEC = 0.2, 3.0, 100
STATUS_BUDGET_MS, HELP_BUDGET_MS = 200.0, 150.0
GROUP = "/sys/fs/cgroup/system.slice/ovms-scaler.service"
CONFIG = """\
[[pool]]
name = "chat"
model_name = "tiny/llama"
model_path = "/srv/models/tiny"
instances_per_node = {instances}
memory = "preferred"
[pool.ovms]
environment = {{ OVMS_STANDIN_ENGINE = "simulated" }}
rest_workers = 2
"""
QUICK = "[health]\ninterval_sec = 0.2\ntimeout_sec = 0.2\n"
FREE = """\
[Service]
CPUAffinity=
AllowedCPUs=
NUMAPolicy=default
NUMAMask=
AllowedMemoryNodes=
"""
# In its sandbox the agent has a /proc of its own.
SHOWN = """\
[Service]
BindReadOnlyPaths=/bench/proc/1/status:/proc/1/status
"""
# What the proxy writes of requests to every instance in turn (core/nginx_text.py), at a steady rate.
RECORD = """\
import itertools, json, socket, sys, time
rate, ports = int(sys.argv[1]), sys.argv[2:]
out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
due = time.monotonic()
for number in itertools.count():
    port = ports[number % len(ports)]
    record = {
        "client": f"10.0.0.{number % 64}", "status": "200", "upstream": f"127.0.0.1:{port}",
        "upstream_status": "200", "request_time": "4.321", "upstream_header_time": "0.321",
        "upstream_response_time": "4.320", "bytes": "12345", "completion": "OK", "worker": "4711",
    }
    try:
        line = "<190>Nov 21 15:00:00 nginx: " + json.dumps(record)
        out.sendto(line.encode(), "/run/ovms-scaler/access/log.sock")
    except BlockingIOError:
        pass
    due += 1 / rate  # a steady rate is time that passes
    time.sleep(max(0.0, due - time.monotonic()))
"""
# Whole processes, timed beside each other inside, where nothing but the process itself is in between.
TIMER = """\
import json, subprocess, sys, time
times = []
for number in range(22):
    began = time.perf_counter()
    subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
    times.append((time.perf_counter() - began) * 1000)
print(json.dumps(times[2:]))
"""


def measure(release: str = "bookworm") -> Iterator[Measured]:
    deb.build(release)
    binds = {"/opt/ovms": paths.CACHE / "ovms-standin", "/srv/models/tiny": paths.LAB / "standin" / "model"}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        write_machine(Path(directory))
        binds["/bench"] = Path(directory)
        with Host.boot(installed.build(release), binds=binds, memory_bytes=12 << 30) as host:
            show_machine(host)
            rss: dict[int, float] = {}
            for instances in COUNTS:
                yield from measure_agent(host, instances, rss)
            growths = [(rss[last] - rss[8]) / (last - 8) for last in COUNTS if last > 8]
            yield Measured(
                name="Rss for each instance more", samples=growths, unit="MB", budget=RSS_GROWTH_BUDGET_MB
            )


def write_machine(root: Path) -> None:
    """One node without NUMA directories, and what PID 1 may use of it."""
    cores = [(FIRST_CPU + core, FIRST_CPU + CORES + core) for core in range(CORES)]
    machines.write_machine(root, machines.Machine(cores={0: cores}, numa=False))
    (root / "none").mkdir()
    root.chmod(0o755)


def show_machine(host: Host) -> None:
    """Lay the files of the machine over those of the kernel, for every process of the host."""
    host.script(
        """
        mount --bind /bench/sys/devices/system/cpu /sys/devices/system/cpu
        if [ -d /sys/devices/system/node ]; then mount --bind /bench/none /sys/devices/system/node; fi
        mount --bind /bench/proc/1/status /proc/1/status
        """
    )
    host.write("/etc/systemd/system/ovms@.service.d/99-bench.conf", FREE)
    host.write("/etc/systemd/system/ovms-scaler.service.d/bench.conf", SHOWN)
    host.write("/root/timer.py", TIMER)
    host.write("/root/record.py", RECORD)
    host.run("systemctl", "daemon-reload")


def measure_agent(host: Host, instances: int, rss: dict[int, float]) -> Iterator[Measured]:
    """With so many instances in rotation; the agent is started anew for every sample of its start.

    ``rss`` is told the megabytes of all its processes.
    """
    host.write("/etc/ovms-scaler/config.toml", CONFIG.format(instances=instances))
    host.run("systemctl", "restart", "ovms-scaler")
    host.run("ovms-scalerctl", "reload", "--allow-outage")
    wait_until_routed(host, instances)
    yield Measured(
        name=f"start to READY, {instances} running",
        samples=[restart_agent(host, instances) for _ in range(5)],
        unit="ms",
        budget=READY_BUDGET_MS,
    )
    idle = measure_idle(host)
    yield Measured(
        name=f"idle CPU, {instances} instances, {WINDOWS} x {WINDOW_SEC:g} s",
        samples=[seconds / WINDOW_SEC * 100 for seconds in idle],
        unit="%",
        budget=IDLE_BUDGET_PERCENT if instances == 8 else None,
    )
    yield Measured(
        name=f"   of it for each probe, {instances} instances",
        samples=[seconds / WINDOW_SEC / instances * 1000 for seconds in idle],
        unit="ms",
    )
    yield from measure_memory(host, instances, rss)
    if instances in (8, 64):
        yield measure_record(host, instances)
        yield measure_quick(host, instances)
    commands = {"status": STATUS_BUDGET_MS} | ({"--help": HELP_BUDGET_MS} if instances == 1 else {})
    for command, budget in commands.items():
        yield Measured(
            name=f"ovms-scalerctl {command}, {instances} instances",
            samples=json.loads(host.run("python3", "/root/timer.py", "ovms-scalerctl", command).stdout),
            unit="ms",
            budget=budget,
        )


def measure_memory(host: Host, instances: int, rss: dict[int, float]) -> Iterator[Measured]:
    for what in ("Rss", "Pss"):
        used = read_memory(host, what)
        if what == "Rss":
            rss[instances] = used
        yield Measured(
            name=f"{what} of all processes, {instances} instances",
            samples=[used],
            unit="MB",
            budget=RSS_BUDGET_MB + RSS_GROWTH_BUDGET_MB * instances if what == "Rss" else None,
        )


def measure_record(host: Host, instances: int) -> Measured:
    """The whole agent, its probes included, while the proxy tells it of requests."""
    status = json.loads(host.run("ovms-scalerctl", "status", "--json").stdout)
    ports = [str(one["port"]) for one in status["instances"]]
    program = ["python3", "/root/record.py", str(RECORDS_PER_SEC), *ports]
    host.run("systemd-run", "--unit=bench-record", "--collect", *program)
    try:
        used = measure_idle(host)
        assert host.properties("bench-record.service", "ActiveState") == {"ActiveState": "active"}
    finally:
        host.run("systemctl", "stop", "bench-record.service", check=False)
    return Measured(
        name=f"CPU at {RECORDS_PER_SEC} requests/s, {instances} instances",
        samples=[seconds / WINDOW_SEC * 100 for seconds in used],
        unit="%",
        budget=RECORD_BUDGET_PERCENT if instances == 8 else None,
    )


def measure_quick(host: Host, instances: int) -> Measured:
    """Idle, with probes that find what hangs within 0.7 s in place of 1.5 s."""
    config = CONFIG.format(instances=instances)
    host.write("/etc/ovms-scaler/config.toml", f"{config}\n{QUICK}")
    host.run("ovms-scalerctl", "reload")
    used = measure_idle(host)
    host.write("/etc/ovms-scaler/config.toml", config)
    host.run("ovms-scalerctl", "reload")
    return Measured(
        name=f"idle CPU with quick probes, {instances} instances",
        samples=[seconds / WINDOW_SEC * 100 for seconds in used],
        unit="%",
    )


def wait_until_routed(host: Host, instances: int) -> None:
    def routed() -> bool:
        done = host.run("ovms-scalerctl", "status", "--json", check=False)
        found = json.loads(done.stdout)["instances"] if done.stdout.startswith("{") else []
        return len(found) == instances and all(one["in_rotation"] for one in found)

    host.wait_for(routed, 240, f"{instances} instances in rotation")


def restart_agent(host: Host, instances: int) -> float:
    """Milliseconds from the start of its process until systemd took its READY."""
    host.run("systemctl", "restart", "ovms-scaler")
    times = host.properties("ovms-scaler", "ActiveEnterTimestampMonotonic", "InactiveExitTimestampMonotonic")
    begun, ready = times["InactiveExitTimestampMonotonic"], times["ActiveEnterTimestampMonotonic"]
    wait_until_routed(host, instances)
    return (int(ready) - int(begun)) / 1000


def measure_idle(host: Host) -> list[float]:
    """Seconds of CPU that the agent's processes take in each of WINDOWS, with the default probes."""
    time.sleep(3)  # what its start stirred up has settled
    windows = []  # a share of time can only be had by letting time pass
    for _ in range(WINDOWS):
        begun, used = time.monotonic(), read_cpu(host)
        time.sleep(WINDOW_SEC)  # the window itself
        windows.append((read_cpu(host) - used) * WINDOW_SEC / (time.monotonic() - begun))
    return windows


def read_cpu(host: Host) -> float:
    fields = dict(line.split() for line in host.read(f"{GROUP}/cpu.stat").splitlines())
    return int(fields["usage_usec"]) / 1e6


def read_memory(host: Host, what: str) -> float:
    """Megabytes in smaps_rollup (proc(5)) of every process of the agent, added up."""
    script = f'for pid in $(cat {GROUP}/cgroup.procs); do grep "^{what}:" /proc/$pid/smaps_rollup; done'
    return sum(int(line.split()[1]) for line in host.script(script).splitlines()) * 1024 / 1e6
