# SPDX-License-Identifier: Apache-2.0
"""What the installed agent costs on a booted host, with 1, 8, 64 and 256 instances.

Real: systemd, D-Bus, the proxy, the package as installed, the agent in its sandbox, HTTP to every engine.
Simulated: the engines and the machine, see crowd.py; for requests, records of the proxy's at a steady rate.
CPU when idle is of a whole minute, in which everything that is done now and then is done once.
"""

import json
import time
from collections.abc import Iterator

from lab.host import Host

from bench import crowd
from bench.measure import Measured

COUNTS = (1, 8, 64, 256)
QUICKLY = (8, 64)  # more are too much for the engines on two cores
WINDOWS, WINDOW_SEC = 12, 5.0
READY_BUDGET_MS, RSS_BUDGET_MB, IDLE_BUDGET_PERCENT = 1000.0, 75.0, 1.5
RSS_GROWTH_BUDGET_MB, RECORD_BUDGET_PERCENT, RECORDS_PER_SEC = 0.2, 3.0, 100
STATUS_BUDGET_MS, HELP_BUDGET_MS = 200.0, 150.0
PASSES = "ovms_scaler_pass_duration_seconds"
QUICK = "[health]\ninterval_sec = 0.2\ntimeout_sec = 0.2\n"
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
    """Every figure of this module, of a host for each number of instances. Raises LabError."""
    rss: dict[int, float] = {}
    for instances in COUNTS:
        with crowd.boot(release) as host:
            host.write("/root/timer.py", TIMER)
            host.write("/root/record.py", RECORD)
            yield from measure_agent(host, instances, rss)
    growths = [(rss[last] - rss[8]) / (last - 8) for last in COUNTS if last > 8]
    yield Measured(
        name="Rss for each instance more", samples=growths, unit="MB", budget=RSS_GROWTH_BUDGET_MB
    )


def measure_agent(host: Host, instances: int, rss: dict[int, float]) -> Iterator[Measured]:
    """With so many instances in rotation; the agent is started anew for every sample of its start.

    ``rss`` is told the megabytes of all its processes.
    """
    took = crowd.fill(host, instances)
    yield Measured(name=f"empty host to {instances} in rotation", samples=[took], unit="s")
    yield Measured(
        name=f"start to READY, {instances} running",
        samples=[restart_agent(host, instances) for _ in range(5)],
        unit="ms",
        budget=READY_BUDGET_MS,
    )
    budget = IDLE_BUDGET_PERCENT if instances == 8 else None
    before = read_passes(host)
    idle = measure_windows(host)
    sums = [after - earlier for earlier, after in zip(before, read_passes(host), strict=True)]
    yield from describe_windows(f"idle CPU, {instances} instances", idle, budget=budget)
    each = sum(idle) / len(idle) / WINDOW_SEC / instances * 1000
    yield Measured(name="   of it for each instance", samples=[each], unit="ms/s")
    mean_ms = sums[0] / sums[1] * 1000
    yield Measured(name=f"a pass when idle, {instances}, mean of {sums[1]:g}", samples=[mean_ms], unit="ms")
    yield from measure_memory(host, instances, rss)
    if instances > 1:
        yield from measure_record(host, instances)
    if instances in QUICKLY:
        yield from measure_quick(host, instances)
    commands = {"status": STATUS_BUDGET_MS} | ({"--help": HELP_BUDGET_MS} if instances == 1 else {})
    for command, budget in commands.items():
        yield Measured(
            name=f"ovms-scalerctl {command}, {instances} instances",
            samples=json.loads(host.run("python3", "/root/timer.py", "ovms-scalerctl", command).stdout),
            unit="ms",
            budget=budget,
        )


def describe_windows(name: str, seconds: list[float], *, budget: float | None = None) -> Iterator[Measured]:
    """Percent of a core, over all windows and in each: what comes once a minute is in one of them."""
    shares = [one / WINDOW_SEC * 100 for one in seconds]
    whole = [sum(shares) / len(shares)]
    yield Measured(name=name, samples=whole, unit="%", budget=budget)
    yield Measured(name=f"   in each of {WINDOWS} x {WINDOW_SEC:g} s", samples=shares, unit="%")


def measure_memory(host: Host, instances: int, rss: dict[int, float]) -> Iterator[Measured]:
    for what in ("Rss", "Pss"):
        used = crowd.read_memory(host, what)
        if what == "Rss":
            rss[instances] = used
        yield Measured(
            name=f"{what} of all processes, {instances} instances",
            samples=[used],
            unit="MB",
            budget=RSS_BUDGET_MB + RSS_GROWTH_BUDGET_MB * instances if what == "Rss" else None,
        )


def measure_record(host: Host, instances: int) -> Iterator[Measured]:
    """The whole agent, its probes included, while the proxy tells it of requests."""
    status = json.loads(host.run("ovms-scalerctl", "status", "--json").stdout)
    ports = [str(one["port"]) for one in status["instances"]]
    program = ["python3", "/root/record.py", str(RECORDS_PER_SEC), *ports]
    host.run("systemd-run", "--unit=bench-record", "--collect", *program)
    try:
        used = measure_windows(host)
        assert host.properties("bench-record.service", "ActiveState") == {"ActiveState": "active"}
    finally:
        host.run("systemctl", "stop", "bench-record.service", check=False)
    name = f"CPU at {RECORDS_PER_SEC} requests/s, {instances} instances"
    budget = RECORD_BUDGET_PERCENT if instances == 8 else None
    yield from describe_windows(name, used, budget=budget)


def measure_quick(host: Host, instances: int) -> Iterator[Measured]:
    """Idle, with probes that find what hangs within 0.7 s in place of 1.5 s."""
    config = crowd.render_config(instances)
    host.write(crowd.CONFIG, f"{config}\n{QUICK}")
    host.run("ovms-scalerctl", "reload")
    used = measure_windows(host)
    host.write(crowd.CONFIG, config)
    host.run("ovms-scalerctl", "reload")
    yield from describe_windows(f"idle CPU with quick probes, {instances}", used)


def restart_agent(host: Host, instances: int) -> float:
    """Milliseconds from the start of its process until systemd took its READY."""
    host.run("systemctl", "restart", "ovms-scaler")
    times = host.properties("ovms-scaler", "ActiveEnterTimestampMonotonic", "InactiveExitTimestampMonotonic")
    begun, ready = times["InactiveExitTimestampMonotonic"], times["ActiveEnterTimestampMonotonic"]
    crowd.wait_until_routed(host, instances)
    return (int(ready) - int(begun)) / 1000


def read_passes(host: Host) -> list[float]:
    """Seconds that the passes of the agent took so far, and how many there were."""
    text = host.http("GET", "/metrics", port=8002).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(PASSES))
    return [float(values[f"{PASSES}_{what}"]) for what in ("sum", "count")]


def measure_windows(host: Host) -> list[float]:
    """Seconds of CPU that the agent's processes take in each of WINDOWS."""
    time.sleep(3)  # what its start stirred up has settled
    windows = []  # a share of time can only be had by letting time pass
    for _ in range(WINDOWS):
        begun, used = time.monotonic(), crowd.read_cpu(host)
        time.sleep(WINDOW_SEC)  # the window itself
        windows.append((crowd.read_cpu(host) - used) * WINDOW_SEC / (time.monotonic() - begun))
    return windows
