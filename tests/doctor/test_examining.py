# SPDX-License-Identifier: Apache-2.0
"""Checks that give no answer, that only root can make, and that need what another check finds wrong."""

import contextlib
import fcntl
import os
import select
import signal
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from doctor.plant import machine
from doctor_host import CONTENT, POOL, DoctorHost
from machines import four_b580, number_cores

from ovms_scaler.core.checks.catalogue import CHECKS
from ovms_scaler.core.checks.finding import Finding, Result
from ovms_scaler.doctor.engine import ENGINE
from ovms_scaler.doctor.examining import diagnose, list_examinations
from ovms_scaler.doctor.setting import read_setting

AWAY = """
nodes = "0"
[[pool]]
name = "away"
nodes = "1"
listen = "8001"
config_path = "/srv/away/config.json"
"""


def look(
    host: DoctorHost, names: Collection[str] = CHECKS, *, deadline_sec: float = 20.0
) -> tuple[Finding, ...]:
    found = diagnose(host.config, names, root=host.root, deadline_sec=deadline_sec, status=CONTENT)
    return tuple(one for one in found if one.result is not Result.good)


def test_in_processes_of_their_own_the_checks_find_the_same(host: DoctorHost) -> None:
    assert look(host) == ()
    host.remove("opt/ovms/bin/ovms")
    assert look(host) == host.find()


def test_every_check_is_made_once(host: DoctorHost) -> None:
    setting = read_setting(host.config, root=host.root, deadline_sec=20)
    made = [name for one in list_examinations(setting) for name in one.checks]
    assert sorted(made) == sorted(CHECKS)
    assert look(host, ["disk"]) == ()


def test_engine_that_hangs_is_given_up_and_ended(host: DoctorHost) -> None:
    os.mkfifo(host.path("lab/alive"))
    host.write(
        "opt/ovms/bin/ovms", f"#!/bin/sh\nexec 3>>{host.path('lab/alive')}\nexec sleep 60\n", mode=0o755
    )
    host.path("lab/alive").chmod(0o666)
    reader = os.open(host.path("lab/alive"), os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = look(host, [*ENGINE, "ports", "model-files"], deadline_sec=0.3)
        # It ends when nobody has it open for writing any more.
        poll = select.poll()
        poll.register(reader, 0)
        assert poll.poll(20_000) == [(reader, select.POLLHUP)]
    finally:
        os.close(reader)
    assert {(one.check, one.result) for one in found} == {(name, Result.unknown) for name in ENGINE}
    assert all("no answer within" in one.reason for one in found)


@contextlib.contextmanager
def hanging(file: Path) -> Iterator[None]:
    """Keep whoever opens the file waiting, as a dead mount does.

    A lease on it is asked back, and the kernel waits for that longer than any deadline here: 45 s, unless
    /proc/sys/fs/lease-break-time says otherwise (F_SETLEASE in fcntl(2)). It takes no privilege.
    """
    with file.open("w") as held:
        # What tells of the question would else be SIGIO, which ends a process.
        fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield


def test_model_on_a_file_server_that_is_away_holds_up_nothing_else(host: DoctorHost) -> None:
    machine(cores=number_cores({0: 4, 1: 4}))(host)
    host.append("etc/ovms-scaler/config.toml", AWAY)
    host.path("srv/away").mkdir()
    host.remove("srv/models/tiny/openvino_model.bin")
    with hanging(host.path("srv/away/config.json")):
        found = look(host, ["model-files", "model-access", "ports", "placement"], deadline_sec=0.5)
    assert [(one.check, one.result, one.subject) for one in found] == [
        ("model-files", Result.bad, "pool chat"),
        ("model-files", Result.unknown, "pool away"),
        ("model-access", Result.unknown, "pool away"),
    ]
    assert found[1].remedy == "findmnt -T /srv/away/config.json"


def test_systemd_that_cannot_be_asked_is_told(host: DoctorHost) -> None:
    host.write(
        "usr/bin/systemctl", "#!/bin/sh\necho 'Failed to connect to bus: Host is down'\nexit 1\n", mode=0o755
    )
    found = look(host)
    assert {one.check for one in found} == {
        "engine-environment",
        "nginx-site",
        "systemd",
        "units",
        "boot",
        "agent",
    }
    assert all(one.result is Result.unknown and "Host is down" in one.reason for one in found)


def test_without_a_valid_configuration_what_hangs_on_it_is_not_known(host: DoctorHost) -> None:
    host.write("etc/ovms-scaler/config.toml", "[[pool")
    found = look(host)
    assert (found[0].check, found[0].result) == ("configuration", Result.bad)
    assert {one.check for one in found[1:]} == {
        "placement", "model-files", "model-access", "model-device", "memory-fit", "memory-free",
        "gpu-driver", "gpu-access", "gpu-runtime", "gpu-unit",
    }  # fmt: skip
    assert all((one.result, one.remedy) == (Result.unknown, "see configuration") for one in found[1:])


@pytest.mark.parametrize("is_there", [True, False])
def test_cards_are_looked_at_where_a_pool_uses_them(host: DoctorHost, *, is_there: bool) -> None:
    for name in ("sys/devices/system/node", "sys/devices/system/cpu"):
        host.remove(name)
    four_b580(host.root)
    host.write("etc/ovms-scaler/config.toml", POOL + 'placement = "gpu"\n')
    checks = ["gpu-driver", "gpu-runtime", "gpu-unit"]
    if is_there:
        host.write("etc/OpenCL/vendors/intel.icd", "libigdrcl.so\n")
        for library in ("intel-opencl/libigdrcl.so", "libOpenCL.so.1"):
            host.write(f"usr/lib/x86_64-linux-gnu/{library}", "")
        for number in range(128, 132):
            host.write_unit(f"dev-dri-renderD{number}.device")
    found = look(host, checks)
    assert {one.check for one in found} == (set() if is_there else {"gpu-runtime", "gpu-unit"})
    if not is_there:
        assert sorted(one.subject for one in found if one.check == "gpu-unit") == [
            f"/dev/dri/renderD{number}" for number in range(128, 132)
        ]
