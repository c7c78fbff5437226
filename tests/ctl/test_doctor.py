# SPDX-License-Identifier: Apache-2.0
"""What doctor prints, and how it ends."""

import json
import re
from pathlib import Path

import pytest
from ctl_lab import Ctl, FakeAgent, instance, run_as_anybody, status
from doctor_host import POOL, DoctorHost, write_healthy

from ovms_scaler.core.checks.catalogue import CHECKS


@pytest.fixture
def host(open_directory: Path) -> DoctorHost:
    return write_healthy(open_directory)


@pytest.fixture
def doctor(ctl: Ctl, host: DoctorHost, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """The verb on a healthy host whose agent does not run, and is not meant to."""
    monkeypatch.setenv("OVMS_SCALER_SOCKET", str(host.path("run/ovms-scaler/control.sock")))
    host.write_unit("ovms-scaler.service", ActiveState="inactive", UnitFileState="static")
    return lambda *arguments: ctl("doctor", "--root", host.root, "--config", host.config, *arguments)


def test_healthy_host_is_one_line(doctor: Ctl) -> None:
    found = doctor()
    assert (found.status, found.out, found.err) == (0, f"nothing found: {len(CHECKS)} checks\n", "")


def test_what_is_bad_comes_first_with_the_next_command(doctor: Ctl, host: DoctorHost) -> None:
    host.write("proc/sys/vm/zone_reclaim_mode", "1\n")
    host.path("srv/models/tiny/openvino_model.bin").chmod(0o000)
    found = doctor()
    assert found.status == 1
    lines = found.out.splitlines()
    assert max(len(line) for line in lines if "next: " not in line) <= 80
    # A command is on one line, however long: it is to be copied.
    keep = "echo vm.zone_reclaim_mode = 0 >>/etc/sysctl.d/60-ovms.conf && sysctl --system"
    assert f"    next: {keep}" in lines
    assert lines[0] == "Bad"
    assert lines[1] == "  model-access: pool chat"
    assert "    next: chmod -R a+rX /srv/models/tiny" in lines
    assert lines.index("Warning") > lines.index("Bad")
    assert lines[-1] == f"1 bad, 1 warning: {len(CHECKS)} checks"


def test_warnings_alone_are_no_failure(doctor: Ctl, host: DoctorHost) -> None:
    host.write("proc/sys/vm/zone_reclaim_mode", "1\n")
    found = doctor()
    assert found.status == 0
    assert found.out.startswith("Warning\n  zone-reclaim: vm.zone_reclaim_mode\n")


def test_named_checks_are_made_and_skipped_ones_are_not(doctor: Ctl, host: DoctorHost) -> None:
    host.write("proc/sys/vm/zone_reclaim_mode", "1\n")
    assert doctor("disk", "ports").out == "nothing found: 2 checks\n"
    assert doctor("zone-reclaim").out.splitlines()[-1] == "1 warning: 1 check"
    assert doctor("--skip", "zone-reclaim").out == f"nothing found: {len(CHECKS) - 1} checks\n"


def test_all_shows_what_is_good(doctor: Ctl) -> None:
    lines = doctor("--all").out.splitlines()
    assert lines[0] == "Good"
    assert {line.split(":")[0].strip() for line in lines} >= set(CHECKS)


def test_unknown_check_is_wrong_usage(ctl: Ctl) -> None:
    found = ctl("doctor", "port")
    assert found.status == 2
    assert "there is no check 'port'" in found.err
    assert "ports" in found.err


def test_json_has_every_finding_and_the_counts(doctor: Ctl, host: DoctorHost) -> None:
    host.remove("usr/sbin/nginx")
    found = doctor("--json")
    document = found.json()
    assert found.status == 1
    assert document["findings"][0] == {
        "check": "nginx-program",
        "result": "bad",
        "subject": "/usr/sbin/nginx",
        "reason": "it cannot be started: No such file or directory",
        "remedy": "apt install nginx",
        "note": "",
    }
    assert {one["check"] for one in document["findings"]} == set(CHECKS)
    assert document["summary"]["checks"] == len(CHECKS)
    assert (document["summary"]["bad"], document["summary"]["unknown"]) == (1, 1)


def test_agent_is_asked_when_it_runs(ctl_process: Ctl, host: DoctorHost, agent: FakeAgent) -> None:
    agent.say(
        status(instance(state="failed", reason="exit status 1", hint="journalctl -u x", in_rotation=False))
    )
    arguments = [
        "--root",
        host.root,
        "--config",
        host.config,
        "--socket",
        agent.socket,
        "agent",
        "instances",
    ]
    found = ctl_process("doctor", "--json", *arguments)
    assert found.status == 1
    (bad, good) = found.json()["findings"]
    assert (bad["check"], bad["subject"], bad["remedy"]) == ("instances", "chat-numa0", "journalctl -u x")
    assert good["check"] == "agent"


def test_anybody_may_ask_and_is_told_what_only_root_can_know(host: DoctorHost) -> None:
    host.write_unit("ovms-scaler.service", ActiveState="inactive", UnitFileState="static")
    accounts = host.path("etc/passwd").read_text()
    host.write("etc/passwd", re.sub(r"^ovms:x:\d+:", "ovms:x:12345:", accounts, flags=re.MULTILINE))
    found = run_as_anybody(
        host.root / "lab", "doctor", "--root", str(host.root), "--config", str(host.config), "--json"
    )
    document = json.loads(found.stdout)
    unknown = {one["check"]: one["remedy"] for one in document["findings"] if one["result"] == "unknown"}
    assert unknown == dict.fromkeys(("kernel-log", "model-access"), "run this as root")
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize(
    ("checks", "exit_status", "said"),
    [
        pytest.param(
            ["kernel-log", "clock"],
            0,
            "not everything could be looked at, nothing else found: 2 checks, of which 1 could not be made; "
            "run this as root",
            id="a part",
        ),
        pytest.param(
            ["kernel-log"],
            1,
            "nothing could be looked at: 1 check, of which 1 could not be made; run this as root",
            id="all",
        ),
    ],
)
def test_what_could_not_be_looked_at_is_said_and_is_no_health(
    host: DoctorHost, checks: list[str], exit_status: int, said: str
) -> None:
    """With 1 when that is everything: a script would take the host for a healthy one."""
    host.write_unit("ovms-scaler.service", ActiveState="inactive", UnitFileState="static")
    arguments = ["doctor", "--root", str(host.root), "--config", str(host.config)]
    found = run_as_anybody(host.root / "lab", *arguments, *checks)
    assert found.returncode == exit_status
    assert " ".join(found.stdout.split()).endswith(said)


def test_checks_that_give_no_answer_are_no_health(doctor: Ctl, host: DoctorHost) -> None:
    """Nobody is told to be root where that is not why."""
    host.write("opt/ovms/bin/ovms", "#!/bin/sh\nexec sleep 60\n", mode=0o755)
    found = doctor("engine-program", "--timeout", "0.1")
    assert found.status == 1
    assert found.out.splitlines()[-1].startswith("nothing could be looked at: 1 check")
    assert "root" not in found.out


def test_note_is_below_the_command(doctor: Ctl, host: DoctorHost) -> None:
    host.remove("opt/ovms/bin/ovms")
    lines = doctor("engine-program").out.splitlines()
    assert "    next: ovms-scalerctl engine install TARBALL" in lines
    assert lines[lines.index("    next: ovms-scalerctl engine install TARBALL") + 1].startswith(
        "    a release"
    )


def test_terminal_is_not_steered_by_names(doctor: Ctl, host: DoctorHost) -> None:
    host.write("etc/ovms-scaler/config.toml", POOL + '"\\u001b[2J" = 1\n')
    found = doctor("configuration")
    assert found.status == 1
    assert "\x1b" not in found.out
