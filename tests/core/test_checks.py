# SPDX-License-Identifier: Apache-2.0
"""What checks make of facts that no fixture of a host can have."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from remedies import check_remedy

from ovms_scaler.core.checks import gpu, kernel, neighbours, port, storage, system
from ovms_scaler.core.checks.access import Closed, remedy_for
from ovms_scaler.core.checks.finding import (
    Finding,
    Result,
)
from ovms_scaler.core.checks.gpu import RuntimeFacts
from ovms_scaler.core.checks.kernel import KernelFacts, Policy
from ovms_scaler.core.checks.neighbours import Process
from ovms_scaler.core.checks.port import Listener, Use, parse_site
from ovms_scaler.core.checks.storage import Certificate, FileSystem
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.spec import Memory
from ovms_scaler.core.topology import Gpu

TMPFILES = Path(__file__).parents[2] / "packaging/ovms-scaler.tmpfiles"
DAY_SEC = 86400.0
MIB = 1 << 20


def results(*found: Finding) -> list[Result]:
    return [one.result for one in found]


CARD = Gpu(
    address="0000:03:00.0",
    render_node="/dev/dri/renderD128",
    vendor_id="0x8086",
    device_id="0xe20b",
    driver="xe",
    numa_node=0,
    accessible=True,
)


def card(**changes: Any) -> Gpu:
    return replace(CARD, **changes)


@pytest.mark.parametrize(
    ("driver", "remedy"),
    [
        pytest.param(None, "modprobe xe", id="none"),
        pytest.param("vfio-pci", "driverctl unset-override 0000:03:00.0", id="for guests"),
        pytest.param("xe", "dmesg", id="without a render node"),
    ],
)
def test_gpu_on_which_nothing_renders_is_found(driver: str | None, remedy: str) -> None:
    (found,) = gpu.judge_drivers([card(driver=driver, render_node=None)], is_wanted=True)
    assert (found.result, found.subject) == (Result.bad, "0000:03:00.0")
    assert remedy in found.remedy
    check_remedy(found)
    assert results(*gpu.judge_drivers([CARD], is_wanted=True)) == [Result.good]


@pytest.mark.parametrize(
    ("accessible", "result"), [(True, Result.good), (False, Result.bad), (None, Result.unknown)]
)
def test_render_node_that_the_group_may_not_open_is_found(
    *, accessible: bool | None, result: Result
) -> None:
    (found,) = gpu.judge_access([card(accessible=accessible)], is_wanted=True)
    assert found.result is result
    if result is not Result.good:
        check_remedy(found)
    if result is Result.bad:
        assert "chgrp render /dev/dri/renderD128" in found.remedy


def test_missing_parts_of_opencl_are_found() -> None:
    intel = {"/etc/OpenCL/vendors/intel.icd": "libigdrcl.so"}
    whole = RuntimeFacts(icds=intel, libraries=frozenset({"libigdrcl.so"}), has_loader=True)
    assert results(*gpu.judge_runtime(whole, is_wanted=True)) == [Result.good]
    other = RuntimeFacts(
        icds={"/etc/OpenCL/vendors/pocl.icd": "libpocl.so.2"}, libraries=frozenset(), has_loader=True
    )
    (found,) = gpu.judge_runtime(other, is_wanted=True)
    assert found.remedy == "apt install intel-opencl-icd"
    broken = RuntimeFacts(icds=intel, libraries=frozenset(), has_loader=False)
    one, two = gpu.judge_runtime(broken, is_wanted=True)
    assert (one.subject, two.remedy) == ("/etc/OpenCL/vendors/intel.icd", "apt install ocl-icd-libopencl1")
    assert results(*gpu.judge_runtime(broken, is_wanted=False)) == [Result.good]


def test_render_node_without_a_unit_is_found() -> None:
    (found,) = gpu.judge_units({"/dev/dri/renderD128": False, "/dev/dri/renderD129": True}, is_wanted=True)
    assert found.subject == "/dev/dri/renderD128"
    assert "dev-dri-renderD128.device" in found.reason


@pytest.mark.parametrize(
    ("free", "files", "result"),
    [
        pytest.param(2 * MIB, 99, Result.bad, id="full"),
        pytest.param(1000 * MIB, 0, Result.bad, id="no inode"),
        pytest.param(100 * MIB, 99, Result.warning, id="nearly full"),
        pytest.param(600 * MIB, None, Result.good, id="room, on a file system that counts no files"),
    ],
)
def test_full_disk_is_found(free: int, files: int | None, result: Result) -> None:
    system = FileSystem(path="/var/lib/ovms-scaler", free_bytes=free, bytes=20_000 * MIB, free_files=files)
    (found,) = storage.judge_disk([system])
    assert found.result is result
    if result is not Result.good:
        check_remedy(found)


def test_small_file_system_with_a_part_of_it_free_has_room() -> None:
    system = FileSystem(path="/run", free_bytes=50 * MIB, bytes=100 * MIB, free_files=99)
    assert results(*storage.judge_disk([system])) == [Result.good]


def test_clock_that_was_never_set_is_found() -> None:
    found = storage.judge_clock(now=3600.0, built=1_700_000_000.0, shown="1970-01-01 01:00")
    assert found.result is Result.bad
    assert "1970-01-01" in found.reason
    check_remedy(found)
    assert storage.judge_clock(now=1.7e9, built=1.7e9 + 3600, shown="").result is Result.good


@pytest.mark.parametrize(
    ("days", "result"),
    [
        (-1.0, Result.bad),
        (5.0, Result.bad),
        (30.0, Result.good),
        (95.0, Result.warning),
        (101.0, Result.bad),
    ],
)
def test_certificate_out_of_its_time_is_found(days: float, result: Result) -> None:
    one = Certificate(path="/etc/tls.crt", not_before=10 * DAY_SEC, not_after=100 * DAY_SEC)
    found = storage.judge_certificate(one, now=days * DAY_SEC)
    assert found.result is result
    if result is not Result.good:
        check_remedy(found)


KERNEL_LINES = {
    "ovms": [
        "Memory cgroup out of memory: Killed process 812 (ovms) total-vm:9kB, anon-rss:9kB",
        "traps: ovms[812] trap invalid opcode ip:5581 sp:7ffd error:0 in ovms[5581+1000]",
        "ovms[812]: segfault at 0 ip 000055 sp 00007f error 4 in libovms_shared.so[7f+2]",
    ],
    "nginx": ['audit: type=1400 apparmor="DENIED" operation="open" profile="nginx" pid=8 comm="nginx"'],
    "i915": ["i915 0000:03:00.0: [drm] GPU HANG: ecode 12:1:85dffffb, in ovms [812]"],
}


@pytest.mark.parametrize(
    ("who", "line"), [(who, line) for who, lines in KERNEL_LINES.items() for line in lines]
)
def test_trouble_in_the_log_of_the_kernel_is_found(who: str, line: str) -> None:
    (found,) = storage.judge_kernel_log([line, "usb 1-1: new device", line])
    assert (found.result, found.subject) == (Result.warning, who)
    assert "2 times" in found.reason
    check_remedy(found)


def test_what_the_kernel_says_of_others_is_left_out() -> None:
    lines = ["Out of memory: Killed process 9 (java)", "ovmsd[9]: segfault at 0"]
    assert results(*storage.judge_kernel_log(lines)) == [Result.good]


def test_of_a_power_saving_driver_only_what_holds_the_frequency_low_is_found() -> None:
    cpus = frozenset({0})
    harmless = [
        Policy(driver="intel_pstate", governor="powersave", preference="balance_performance", cpus=cpus),
        Policy(driver="intel_pstate", governor="performance", preference="power", cpus=cpus),
        Policy(driver="amd-pstate-epp", governor="powersave", preference="default", cpus=cpus),
        Policy(driver="intel_cpufreq", governor="schedutil", preference="", cpus=cpus),
    ]
    assert results(*kernel.judge_governors(KernelFacts(sysctls={}, policies=tuple(harmless)))) == [
        Result.good
    ]
    slow = Policy(driver="intel_cpufreq", governor="powersave", preference="", cpus=cpus)
    assert results(*kernel.judge_governors(KernelFacts(sysctls={}, policies=(slow,)))) == [Result.warning]


def use(address: str = "", unit: str = "ovms-scaler-proxy.service") -> Use:
    return Use(address=address, port=8000, purpose="clients", unit=unit, uid=33, key="set listen")


def listener(address: str = "0.0.0.0", **changes: Any) -> Listener:
    return replace(Listener(address=address, port=8000, uid=0), **changes)


@pytest.mark.parametrize(
    ("wanted", "held", "collide"),
    [
        ("", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "::", True),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("[::1]", "::1", True),
        ("127.0.0.1", "10.0.0.1", False),
        ("[::1]", "127.0.0.1", False),
    ],
)
def test_only_an_address_that_cannot_be_bound_too_is_taken(wanted: str, held: str, *, collide: bool) -> None:
    (found,) = port.judge_ports([use(wanted)], [listener(held)])
    assert (found.result is Result.bad) is collide


def test_port_held_by_whom_it_is_for_is_good() -> None:
    ours = listener(pid=9, name="nginx", unit="ovms-scaler-proxy.service")
    theirs = listener(pid=9, name="nginx", unit="nginx.service")
    assert results(*port.judge_ports([use()], [ours])) == [Result.good]
    assert results(*port.judge_ports([use()], [theirs])) == [Result.bad]


def test_without_root_the_owner_of_a_socket_tells() -> None:
    assert results(*port.judge_ports([use()], [listener(uid=33)])) == [Result.good]
    (found,) = port.judge_ports([use()], [listener(uid=1000)])
    assert "run this as root" in found.remedy
    check_remedy(found)


@pytest.mark.parametrize(
    ("held", "remedy"),
    [
        ({"name": "apache2", "unit": "apache2.service"}, "systemctl disable --now apache2.service"),
        ({"unit": f"libpod-{'a1b2c3d4e5f6' * 5}.scope"}, "podman stop a1b2c3d4e5f6"),
        ({"unit": "user.slice"}, "kill 9"),
    ],
)
def test_who_takes_a_port_is_stopped_by_what_started_it(held: dict[str, str], remedy: str) -> None:
    (found,) = port.judge_ports([use()], [listener(pid=9, **held)])
    assert (found.remedy, found.note) == (remedy, "or set listen")
    check_remedy(found)


def test_cgroup_controller_and_process_without_a_unit_have_remedies_that_can_be_typed() -> None:
    for one in system.judge_cgroups(["cpu"], "quiet"):
        check_remedy(one)
    process = Process(pid=9, name="postgres", unit="", cpus=frozenset({1}))
    (found,) = neighbours.judge_cores([process], [INSTANCE], frozenset(range(16)))
    assert found.remedy == "taskset -cp 9"
    check_remedy(found)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("  # server {\n", set()),
        ("server { listen 81; }", {81}),
        ("  listen 80 default_server;\n  listen [::]:8080;\n", {80, 8080}),
        ("  listen 127.0.0.1:81;\n  listen unix:/run/x.sock;\n", {81}),
        ("  listen localhost;\n", {80}),
        ("  listen [::1];\n", {80}),
        ("# listen 80;\n", set()),
        ("server {\n  root /srv;\n}\n", {80}),
    ],
)
def test_ports_of_a_site_are_read(text: str, ports: set[int]) -> None:
    assert parse_site("site", text).ports == ports


INSTANCE = Instance(
    id="chat-numa0",
    pool="chat",
    node=0,
    cpus=frozenset(range(4)),
    memory=Memory.bind,
    memory_nodes=frozenset({0}),
    inference_threads=4,
    port=8003,
    weight=1,
)


def test_processes_of_one_service_are_one_finding() -> None:
    processes = [
        Process(pid=pid, name="postgres", unit="postgresql.service", cpus=frozenset({pid}))
        for pid in (2, 3, 9)
    ]
    (found,) = neighbours.judge_cores(processes, [INSTANCE], frozenset(range(16)))
    assert found.subject == "postgresql.service"
    assert "CPUs 2-3,9, of which 2-3 are for chat-numa0" in found.reason


def test_all_units_of_a_slice_that_is_bound_are_one_finding() -> None:
    processes = [
        Process(pid=pid, name=f"p{pid}", unit=f"u{pid}.service", cpus=frozenset({0, 1})) for pid in (5, 6, 7)
    ]
    (found,) = neighbours.judge_cores(processes, [INSTANCE], frozenset(range(16)))
    assert found.subject == "u5.service and 2 more"


@pytest.mark.parametrize(
    "cpus",
    [
        pytest.param(frozenset(range(16)), id="bound to nothing"),
        pytest.param(frozenset(range(4, 8)), id="bound elsewhere"),
    ],
)
def test_process_that_is_not_bound_to_cores_of_an_instance_is_left_out(cpus: frozenset[int]) -> None:
    process = Process(pid=9, name="postgres", unit="postgresql.service", cpus=cpus)
    found = neighbours.judge_cores([process], [INSTANCE], frozenset(range(16)))
    assert results(*found) == [Result.good]


def test_what_opens_a_path_opens_no_more_than_that() -> None:
    """A model may lie anywhere, also right in a directory that must stay closed."""
    home = Closed(path="/home/alice", verb="pass", mode=0o700, is_directory=True)
    assert remedy_for(home, "ovms", "/home/alice/model") == "setfacl -m u:ovms:x /home/alice"
    file = Closed(path="/etc/models.json", verb="read", mode=0o600, is_directory=False)
    assert remedy_for(file, "ovms") == "chmod a+r /etc/models.json"
    inside = Closed(path="/srv/my model/a.bin", verb="read", mode=0o600, is_directory=False)
    assert remedy_for(inside, "ovms", "/srv/my model") == "chmod -R a+rX '/srv/my model'"
