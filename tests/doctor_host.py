# SPDX-License-Identifier: Apache-2.0
"""A host below a directory, with everything that the checks look at, as it should be.

Programs are scripts that print what stands in files below lab/, and the engine says that it is OVMS.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from machine_tree import Machine, number_cores, write_machine

from ovms_scaler.core.checks.catalogue import CHECKS
from ovms_scaler.core.checks.finding import Finding, Result
from ovms_scaler.core.checks.system import DIRECTORIES, UNITS
from ovms_scaler.doctor.examining import examine
from ovms_scaler.doctor.setting import Document, read_setting
from ovms_scaler.errors import ScalerError
from ovms_scaler.host.apart import Outcome, Task, run_apart

# Who the engines are in the tests: another user where that can be, so that what is closed to others shows.
ENGINES = 65534 if os.geteuid() == 0 else os.geteuid()
VERSION = """\
OpenVINO Model Server 2026.3.1.d7bf9f1d3
OpenVINO backend 2026.3.1-22955-227c33757d1-releases/2026/3
Bazel build flags: --config=mp_on_py_on
"""
NGINX = """\
nginx version: nginx/1.22.1
TLS SNI support enabled
configure arguments: --with-http_ssl_module --with-stream=dynamic
"""
POOL = """\
[[pool]]
name = "chat"
model_name = "tiny"
model_path = "/srv/models/tiny"
"""
IR = '<net><layers><data element_type="f16" shape="8" offset="0" size="16"/></layers></net>\n'
# A socket of /proc/net/tcp that listens on every address, by port, owner and inode.
SOCKET = (
    "   0: 00000000:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 {uid} 0 {inode} 1"
)
TABLE = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

# What an agent says that is content.
CONTENT: Document = {"instances": [], "problems": [], "config": {"error": ""}, "proxy": {"error": ""}}


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorHost:
    """``root`` stands for the host's /."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "etc/ovms-scaler/config.toml"

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def write(self, name: str, text: str, *, mode: int = 0o644) -> Path:
        """A file, and the directories on the way."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def append(self, name: str, text: str) -> None:
        self.write(name, (self.path(name).read_text() if self.path(name).exists() else "") + text)

    def remove(self, name: str) -> None:
        path = self.path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def write_unit(self, name: str, **changes: str) -> None:
        """What systemctl says of a unit that is as it should be, but for ``changes``."""
        shown = {
            "Id": name,
            "LoadState": "loaded",
            "ActiveState": "active",
            "Result": "success",
            "UnitFileState": "enabled" if name == "ovms-scaler.service" else "static",
            "NeedDaemonReload": "no",
        } | changes
        self.write(f"lab/units/{name}", "".join(f"{key}={value}\n" for key, value in shown.items()))

    def write_process(
        self, pid: int, name: str, *, unit: str, cpus: str, sockets: Sequence[int] = ()
    ) -> None:
        """A process in a unit of system.slice, with the sockets of these inodes open."""
        status = f"Name:\t{name}\nVmSize:\t1 kB\nCpus_allowed_list:\t{cpus}\n"
        self.write(f"proc/{pid}/status", status)
        self.write(f"proc/{pid}/comm", f"{name}\n")
        self.write(f"proc/{pid}/cgroup", f"0::/system.slice/{unit}\n")
        (self.root / f"proc/{pid}/fd").mkdir()
        for number, inode in enumerate(sockets):
            (self.root / f"proc/{pid}/fd/{number}").symlink_to(f"socket:[{inode}]")

    def listen(self, port: int, *, inode: int = 4711, uid: int = 0) -> None:
        """A socket that listens on every address."""
        self.append("proc/net/tcp", SOCKET.format(port=port, uid=uid, inode=inode) + "\n")

    def find(self, *names: str, status: Document | None = CONTENT) -> tuple[Finding, ...]:
        """Everything that is not good; the agent says ``status``, or gives no answer."""
        deadline_sec = 20.0
        setting = read_setting(
            self.config,
            root=self.root,
            deadline_sec=deadline_sec,
            status=status,
            status_error="cannot reach the agent: no answer" if status is None else "",
            run=run_here,
        )
        found = examine(setting, names or CHECKS, deadline_sec=deadline_sec, run=run_here)
        return tuple(one for one in found if one.result is not Result.good)


def run_here(tasks: Sequence[Task]) -> dict[str, Outcome]:
    """As run_apart, in this process where that can be: a fork of all of pytest takes its time."""
    outcomes: dict[str, Outcome] = {}
    for task in tasks:
        if task.user is not None:
            outcomes |= run_apart([task])
            continue
        try:
            outcomes[task.name] = Outcome(value=task.call())
        except ScalerError as error:
            outcomes[task.name] = Outcome(trouble=error.message)
    return outcomes


def write_healthy(root: Path) -> DoctorHost:
    """A host of one node, with a model and a pool on it, and an agent that is enabled and runs."""
    host = DoctorHost(root=write_machine(root, Machine(cores=number_cores({0: 8}, threads=1))))
    _write_accounts(host)
    for path, (mode, _, group) in DIRECTORIES.items():
        directory = host.path(path)
        directory.mkdir(parents=True)
        directory.chmod(mode)
        if os.geteuid() == 0 and group != "root":
            os.chown(directory, 0, ENGINES)
            directory.chmod(mode)
    _write_programs(host)
    host.write("etc/ovms-scaler/config.toml", POOL)
    host.write("srv/models/tiny/openvino_model.xml", IR)
    host.write("srv/models/tiny/openvino_model.bin", "0" * 16)
    host.write("srv/models/tiny/openvino_tokenizer.xml", "<net/>\n")
    _write_kernel(host)
    host.write("run/dbus/system_bus_socket", "")
    host.write("usr/lib/nginx/modules/ngx_stream_module.so", "")
    host.write("proc/net/tcp", TABLE)
    return host


def _write_accounts(host: DoctorHost) -> None:
    me, mine = os.geteuid(), os.getegid()
    host.write(
        "etc/passwd",
        f"root:x:{me}:{mine}::/root:/bin/sh\n"
        f"ovms:x:{ENGINES}:{ENGINES}::/nonexistent:/usr/sbin/nologin\n"
        f"ovms-scaler-proxy:x:{ENGINES}:{ENGINES}::/nonexistent:/usr/sbin/nologin\n",
    )
    group = ENGINES if me == 0 else mine
    host.write(
        "etc/group",
        f"root:x:{mine}:\novms:x:{group}:\novms-scaler-proxy:x:{group}:\novms-scaler:x:998:\nrender:x:105:\n",
    )


def _write_programs(host: DoctorHost) -> None:
    host.write("opt/ovms/bin/ovms", script(VERSION), mode=0o755)
    host.write("usr/sbin/nginx", script(NGINX), mode=0o755)
    lab = host.root / "lab"
    host.write("lab/version", "Version=252.36-1~deb12u1\n")
    host.write("lab/environment", "LANG=C.UTF-8\n")
    host.write("lab/dropped.json", "")
    host.write("lab/kernel.log", "")
    systemctl = f"""#!/bin/sh
