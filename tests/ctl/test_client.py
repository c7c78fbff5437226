# SPDX-License-Identifier: Apache-2.0
"""An agent that cannot be asked, or answers what nobody expects: status 3, the reason and what to type."""

import socket
from pathlib import Path

import pytest
from ctl_lab import Ctl, FakeAgent, run_as_anybody

from ovms_scaler.ctl import client
from ovms_scaler.errors import UnreachableError

VERBS = pytest.mark.parametrize("verb", ["status", "reload"])


@VERBS
def test_no_socket(verb: str, ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    told = ctl(verb, "--socket", path)
    assert (told.status, told.out) == (3, "")
    assert told.err == (
        f"ovms-scalerctl: cannot reach the agent: there is no socket {path}, so it does not run\n"
        "  hint: systemctl start ovms-scaler\n"
    )


@VERBS
def test_nobody_listens(verb: str, ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    told = ctl(verb, "--socket", path)
    assert told.status == 3
    assert told.err == (
        f"ovms-scalerctl: cannot reach the agent: nobody listens on {path}: it was ended\n"
        "  hint: systemctl start ovms-scaler\n"
    )


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        pytest.param(None, "it broke off its answer on", id="broken off"),
        pytest.param((200, b"<html>"), "is not a JSON object", id="no JSON"),
        pytest.param((200, b"[1]"), "is not a JSON object", id="another type"),
        pytest.param((200, b"[" * 100_000), "is not a JSON object", id="too deep"),
        pytest.param((500, b""), "is not a JSON object", id="empty failure"),
    ],
)
@VERBS
def test_nonsense(
    verb: str, answer: tuple[int, bytes] | None, sentence: str, ctl: Ctl, agent: FakeAgent
) -> None:
    agent.answer = answer
    told = ctl(verb, "--socket", agent.socket)
    assert (told.status, told.out) == (3, "")
    assert sentence in told.err
    assert "  hint: systemctl status ovms-scaler" in told.err


def test_no_answer_in_time(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(UnreachableError) as told:
            client.read_status(path, timeout_sec=0.05)
    assert told.value.message == f"cannot reach the agent: no answer on {path} within 0.05 seconds"


def test_a_path_that_is_too_long_for_a_socket(ctl: Ctl, tmp_path: Path) -> None:
    told = ctl("status", "--socket", tmp_path / ("x" * 120))
    assert told.status == 3
    assert "AF_UNIX path too long" in told.err


def test_no_permission(open_directory: Path) -> None:
    path = open_directory / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0)
        listener.listen()
        told = run_as_anybody(open_directory, "status", "--socket", str(path))
    assert told.returncode == 3
    assert told.stderr == (
        f"ovms-scalerctl: cannot reach the agent: no permission to connect to {path}\n"
        "  hint: run this as root\n"
    )


def test_the_environment_names_another_socket(
    ctl: Ctl, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVMS_SCALER_SOCKET", str(agent.socket))
    assert ctl("status", "--json").json() == {}


def test_reload_that_is_accepted(ctl: Ctl, agent: FakeAgent) -> None:
    agent.say({"accepted": True, "instances": 6, "ordered_sec": 5.0})
    done = ctl("reload", "--socket", agent.socket)
    assert (done.status, done.out, done.err) == (0, "configuration accepted: 6 instances\n", "")
    agent.say({"accepted": True, "instances": 1, "ordered_sec": 5.0})
    assert ctl("reload", "--json", "--socket", agent.socket).json()["instances"] == 1
    assert ctl("reload", "--allow-outage", "--socket", agent.socket).out.endswith(": 1 instance\n")
    assert agent.requests == [f"POST /v1/reload?allow_outage={flag}" for flag in (0, 0, 1)]


def test_reload_of_a_bad_configuration_shows_every_error(ctl: Ctl, agent: FakeAgent) -> None:
    problems = ["/etc/x: pool[0].name: is required and missing", "/etc/x: health: must be a table, not 1"]
    agent.say({"error": {"message": "\n".join(problems), "problems": problems}}, status=400)
    refused = ctl("reload", "--socket", agent.socket)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == (
        "ovms-scalerctl: the agent goes on with its old configuration:\n"
        + "\n".join(problems)
        + "\n2 errors\n"
    )


def test_reload_without_permission(ctl: Ctl, agent: FakeAgent) -> None:
    agent.say({"error": {"message": "only root may do this; use sudo", "problems": []}}, status=403)
    refused = ctl("reload", "--socket", agent.socket)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == "ovms-scalerctl: only root may do this; use sudo\n"


def test_an_agent_that_failed_says_so(ctl: Ctl, agent: FakeAgent) -> None:
    agent.say({"error": "?"}, status=500)
    refused = ctl("status", "--socket", agent.socket)
    assert (refused.status, refused.err) == (1, "ovms-scalerctl: the agent answers 500\n")
