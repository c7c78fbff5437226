# SPDX-License-Identifier: Apache-2.0
"""engine: what is said of releases and switches, and that nothing is switched that should not be."""

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from ctl_lab import POOL, Ctl, FakeAgent, instance, status, write_config
from release_lab import Lab, program, run_here, unpack_by_hand, write_archive

from ovms_scaler.releases import releases, trying

OLD, NEW = "2026.2.0", "2026.3.1"
ACCEPTED = {"instances": 2, "ordered_sec": 10.0}
DONE = status(instance("chat-numa0"), instance("chat-numa1"), observed_sec=11.0)


class Site:
    """A directory of releases that a configuration names, and the agent that is asked."""

    def __init__(self, directory: Path, model: Path, agent: FakeAgent) -> None:
        self.lab = Lab(directory)
        text = f'[engine]\nbinary = "{self.lab.root}/bin/ovms"\n' + POOL.format(model=model)
        self.options = ("--config", write_config(directory, text), "--socket", agent.socket)
        self.planned: dict[str, str] = {}
        agent.say(DONE, path="/v1/status")
        agent.say(ACCEPTED, path="/v1/reload?allow_outage=0")


@pytest.fixture
def site(tmp_path: Path, model: Path, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path, model, agent)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(trying.Trying.__init__, "__defaults__", (run_here, None))
    monkeypatch.setattr(releases.Releases, "planned", lambda _: site.planned)
    return site


def switched(site: Site, *versions: str) -> None:
    for version in versions:
        site.lab.install(version)
        site.lab.releases.use(version)


def test_install_unpacks_switches_and_follows(site: Site, agent: FakeAgent, ctl: Ctl) -> None:
    switched(site, OLD)
    site.planned = {"chat-numa0": OLD, "chat-numa1": OLD}
    archive = site.lab.archive(NEW)
    total = hashlib.sha256(archive.read_bytes()).hexdigest()
    done = ctl("engine", "install", archive, "--sha256", total, *site.options)
    assert (done.status, done.err) == (0, "")
    assert f"OVMS {NEW} in {site.lab.root}/{NEW} runs on this system" in done.out
    assert "system messages are left out" in done.out
    assert f"instances go from {OLD} to {NEW}, one after the other" in done.out
    assert done.out.splitlines()[-1] == (
        f"every instance runs {NEW}; to go back: ovms-scalerctl engine rollback"
    )
    assert "POST /v1/reload?allow_outage=0" in agent.requests
    assert site.lab.program() == program(NEW)


def test_install_without_a_sum_warns_and_shows_it(site: Site, ctl: Ctl) -> None:
    archive = site.lab.archive(NEW)
    done = ctl("engine", "install", archive, "--no-switch", *site.options)
    assert done.status == 0
    assert "nobody vouches for" in done.err
    assert hashlib.sha256(archive.read_bytes()).hexdigest() in done.err
    assert f"ovms-scalerctl engine use {NEW}" in done.out
    assert site.lab.releases.current() is None


def test_install_as_json_is_one_document(site: Site, ctl: Ctl) -> None:
    archive = site.lab.archive(NEW)
    document = ctl("engine", "install", archive, "--json", *site.options).json()
    assert document["version"] == NEW
    assert document["python"] is False
    assert (document["is_new"], document["switched"], document["before"]) == (True, True, None)
    assert document["rolling"] == {"done": ["chat-numa0", "chat-numa1"], "others": {}, "trouble": ""}
    assert document["sha256_checked"] is False


def test_broken_release_changes_nothing(site: Site, agent: FakeAgent, ctl: Ctl) -> None:
    switched(site, OLD)
    archive = write_archive(
        site.lab.directory / "bad.tar.gz", {"ovms/bin/ovms": "#!/bin/sh\nexit 3\n", "ovms/lib/x": ""}
    )
    refused = ctl("engine", "install", archive, *site.options)
    assert (refused.status, refused.out) == (1, "")
    assert "cannot use it here: it ended with exit status 3" in refused.err
    assert agent.requests == []
    assert (site.lab.releases.current(), site.lab.releases.names()) == (OLD, (OLD,))


@pytest.mark.parametrize("total", ["", "abc", "0" * 63])
def test_sum_that_cannot_be_one_is_wrong_usage(total: str, site: Site, ctl: Ctl) -> None:
    refused = ctl("engine", "install", site.lab.archive(NEW), "--sha256", total, *site.options)
    assert refused.status == 2
    assert "64 hexadecimal digits" in refused.err


def test_switch_that_halts_tells_the_way_back(site: Site, agent: FakeAgent, ctl: Ctl) -> None:
    switched(site, OLD)
    site.lab.install(NEW)
    site.planned = {"chat-numa0": OLD}
    broken = instance(state="quarantined", reason="it kept failing", hint="journalctl", in_rotation=False)
    agent.say(status(broken, observed_sec=11.0), path="/v1/status")
    halted = ctl("engine", "use", NEW, *site.options)
    assert halted.status == 1
    assert "chat-numa0 is quarantined: it kept failing" in halted.err
    assert "ovms-scalerctl engine rollback" in halted.err
    document = ctl("engine", "use", NEW, "--json", *site.options).json()
    assert document["rolling"]["trouble"].startswith("chat-numa0 is quarantined")


