# SPDX-License-Identifier: Apache-2.0
"""Releases of the engine under load in a booted host: switched to and back, and no client notices."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from lab.host import Host
from lab.image import Image
from lab.standin_release import UNLOADABLE, UNUSABLE, write_release
from system import agent_host
from system.agent_host import Document, Traffic

OLD, NEW = "2026.4.0", "2026.5.0"
NAMES = {"chat-numa0.0", "chat-numa0.1"}


def send_release(host: Host, directory: Path, version: str, *, sabotage: str = "") -> tuple[str, str]:
    """An archive on the host and its checksum."""
    data = write_release(directory / f"{version}.tar.gz", version, sabotage=sabotage).read_bytes()
    host.write(f"/var/tmp/ovms_{version}.tar.gz", data)
    return f"/var/tmp/ovms_{version}.tar.gz", hashlib.sha256(data).hexdigest()


def list_releases(host: Host) -> Document:
    return dict(json.loads(host.run("ovms-scalerctl", "engine", "list", "--json").stdout))


def find_programs(host: Host) -> set[str]:
    """What each instance runs, as the kernel says."""
    commands = [agent_host.read_command(host, pid) for pid in agent_host.read_pids(host).values()]
    return {word for words in commands for word in words if word.endswith("/bin/ovms")}


@pytest.fixture
def host(boot: Callable[..., Host], installed_image: Image, tmp_path: Path) -> Host:
    """Two instances serve from a release that was unpacked by hand, as README says."""
    booted = boot(installed_image, binds={"/srv/models/tiny": agent_host.BINDS["/srv/models/tiny"]})
    archive, _ = send_release(booted, tmp_path, OLD)
    booted.run("tar", "-xzf", archive, "-C", "/opt")
    booted.run("mkdir", "-p", "/run/lab")
    booted.write(agent_host.CONFIG, agent_host.pool())
    booted.run("systemctl", "enable", "--now", agent_host.AGENT)
    agent_host.wait_until_routed(booted, 2)
    return booted


def test_release_is_installed_and_rolled_back_under_load_without_a_lost_request(
    host: Host, tmp_path: Path
) -> None:
    archive, total = send_release(host, tmp_path, NEW)
    assert find_programs(host) == {"/opt/ovms/bin/ovms"}
    with Traffic(host, max_tokens=40) as traffic:
        traffic.wait_for_answers(host)
        done = host.run("ovms-scalerctl", "engine", "install", archive, "--sha256", total, timeout_sec=120)
        assert find_programs(host) == {f"/opt/ovms/{NEW}/bin/ovms"}
        traffic.wait_for_answers(host)
        assert host.run("/opt/ovms/bin/ovms", "--version", env=paths_of("/opt/ovms")).stdout.startswith(
            f"OpenVINO Model Server {NEW}"
        )
        host.run("ovms-scalerctl", "engine", "rollback", timeout_sec=120)
        assert find_programs(host) == {f"/opt/ovms/{OLD}/bin/ovms"}
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    assert f"every instance runs {NEW}" in done.stdout
    listed = list_releases(host)
    assert (listed["current"], listed["previous"], listed["by_hand"]) == (OLD, NEW, [])
    assert {one["version"]: set(one["instances"]) for one in listed["releases"]} == {NEW: set(), OLD: NAMES}
    host.run("ovms-scalerctl", "engine", "remove", NEW)
    assert host.run("ovms-scalerctl", "engine", "remove", OLD, check=False).returncode == 1
    host.run("ovms-scalerctl", "verify")


def paths_of(root: str) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": f"{root}/lib", "PYTHONPATH": f"{root}/lib/python"}


def test_release_that_cannot_run_changes_nothing(host: Host, tmp_path: Path) -> None:
    archive, total = send_release(host, tmp_path, NEW, sabotage=UNLOADABLE)
    before = agent_host.read_footprint(host)
    tree = host.script("find /opt/ovms -not -name .lock | sort")
    refused = host.run("ovms-scalerctl", "engine", "install", archive, "--sha256", total, check=False)
    assert refused.returncode == 1
    assert "it needs glibc 2.99" in refused.stderr
    assert "python_off" in refused.stderr
    wrong = host.run("ovms-scalerctl", "engine", "install", archive, "--sha256", "0" * 64, check=False)
    assert (wrong.returncode, "its SHA-256 is" in wrong.stderr) == (1, True)
    assert host.script("find /opt/ovms -not -name .lock | sort") == tree
    assert agent_host.read_footprint(host) == before


@agent_host.on_bookworm
def test_release_that_does_not_serve_halts_at_the_first_instance_and_is_rolled_back(
    host: Host, tmp_path: Path
) -> None:
    archive, total = send_release(host, tmp_path, NEW, sabotage=UNUSABLE)
    before = agent_host.read_pids(host)
    with Traffic(host) as traffic:
        traffic.wait_for_answers(host)
        halted = host.run(
            "ovms-scalerctl", "engine", "install", archive, "--sha256", total, check=False, timeout_sec=120
        )
        assert halted.returncode == 1
        assert "exit status 64" in halted.stderr
        assert "ovms-scalerctl engine rollback" in halted.stderr
        (left,) = agent_host.read_pids(host).items()
        assert left in before.items()
        # Who has not gone over starts what it ran, also when it crashes now.
        agent_host.kill(host, left[1])
        host.wait_for(
            lambda: agent_host.read_pids(host).get(left[0], left[1]) != left[1], 30, "another process"
        )
        agent_host.wait_until_routed(host, 1)
        assert find_programs(host) == {"/opt/ovms/bin/ovms"}
        waiting = agent_host.read_pids(host)
        host.run("ovms-scalerctl", "engine", "rollback", timeout_sec=120)
        agent_host.wait_until_routed(host, 2)
        assert waiting.items() <= agent_host.read_pids(host).items()
        traffic.wait_for_answers(host)
    # What one process had begun when it was killed is cut, and for a moment nobody served.
    assert set(traffic.counts["status"]) <= {"200", "503", "502"}
    assert find_programs(host) == {"/opt/ovms/bin/ovms"}
    assert list_releases(host)["current"] == OLD
