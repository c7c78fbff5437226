# SPDX-License-Identifier: Apache-2.0
"""The lab itself: its hosts behave like hosts where the product depends on it, and leave nothing behind."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import keeper
from lab.commands import LabError
from lab.host import Host
from lab.image import Image

HARDENING = """
DynamicUser=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=all
NoNewPrivileges=yes
CapabilityBoundingSet=
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077
"""

PYSTEMD = """
import pystemd.systemd1
with pystemd.systemd1.Unit(b"nginx.service") as unit:
    print(unit.Unit.ActiveState.decode())
"""

BOOT_AND_DIE = """
import os, signal, sys
from lab import image
from lab.host import Host
host = Host.boot(image.build(sys.argv[1], image.Kind.HOST))
print(host.keeping.process.pid, host.pid1, host.directory, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def groups_of(keeper_pid: int) -> list[Path]:
    mounts = [mount for mount, _ in keeper.read_hierarchies()]
    return [path for mount in mounts for path in mount.glob(f"{keeper.GROUP_PREFIX}{keeper_pid}")]


def start_service(host: Host, *properties: str, command: str = "exec sleep infinity") -> str:
    """Start a transient service; its main process as the host numbers it."""
    options = [f"--property={line}" for line in properties]
    # Type=exec: the next command finds the program running, with all its settings applied.
    run = ["systemd-run", "--quiet", "--unit=subject", "--service-type=exec"]
    host.run(*run, *options, "sh", "-c", command)
    return host.properties("subject.service", "MainPID")["MainPID"]


def test_host_reaches_running_with_no_failed_unit(host: Host) -> None:
    assert host.run("systemctl", "is-system-running").stdout == "running\n"
    assert host.run("cat", "/etc/debian_version").stdout.startswith(
        {"bookworm": "12.", "trixie": "13."}[host.image.release]
    )
    assert host.run("uname", "--nodename").stdout.strip() == host.name


def test_cpu_affinity_and_memory_policy_of_a_service_reach_the_kernel(host: Host) -> None:
    pid = start_service(host, "CPUAffinity=0", "NUMAPolicy=bind", "NUMAMask=0")
    status = dict(
        line.split(":\t", 1) for line in host.read(f"/proc/{pid}/status").splitlines() if ":\t" in line
    )
    assert status["Cpus_allowed_list"] == "0"
    assert {line.split()[1] for line in host.read(f"/proc/{pid}/numa_maps").splitlines()} == {"bind:0"}


def test_a_process_without_settings_is_neither_pinned_nor_bound(host: Host) -> None:
    pid = start_service(host)
    assert {line.split()[1] for line in host.read(f"/proc/{pid}/numa_maps").splitlines()} == {"default"}


def test_bus_and_pystemd_answer(host: Host) -> None:
    names = host.run("busctl", "list", "--no-pager").stdout
    assert "org.freedesktop.systemd1" in names
    assert host.run("python3", "-c", PYSTEMD).stdout == "active\n"


def test_nginx_of_debian_serves_its_default_site(host: Host) -> None:
    answer = host.http("GET", "/")
    assert (answer.status, answer.headers["server"].split("/")[0]) == (200, "nginx")
    assert "Welcome to nginx" in answer.text


def test_a_client_of_the_machine_reaches_the_host_through_its_network(host: Host) -> None:
    text = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1/').status)"
    assert host.netns_run(sys.executable, "-c", text).stdout == "200\n"


def test_host_has_no_network_but_its_own(host: Host) -> None:
    links = host.run("ip", "-brief", "link").stdout.splitlines()
    assert [line.split()[0] for line in links] == ["lo"]


def test_service_with_every_hardening_directive_starts_and_is_confined(host: Host) -> None:
    write = "touch /usr/x || touch /var/x || echo confined; exec sleep infinity"
    pid = start_service(host, *HARDENING.split("\n")[1:-1], command=write)
    host.wait_for_journal(r"sh\[[0-9]+\]: confined$", unit="subject.service")
    status = host.read(f"/proc/{pid}/status")
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


def test_device_policy_of_a_service_is_enforced(host: Host) -> None:
    host.run("mknod", "/dev/subject", "c", "1", "5")  # /dev/zero under another name
    read = "head -c 1 /dev/subject | wc -c"
    run = ["systemd-run", "--quiet", "--wait", "--pipe", "--property=DevicePolicy=strict"]
    assert host.run(*run, "sh", "-c", read).stdout == "0\n"
    assert host.run(*run, "--property=DeviceAllow=/dev/zero r", "sh", "-c", read).stdout == "1\n"


def test_reboot_keeps_the_disk_and_forgets_the_rest(host: Host) -> None:
    host.write("/var/lib/subject/kept", "kept")
    host.write("/run/subject/lost", "lost")
    identity = host.read("/etc/machine-id")
    host.reboot()
    assert host.read("/var/lib/subject/kept") == "kept"
    assert not host.exists("/run/subject/lost")
    assert host.read("/etc/machine-id") == identity
    assert host.http("GET", "/").status == 200


def test_poweroff_leaves_no_process_no_group_and_no_mount(
    boot: Callable[..., Host], host_image: Image
) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    with boot(host_image) as host:
        assert host.keeping is not None
        process = host.keeping.process
        assert groups_of(process.pid)
        host.poweroff()
        with pytest.raises(LabError, match="it is off"):
            host.run("true")
    assert process.returncode == 0
    assert groups_of(process.pid) == []
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not host.directory.exists()


def test_saved_layer_boots_with_what_was_written_and_without_what_was_removed(
    boot: Callable[..., Host], host_image: Image, tmp_path: Path
) -> None:
    with boot(host_image) as first:
        first.write("/etc/subject", "written")
        first.run("rm", "/etc/nginx/sites-enabled/default")
        first.poweroff()
        layered = first.save_layer(tmp_path / "layer")
    second = boot(layered)
    assert second.read("/etc/subject") == "written"
    assert not second.exists("/etc/nginx/sites-enabled/default")
    assert boot(host_image).exists("/etc/nginx/sites-enabled/default")


def test_hosts_end_when_the_test_process_is_killed(release: str, host_image: Image) -> None:
    boot_and_die = [sys.executable, "-c", BOOT_AND_DIE, release]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    died = subprocess.run(boot_and_die, env=environment, stdout=subprocess.PIPE, text=True)
    assert died.returncode == -signal.SIGKILL
    kept, pid1, _ = died.stdout.split()
    for pid in (int(kept), int(pid1)):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with os.fdopen(descriptor) as ended:
            assert select.select([ended], [], [], 10)[0], f"process {pid} is still there"
    assert groups_of(int(kept)) == []


def test_two_hosts_at_once_do_not_see_each_other(boot: Callable[..., Host], host_image: Image) -> None:
    first, second = boot(host_image), boot(host_image)
    first.write("/run/subject", "first")
    first.run("systemctl", "stop", "nginx")
    assert not second.exists("/run/subject")
    assert second.http("GET", "/").status == 200
    with pytest.raises(ConnectionRefusedError):
        first.http("GET", "/")


def test_a_command_that_fails_says_what_it_was_and_what_it_said(host: Host) -> None:
    with pytest.raises(
        LabError, match=r"cannot run 'ls /nowhere' on host .*: exit status 2\n.*No such file"
    ):
        host.run("ls", "/nowhere")


def test_a_command_that_hangs_is_killed_inside_the_host(host: Host) -> None:
    with pytest.raises(LabError, match="not done after 1 s"):
        host.run("sh", "-c", "sleep 4711; true", timeout_sec=1)
    host.wait_for("! pgrep -f '[s]leep 4711'", 10, "the sleep to be gone")