def test_rollback_goes_to_the_release_before(site: Site, ctl: Ctl) -> None:
    switched(site, OLD, NEW)
    assert ctl("engine", "rollback", *site.options).status == 0
    assert (site.lab.releases.current(), site.lab.releases.previous()) == (OLD, NEW)
    assert ctl("engine", "rollback", NEW, *site.options).status == 0
    assert site.lab.releases.current() == NEW


def test_rollback_without_a_release_before_is_refused(site: Site, ctl: Ctl) -> None:
    switched(site, OLD)
    refused = ctl("engine", "rollback", *site.options)
    assert refused.status == 1
    assert "there is no release before" in refused.err
    assert "ovms-scalerctl engine list" in refused.err


def test_current_release_that_everybody_runs_is_left_alone(site: Site, agent: FakeAgent, ctl: Ctl) -> None:
    switched(site, OLD)
    site.planned = {"chat-numa0": OLD}
    done = ctl("engine", "use", OLD, *site.options)
    assert (done.status, done.out) == (0, f"{OLD} is the current release, and every instance runs it\n")
    assert agent.requests == []


def test_current_release_that_not_everybody_runs_is_rolled_on(
    site: Site, agent: FakeAgent, ctl: Ctl
) -> None:
    switched(site, OLD, NEW)
    site.planned = {"chat-numa0": NEW, "chat-numa1": OLD}
    assert ctl("engine", "use", NEW, *site.options).status == 0
    assert "POST /v1/reload?allow_outage=0" in agent.requests
    assert site.lab.releases.previous() == OLD


def test_switch_is_refused_while_the_agent_is_paused(site: Site, agent: FakeAgent, ctl: Ctl) -> None:
    switched(site, OLD)
    site.lab.install(NEW)
    agent.say(status(instance(), orders={"paused_since": 1.0}), path="/v1/status")
    refused = ctl("engine", "use", NEW, *site.options)
    assert refused.status == 1
    assert "ovms-scalerctl resume" in refused.err
    assert site.lab.releases.current() == OLD


