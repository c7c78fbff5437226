# SPDX-License-Identifier: Apache-2.0
"""The unit files as systemd reads them, and the rules between them that systemd does not check."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNITS = ROOT / "units"
AGENT = "ovms-scaler.service"
TEMPLATE = "ovms@.service"
RECOVERY = "ovms-scaler-gpu-recovery@.service"
# Programs of our own, which are not on the machine that runs the tests.
OWN_PROGRAM = re.compile(r"/usr/bin/ovms-\w+|/usr/lib/ovms-scaler/[\w-]+")
# Every directory of ours that a unit may name.
OWN_PATH = re.compile(r"(?<![\w/.-])/[\w/.-]*ovms[\w/.@%-]*")
# What makes one unit start, stop, fail or wait with another: systemd.unit(5).
TIES = {
    *("After", "BindsTo", "Conflicts", "PartOf", "PropagatesStopTo", "Requires", "Requisite"),
    *("StopPropagatedFrom", "Upholds", "Wants"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One line of a unit file."""

    section: str
    name: str
    value: str


def parse_unit(text: str) -> list[Setting]:
    """The settings of a unit file in their order, which matters; systemd.syntax(7)."""
    settings: list[Setting] = []
    section = ""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith(("#", ";")):
            name, value = line.split("=", 1)
            settings.append(Setting(section=section, name=name.strip(), value=value.strip()))
    return settings


def read_unit(name: str) -> list[Setting]:
    return parse_unit((UNITS / name).read_text())


def read_values(unit: str, setting: str) -> list[str]:
    """Every value that ``unit`` gives ``setting``."""
    return [line.value for line in read_unit(unit) if line.name == setting]


def read_unit_names() -> list[str]:
    return sorted(path.name for path in UNITS.iterdir())


def read_copy(directory: Path, name: str) -> Path:
    """A copy of the unit with a program in ``directory`` for each of ours, whose absence is no finding."""
    program = directory / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = directory / name
    # Only command lines: elsewhere the paths are to stay what they are.
    lines = (UNITS / name).read_text().splitlines(keepends=True)
    copy.write_text(
        "".join(OWN_PROGRAM.sub(str(program), line) if "Exec" in line else line for line in lines)
    )
    return copy


def run_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"}
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)


def verify(unit: Path) -> subprocess.CompletedProcess[str]:
    return run_analyze("verify", "--man=no", "--recursive-errors=no", unit)


@pytest.mark.parametrize("name", read_unit_names())
def test_unit_is_understood_without_a_complaint(name: str, tmp_path: Path) -> None:
    done = verify(read_copy(tmp_path, name))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_verification_notices_a_misspelled_setting(tmp_path: Path) -> None:
    copy = read_copy(tmp_path, AGENT)
    copy.write_text(copy.read_text().replace("WatchdogSec=", "WatchdogSeconds="))
    assert "WatchdogSeconds" in verify(copy).stderr


