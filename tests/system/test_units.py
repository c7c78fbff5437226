# SPDX-License-Identifier: Apache-2.0
"""What the sandboxes of the units allow on booted hosts, asked from inside of them."""

from collections.abc import Callable

import pytest
from lab.host import Host
from lab.image import Image
from system.agent_host import AGENT

RECOVERY = "ovms-scaler-gpu-recovery@"
GPU = "0000:03:00.0"
# What belongs to the program of a unit; below another one runs in its sandbox.
OF_THE_PROGRAM = ("Exec", "NotifyAccess=", "Restart", "Type=", "WatchdogSec=", "WantedBy=")
PROGRAM = """
[Service]
Type=oneshot
StandardOutput=truncate:/opt/shown
ExecStart=/usr/bin/python3 /opt/program.py
"""
LISTEN = """
import mmap, pyudev
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except OSError:
    print("confined")
monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
monitor.filter_by("drm")
monitor.start()
print("listens", monitor.poll(timeout=0))
"""
WRITE = """
import os
for directory in ("/run", "/dev", "/etc", "/var/lib", "/run/ovms-scaler", "/run/ovms-scaler/gpu-recovery"):
    try:
        os.close(os.open(f"{directory}/subject", os.O_WRONLY | os.O_CREAT))
        print(directory)
    except OSError:
        pass
"""


@pytest.fixture
def host(boot: Callable[..., Host], installed_image: Image) -> Host:
    return boot(installed_image)


def run_in(host: Host, unit: str, program: str) -> list[str]:
    """The lines that a Python program prints in the sandbox of an installed unit."""
    path = host.properties(unit, "FragmentPath")["FragmentPath"]
    lines = [line for line in host.read(path).splitlines() if not line.startswith(OF_THE_PROGRAM)]
    host.write("/opt/program.py", program)
    host.write("/run/systemd/system/subject.service", "\n".join(lines) + PROGRAM)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "subject.service")
    return host.read("/opt/shown").splitlines()


def test_agent_hears_of_devices_in_its_sandbox(host: Host) -> None:
    """The library that listens is called through ctypes, which must do without writable code."""
    assert run_in(host, AGENT, LISTEN) == ["confined", "listens None"]


def test_root_writes_only_where_a_unit_says(host: Host) -> None:
    assert run_in(host, AGENT, WRITE) == ["/run/ovms-scaler"]
    assert run_in(host, f"{RECOVERY}x.service", WRITE) == ["/run/ovms-scaler/gpu-recovery"]


def test_recovery_runs_and_leaves_word_of_why_it_failed(host: Host) -> None:
    unit = f"{RECOVERY}rebind-{GPU}.service"
    assert host.run("systemctl", "start", unit, check=False).returncode == 1
    shown = host.properties(unit, "Result", "ExecMainStatus", "StatusText")
    assert (shown["Result"], shown["ExecMainStatus"]) == ("exit-code", "2")
    assert shown["StatusText"].startswith(f"cannot recover 'rebind-{GPU}': there is no such device (hint: ")
    assert shown["StatusText"] in host.journal(unit)


def test_recovery_is_not_limited_to_a_number_of_starts(host: Host) -> None:
    unit = f"{RECOVERY}rebind-{GPU}.service"
    for _ in range(8):
        host.run("systemctl", "start", unit, check=False)
    assert host.properties(unit, "Result") == {"Result": "exit-code"}


def test_group_of_render_nodes_and_rule_for_their_units_are_there(host: Host) -> None:
    assert host.run("getent", "group", "render").returncode == 0
    rules = host.script("cat /usr/lib/udev/rules.d/60-ovms-scaler.rules")
    assert 'TAG+="systemd"' in rules