case "$*" in
    *=Version) exec cat {lab}/version ;;
    show-environment) exec cat {lab}/environment ;;
esac
shift 2
for name in "$@"; do
    for file in {lab}/units/$name; do [ -f "$file" ] && cat "$file" && echo; done
done
exit 0
"""
    host.write("usr/bin/systemctl", systemctl, mode=0o755)
    journalctl = f"""#!/bin/sh
case "$*" in
    *--dmesg*) exec cat {lab}/kernel.log ;;
esac
exec cat {lab}/dropped.json
"""
    host.write("usr/bin/journalctl", journalctl, mode=0o755)
    for name in UNITS:
        host.write_unit(name)


def script(output: str, *, status: int = 0) -> str:
    """A program that prints something and ends."""
    return f"#!/bin/sh\ncat <<'EOF'\n{output}EOF\nexit {status}\n"


def _write_kernel(host: DoctorHost) -> None:
    settings: Mapping[str, object] = {
        "kernel/numa_balancing": 0,
        "vm/zone_reclaim_mode": 0,
        "vm/overcommit_memory": 0,
        "net/core/somaxconn": 4096,
        "fs/nr_open": 1048576,
        "net/ipv4/ip_local_port_range": "32768\t60999",
        "net/ipv4/ip_local_reserved_ports": "",
    }
    for name, value in settings.items():
        host.write(f"proc/sys/{name}", f"{value}\n")
    host.write("proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet\n")
    host.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids\n")
    policy = "sys/devices/system/cpu/cpufreq/policy0"
    host.write(f"{policy}/scaling_driver", "intel_pstate\n")
    host.write(f"{policy}/scaling_governor", "powersave\n")
    host.write(f"{policy}/energy_performance_preference", "balance_performance\n")
    host.write(f"{policy}/affected_cpus", "0 1 2 3\n")
    host.write("sys/devices/system/cpu/smt/control", "on\n")