@pytest.mark.parametrize(
    ("name", "tenths"),
    [
        pytest.param(TEMPLATE, 15, id="instance"),
        pytest.param("ovms-scaler-proxy.service", 15, id="proxy"),
        pytest.param(RECOVERY, 10, id="recovery, which is root and writes to /sys"),
        pytest.param(AGENT, 22, id="agent, which is root, sees the nodes of GPUs, and ends what hangs"),
    ],
)
def test_exposure_is_at_most(name: str, tenths: int) -> None:
    done = run_analyze("security", "--offline=yes", f"--threshold={tenths}", UNITS / name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_template_refuses_to_start_without_its_placement() -> None:
    assert read_values(TEMPLATE, "AssertPathExists") == [
        "/run/systemd/system/ovms@%i.service.d/50-placement.conf"
    ]
    assert read_values(TEMPLATE, "ExecStart") == ["/bin/false"]


@pytest.mark.parametrize(
    "setting", ["AllowedCPUs", "AllowedMemoryNodes", "CPUAffinity", "CPUQuota", "NUMAMask", "NUMAPolicy"]
)
def test_template_holds_no_placement_of_its_own(setting: str) -> None:
    assert read_values(TEMPLATE, setting) == []


def test_instance_restarts_unless_trying_again_cannot_help() -> None:
    assert read_values(TEMPLATE, "Restart") == ["always"]
    assert read_values(TEMPLATE, "RestartPreventExitStatus") == ["64 132"]


def test_instance_leaves_rotation_by_itself_as_root() -> None:
    (command,) = read_values(TEMPLATE, "ExecStopPost")
    prefix, program = command.split("/", 1)
    assert "+" in prefix
    assert program == "usr/lib/ovms-scaler/unroute %i"


def test_instance_may_do_what_the_engine_does() -> None:
    """JIT, /proc/cpuinfo and /proc/meminfo, sched_setaffinity(2) and mbind(2)."""
    assert read_values(TEMPLATE, "MemoryDenyWriteExecute") == ["no"]
    assert read_values(TEMPLATE, "ProcSubset") == ["all"]
    filters = read_values(TEMPLATE, "SystemCallFilter")
    assert filters[0] == "@system-service"
    assert not any("@resources" in value for value in filters if value.startswith("~"))


# As the agent renders it for an instance on a GPU.
GPU_DROP_IN = """
[Unit]
StopPropagatedFrom=dev-dri-renderD129.device
After=dev-dri-renderD129.device
AssertPathExists=/dev/dri/renderD129
[Service]
SupplementaryGroups=render
DeviceAllow=/dev/dri/renderD129 rw
BindPaths=-/dev/dri/renderD129
"""


def test_instance_on_a_gpu_is_as_confined(tmp_path: Path) -> None:
    unit = tmp_path / "ovms@chat-gpu-0000:03:00.0.service"
    unit.write_text((UNITS / TEMPLATE).read_text() + GPU_DROP_IN)
    done = run_analyze("security", "--offline=yes", "--threshold=15", unit)
    assert done.returncode == 0, done.stdout + done.stderr


def test_instance_sees_the_devices_of_its_drop_in_only() -> None:
    assert read_values(TEMPLATE, "PrivateDevices") == ["yes"]
    for setting in ("BindPaths", "DeviceAllow", "DevicePolicy", "SupplementaryGroups"):
        assert read_values(TEMPLATE, setting) == []


def test_agent_sees_the_nodes_of_gpus_and_opens_none() -> None:
    assert read_values(AGENT, "PrivateDevices") == []
    assert read_values(AGENT, "DevicePolicy") == ["closed"]
    assert read_values(AGENT, "DeviceAllow") == []
    assert read_values(AGENT, "BindReadOnlyPaths") == ["/dev"]
    assert "AF_NETLINK" in read_values(AGENT, "RestrictAddressFamilies")[0].split()


def test_recovery_may_change_devices_and_their_drivers_and_nothing_else_of_sys() -> None:
    assert read_values(RECOVERY, "ProtectKernelTunables") == ["yes"]
    assert read_values(RECOVERY, "ReadWritePaths") == ["/sys/bus/pci /sys/devices"]
    assert "/sys/devices/system" in read_values(RECOVERY, "ReadOnlyPaths")
    assert read_values(RECOVERY, "CapabilityBoundingSet") == [""]


def test_recovery_ends_also_when_a_driver_hangs() -> None:
    """The program has its own limit, shorter than this one, and leaves a lock that must outlive the unit."""
    limit = re.search(r"^LIMIT_SEC = ([\d.]+)$", (ROOT / "packaging/recover-gpu").read_text(), re.M)
    assert limit is not None
    assert float(limit[1]) < 120
    assert read_values(RECOVERY, "TimeoutStartSec") == ["2min"]
    assert read_values(RECOVERY, "RuntimeDirectoryPreserve") == ["yes"]
    assert read_values(RECOVERY, "RuntimeDirectory") == ["ovms-scaler/gpu-recovery"]


def test_recovery_is_as_often_as_the_agent_asks() -> None:
    assert read_values(RECOVERY, "StartLimitIntervalSec") == ["0"]
    assert read_values(RECOVERY, "Type") == ["oneshot"]
    assert read_values(RECOVERY, "ExecStart") == ["/usr/lib/ovms-scaler/recover-gpu %i"]


def test_target_stops_the_instances_and_waits_for_them() -> None:
    assert read_values(TEMPLATE, "PartOf") == ["ovms.target"]
    assert "ovms.target" in read_values(TEMPLATE, "After")


@pytest.mark.parametrize("name", [name for name in read_unit_names() if name != AGENT])
def test_nothing_stops_or_waits_with_the_agent(name: str) -> None:
    tied = [line for line in read_unit(name) if line.name in TIES and AGENT in line.value.split()]
    assert tied == []


def test_agent_stops_nothing_with_it_and_holds_nothing_up() -> None:
    ties = (TIES - {"After", "Wants"}) | {"Before"}
    assert [line for line in read_unit(AGENT) if line.name in ties] == []
    assert not any("ovms" in value for name in ("After", "Wants") for value in read_values(AGENT, name))


def test_agent_leaves_its_run_time_files_behind() -> None:
    """systemd removes a RuntimeDirectory= when the unit stops; the proxy would lose its configuration."""
    assert read_values(AGENT, "RuntimeDirectory") == []


def test_agent_is_started_again_for_ever() -> None:
    assert read_values(AGENT, "Restart") == ["always"]
    assert read_values(AGENT, "StartLimitIntervalSec") == ["0"]


@pytest.mark.parametrize("name", [name for name in read_unit_names() if name != AGENT])
def test_only_the_agent_can_be_enabled(name: str) -> None:
    assert [line for line in read_unit(name) if line.section == "Install"] == []


def read_packaged_paths() -> set[str]:
    """Every path of ours that an installed host has before the agent has run."""
    paths = {
        f"/usr/bin/{name}"
        for name in re.findall(r"^(ovms-\w+) = ", (ROOT / "pyproject.toml").read_text(), re.M)
    }
    for line in (ROOT / "debian/ovms-scaler.install").read_text().splitlines():
        source, directory = line.split()
        paths |= {f"/{directory}", f"/{directory}/{Path(source).name}"}
    for line in (ROOT / "packaging/ovms-scaler.tmpfiles").read_text().splitlines():
        if line.startswith("d "):
            paths.add(line.split()[1])
    return paths


@pytest.mark.parametrize("name", read_unit_names())
def test_every_path_of_ours_is_installed(name: str) -> None:
    """Except what the agent writes: the placement of an instance and the configuration of the proxy."""
    packaged = read_packaged_paths()
    for line in read_unit(name):
        for path in OWN_PATH.findall(line.value):
            written = path.startswith(
                ("/run/systemd/system/ovms@", "/run/ovms-scaler-proxy/", "/run/ovms-scaler/access/log.sock")
            )
            assert written or path.rstrip("/") in packaged, f"{line.name}= names {path!r}"


@pytest.mark.parametrize("name", read_unit_names())
def test_unit_is_in_the_package(name: str) -> None:
    installed = (ROOT / "debian/ovms-scaler.install").read_text().split()
    assert (f"units/{name}" in installed) != (name == AGENT)


def test_upgrade_touches_the_agent_only() -> None:
    """debhelper writes maintainer scripts for the units named here, and for all units if none is named."""
    commands = re.findall(r"^\tdh_installsystemd (.*)$", (ROOT / "debian/rules").read_text(), re.M)
    assert commands == [f"--no-enable --no-start --restart-after-upgrade {AGENT}"]
