# SPDX-License-Identifier: Apache-2.0
"""A booted host with up to 256 engines, for what the installed agent costs.

Real: systemd, D-Bus, the proxy, the package as installed, the agent in its sandbox, HTTP to every engine.
Simulated: the engines (the stand-in without inference, a process each), and the machine: the host is shown
one node with 256 cores of two threads, numbered from 1000 up, of which no process could ever get one. A
drop-in of the administrator's for all instances therefore takes their affinity back, as the agent lets
administrators do.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import machines
from lab import deb, installed, paths
from lab.host import Host

from ovms_scaler.core.cpulist import format_cpu_list

CORES = 256
FIRST_CPU = 1000
# As many instances as a node may have of one pool; more are several pools, each with a part of the cores.
POOL = 64
AGENT = "/sys/fs/cgroup/system.slice/ovms-scaler.service"
PROXY = "/sys/fs/cgroup/system.slice/ovms-scaler-proxy.service"
CONFIG = "/etc/ovms-scaler/config.toml"
# Requests that an engine works on at once, and one more.
REST_WORKERS = 65
# An engine takes some 35 MB and, as it starts, half a second of one core.
MEMORY_BYTES, TASKS, START_LIMIT_SEC = 20 << 30, 16384, 900
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


@contextlib.contextmanager
def boot(release: str = "bookworm") -> Iterator[Host]:
    """A host that has been shown the machine; the agent does not run yet. Raises LabError."""
    deb.build(release)
    binds = {"/opt/ovms": paths.CACHE / "ovms-standin", "/srv/models/tiny": paths.LAB / "standin" / "model"}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        write_machine(Path(directory))
        binds["/bench"] = Path(directory)
        image = installed.build(release)
        with Host.boot(image, binds=binds, memory_bytes=MEMORY_BYTES, tasks=TASKS) as host:
            show_machine(host)
            yield host


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
    host.run("systemctl", "daemon-reload")


def render_config(instances: int, environment: Mapping[str, str] | None = None) -> str:
    """One pool, or one for each POOL of instances; all of one model, which has one URL."""
    count = -(-instances // POOL)
    variables = {"OVMS_STANDIN_ENGINE": "simulated", **(environment or {})}
    shown = ", ".join(f'{name} = "{value}"' for name, value in variables.items())
    every = range(FIRST_CPU, FIRST_CPU + 2 * CORES)
    pools = []
    for number in range(count):
        own = {cpu for cpu in every if (cpu - FIRST_CPU) % CORES * count // CORES == number}
        pools.append(
            f"""\
[[pool]]
name = "chat{number}"
model_name = "tiny/llama"
model_path = "/srv/models/tiny"
instances_per_node = {instances // count}
reserve_cpus = "{format_cpu_list(set(every) - own)}"
memory = "preferred"
[pool.ovms]
environment = {{ {shown} }}
rest_workers = {REST_WORKERS}
"""
        )
    return "\n".join(pools)


def fill(host: Host, instances: int, environment: Mapping[str, str] | None = None) -> float:
    """Have so many instances in rotation on a host without any; seconds that it took."""
    host.write(CONFIG, render_config(instances, environment))
    began = time.monotonic()
    host.run("systemctl", "start", "ovms-scaler")
    host.run("ovms-scalerctl", "reload")
    wait_until_routed(host, instances)
    return time.monotonic() - began


def wait_until_routed(host: Host, instances: int) -> None:
    # What it tells systemd costs nobody anything to read, unlike its status.
    text = f"{instances} of {instances} instances in rotation"
    host.wait_for(
        lambda: host.properties("ovms-scaler", "StatusText")["StatusText"] == text,
        START_LIMIT_SEC,
        f"{instances} instances in rotation",
    )


def read_cpu(host: Host, group: str = AGENT) -> float:
    """Seconds of CPU that the processes of a control group took so far."""
    fields = dict(line.split() for line in host.read(f"{group}/cpu.stat").splitlines())
    return int(fields["usage_usec"]) / 1e6


def read_memory(host: Host, what: str, group: str = AGENT) -> float:
    """Megabytes in smaps_rollup (proc(5)) of every process of a control group, added up."""
    script = f'for pid in $(cat {group}/cgroup.procs); do grep "^{what}:" /proc/$pid/smaps_rollup; done'
    return sum(int(line.split()[1]) for line in host.script(script).splitlines()) * 1024 / 1e6
