# SPDX-License-Identifier: Apache-2.0
"""The virtual machine itself: it has what the product reads, and what happens to it is real."""

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from lab import vm_files, vm_qemu
from lab.commands import LabError
from lab.vm import Vm

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
START_AND_DIE = """
import os, signal, socket
from pathlib import Path
from lab import vm_image, vm_qemu
ours, theirs = socket.socketpair()
argv = vm_qemu.command(vm_image.build(), vm_qemu.EMULATED)
process = vm_qemu.start(argv, Path(os.devnull), theirs)
vm_qemu.Monitor(ours)
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_machine_has_four_nodes_with_three_cpus_and_memory_each(vm: Vm) -> None:
    shown = vm.script("cd /sys/devices/system/node; grep . node*/cpulist").splitlines()
    assert shown == ["node0/cpulist:0-2", "node1/cpulist:3-5", "node2/cpulist:6-8", "node3/cpulist:9-11"]
    assert vm.read("/sys/devices/system/node/has_memory") == "0-3\n"
    assert "cpuset" in vm.read("/sys/fs/cgroup/cgroup.controllers").split()


def test_cards_belong_to_the_nodes_of_their_bridges(vm: Vm) -> None:
    cards = vm.read_cards()
    assert sorted(cards.values()) == [0, 0, 2, 2]
    for address, node in cards.items():
        bus = {0: "20", 2: "40"}[node]
        found = vm.script(f"readlink -f /sys/bus/pci/devices/{address}").strip()
        assert found.startswith(f"/sys/devices/pci0000:{bus}/")


def test_command_that_fails_says_so(vm: Vm) -> None:
    with pytest.raises(LabError, match=r"exit status 3\nto stdout\nto stderr\n"):
        vm.script("echo to stdout; echo to stderr >&2; exit 3")


def test_command_reads_what_it_is_given(vm: Vm) -> None:
    data = bytes(range(256)) * 4096
    vm.write("/run/subject", data, mode=0o600)
    assert vm.read_bytes("/run/subject") == data
    assert vm.run("stat", "--format=%a", "/run/subject").stdout == "600\n"


def test_command_that_hangs_is_killed_inside(vm: Vm) -> None:
    with pytest.raises(LabError, match="not done after 2 s"):
        vm.run("sh", "-c", "sleep 4711; true", timeout_sec=2)
    vm.wait_for("! pgrep -f '[s]leep 4711'", 30, "the sleep to be gone")


def test_refused_connection_is_refused(vm: Vm) -> None:
    with pytest.raises(ConnectionRefusedError):
        vm.connect(4711)
    with pytest.raises(FileNotFoundError):
        vm.connect_unix("/run/none")


def test_card_goes_and_comes_back_with_events(vm: Vm) -> None:
    cards = vm.read_cards()
    address = min(cards)
    with vm.udev_events() as events:
        vm.remove_card(address)
        seen = events.wait_for(ACTION="remove", DEVTYPE="drm_minor", ID_PATH=f"pci-{address}")
        assert "/dev/dri/" in seen[-1]["DEVNAME"]
        assert vm.read_cards() == {name: node for name, node in cards.items() if name != address}
        assert not vm.exists(f"/dev/dri/by-path/pci-{address}-render")
        vm.rescan()
        events.wait_for(ACTION="add", DEVTYPE="drm_minor", ID_PATH=f"pci-{address}")
    vm.settle()
    assert vm.read_cards() == cards
    assert vm.exists(f"/dev/dri/by-path/pci-{address}-render")


@pytest.mark.parametrize("methods", vm_files.WEDGED)
def test_wedged_card_is_reported_by_udev(vm: Vm, methods: str) -> None:
    address = max(vm.read_cards())
    with vm.udev_events() as events:
        vm.wedge(address, methods)
        event = events.wait_for(ACTION="change", WEDGED=methods)[-1]
    assert event["SUBSYSTEM"] == "drm"
    assert f"/{address}/drm/card" in event["DEVPATH"]


def test_cpu_goes_and_comes_back(vm: Vm) -> None:
    vm.offline_cpu(11)
    assert vm.read("/sys/devices/system/node/node3/cpulist") == "9-10\n"
    vm.online_cpu(11)
    assert vm.read("/sys/devices/system/node/node3/cpulist") == "9-11\n"


def test_unit_is_confined_to_a_node(vm: Vm) -> None:
    settings = ["AllowedCPUs=4-5", "AllowedMemoryNodes=1", "NUMAPolicy=bind", "NUMAMask=1"]
    options = [f"--property={line}" for line in settings]
    shown = vm.run("systemd-run", "--quiet", "--pipe", *options, "cat", "/proc/self/status").stdout
    assert "Cpus_allowed_list:\t4-5\n" in shown
    assert "Mems_allowed_list:\t1\n" in shown


def test_machine_that_cannot_run_it_is_told_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(vm_qemu, "NEEDED_BYTES", 1 << 50)
    with pytest.raises(
        LabError, match=r"(?s)no qemu-system-x86_64 \(hint: .*MiB of memory are free \(hint: "
    ):
        vm_qemu.require_machine()


def test_nothing_outside_can_be_reached(vm: Vm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as outside:
        port = outside.getsockname()[1]
        done = vm.run("curl", "--silent", "--max-time", "5", f"http://10.0.2.2:{port}/", check=False)
        outside.settimeout(0)
        with pytest.raises(BlockingIOError):
            outside.accept()
    assert done.returncode in (7, 28)  # refused, or no answer


def test_machine_ends_when_the_test_process_is_killed(booted: Vm) -> None:
    died = subprocess.run(
        [sys.executable, "-c", START_AND_DIE], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert died.returncode == -signal.SIGKILL
    try:
        descriptor = os.pidfd_open(int(died.stdout))
    except ProcessLookupError:
        return
    with os.fdopen(descriptor) as ended:
        assert select.select([ended], [], [], 10)[0], "QEMU is still there"