def test_configuration_that_was_edited_is_not_taken_along(
    site: Site, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    switched(site, OLD)
    site.lab.install(NEW)
    monkeypatch.setattr("ovms_scaler.ctl.switching.is_taken", lambda _: False)
    refused = ctl("engine", "use", NEW, *site.options)
    assert refused.status == 1
    assert "has changed since the agent took it" in refused.err
    assert site.lab.releases.current() == OLD


def test_agent_that_refuses_leaves_the_release_before_in_force(
    site: Site, agent: FakeAgent, ctl: Ctl
) -> None:
    switched(site, "2026.1.0", OLD)
    site.lab.install(NEW)
    agent.say({"error": {"message": "cannot reload"}}, status=400, path="/v1/reload?allow_outage=0")
    refused = ctl("engine", "use", NEW, *site.options)
    assert refused.status == 1
    assert "cannot reload" in refused.err
    assert (site.lab.releases.current(), site.lab.releases.previous()) == (OLD, "2026.1.0")


def test_agent_that_refuses_leaves_what_was_unpacked_by_hand_in_force(
    site: Site, agent: FakeAgent, ctl: Ctl
) -> None:
    unpack_by_hand(site.lab.root, OLD)
    site.lab.install(NEW)
    agent.say({"error": {"message": "cannot reload"}}, status=400, path="/v1/reload?allow_outage=0")
    assert ctl("engine", "use", NEW, *site.options).status == 1
    assert (site.lab.releases.current(), site.lab.releases.previous()) == (OLD, None)
    assert site.lab.program() == program(OLD)


def test_without_agent_and_instances_the_release_waits_for_its_start(site: Site, ctl: Ctl) -> None:
    site.lab.install(NEW)
    done = ctl("engine", "use", NEW, *site.options[:2], "--socket", site.lab.directory / "none.sock")
    assert (done.status, done.out) == (
        0,
        f"{NEW} is the current release; the agent takes it when it starts\n",
    )


def test_instances_without_agent_are_not_switched(site: Site, ctl: Ctl) -> None:
    switched(site, OLD)
    site.lab.install(NEW)
    site.planned = {"chat-numa0": OLD}
    refused = ctl("engine", "use", NEW, *site.options[:2], "--socket", site.lab.directory / "none.sock")
    assert refused.status == 3
    assert "systemctl start ovms-scaler" in refused.err
    assert site.lab.releases.current() == OLD


def test_outage_is_allowed_to_the_agent(site: Site, agent: FakeAgent, ctl: Ctl) -> None:
    site.lab.install(NEW)
    agent.say(ACCEPTED, path="/v1/reload?allow_outage=1")
    assert ctl("engine", "use", NEW, "--allow-outage", "--no-wait", *site.options).status == 0
    assert agent.requests[-1] == "POST /v1/reload?allow_outage=1"


def test_list_shows_who_runs_what(site: Site, ctl: Ctl) -> None:
    site.lab.install(OLD, python=True)
    site.lab.releases.use(OLD)
    switched(site, NEW)
    site.planned = {"chat-numa0": NEW, "chat-numa1": OLD}
    shown = ctl("engine", "list", "--config", site.options[1])
    assert shown.status == 0
    rows = [line.split() for line in shown.out.splitlines()]
    assert rows[0] == ["Version", "Python", "Installed", "Instances"]
    assert (rows[1][:3], rows[1][-1]) == ([NEW, "current", "no"], "chat-numa0")
    assert (rows[2][:3], rows[2][-1]) == ([OLD, "previous", "yes"], "chat-numa1")
    assert "Not every instance runs" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    document = ctl("engine", "list", "--config", site.options[1], "--json").json()
    assert [one["version"] for one in document["releases"]] == [NEW, OLD]
    assert (document["current"], document["previous"]) == (NEW, OLD)


def test_list_shows_what_was_unpacked_by_hand(site: Site, ctl: Ctl) -> None:
    unpack_by_hand(site.lab.root, OLD)
    site.planned = {"chat-numa0": ""}
    shown = ctl("engine", "list", "--config", site.options[1]).out
    assert shown.splitlines()[1].split() == ["by", "hand", "current", "-", "-", "chat-numa0"]


def test_list_of_nothing_says_what_to_type(site: Site, ctl: Ctl) -> None:
    shown = ctl("engine", "list", "--config", site.options[1])
    assert shown.status == 0
    assert "ovms-scalerctl engine install TARBALL" in shown.out


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["people", "programs"])
def test_success_is_told_in_80_columns_and_as_one_document(options: list[str], site: Site, ctl: Ctl) -> None:
    switched(site, "2026.1.0", OLD)
    site.planned = {"chat-numa0": OLD, "chat-numa1": OLD}
    archive = site.lab.archive(NEW)
    total = hashlib.sha256(archive.read_bytes()).hexdigest()
    for words in (
        ["install", archive, "--sha256", total, "--no-switch"],
        ["install", archive, "--sha256", total, "--no-wait"],
        ["rollback", "--no-wait"],
        ["use", NEW, "--no-wait"],
        ["use", NEW],
        ["rollback"],
        ["remove", "2026.1.0"],
        ["list"],
    ):
        of_agent = () if words[0] in ("remove", "list") else site.options[2:]
        done = ctl("engine", *words, *options, *site.options[:2], *of_agent)
        assert (done.status, done.err) == (0, ""), words
        if options:
            assert isinstance(done.json(), dict), words
            continue
        lines = done.out.replace(str(site.lab.root), "/opt/ovms").splitlines()
        assert lines, words
        assert max(map(len, lines)) <= 80, words


def test_remove_removes_what_nobody_uses(site: Site, ctl: Ctl) -> None:
    switched(site, OLD, NEW)
    refused = ctl("engine", "remove", NEW, *site.options[:2])
    assert (refused.status, "the current one" in refused.err) == (1, True)
    removed = ctl("engine", "remove", OLD, "--json", *site.options[:2])
    assert (removed.status, removed.json()) == (0, {"removed": OLD})


@pytest.mark.parametrize(
    "arguments",
    [["install", "a.tar.gz"], ["use", NEW], ["rollback"], ["remove", NEW]],
    ids=lambda arguments: arguments[0],
)
def test_who_is_not_root_is_told(
    arguments: list[str], site: Site, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused = ctl("engine", *arguments, *site.options[:2])
    assert refused.status == 1
    assert "only root may" in refused.err


def test_trial_is_confined_and_run_as_the_engines_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ovms_scaler.host import trial

    called: list[Mapping[str, object]] = []

    def run(argv: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        called.append({"argv": argv} | options)
        return subprocess.CompletedProcess(argv, 0, b"OpenVINO Model Server 2026.3.1\n")

    monkeypatch.setattr(subprocess, "run", run)
    trial.run_trial(tmp_path, str(tmp_path / "bin/ovms"), "--version")
    assert called[0]["argv"] == ["systemctl", "start", "dbus.socket"]  # which --pipe needs
    argv = called[1]["argv"]
    assert isinstance(argv, list)
    assert {"--uid=ovms", "--gid=ovms", f"--setenv=LD_LIBRARY_PATH={tmp_path}/lib"} <= set(argv)
    assert {"--property=NoNewPrivileges=yes", "--property=PrivateNetwork=yes"} <= set(argv)
    assert argv[-3:] == ["--", str(tmp_path / "bin/ovms"), "--version"]
