# SPDX-License-Identifier: Apache-2.0
"""What every verb has in common: help, exit statuses, no traceback, and output that may go anywhere."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import COMMANDS
from ctl_lab import CTL, POOL, Ctl, FakeAgent, instance, run_as_anybody, status

import ovms_scaler
from ovms_scaler import config as configuration
from ovms_scaler.ctl import client, options
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.main import cli
from ovms_scaler.ctl.options import PROGRAM
from ovms_scaler.daemon import control

VERBS = sorted({*cli.commands, *COMMANDS})  # groups of verbs, too


def test_exit_statuses_are_the_documented_numbers() -> None:
    assert [int(code) for code in (Exit.good, Exit.bad_news, Exit.usage, Exit.unreachable)] == [0, 1, 2, 3]


def test_defaults_are_those_of_the_modules_that_are_not_imported() -> None:
    assert Path(options.CONFIG) == configuration.CONFIG_FILE
    assert Path(options.SOCKET) == client.SOCKET == control.SOCKET


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_and_fits(verb: str, ctl: Ctl) -> None:
    shown = ctl(*verb.split(), "--help")
    assert (shown.status, shown.err) == (0, "")
    assert "Example:" in shown.out
    assert f"{PROGRAM} {verb}" in shown.out or f"ovms_scaler.ctl {verb}" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80


def test_help_lists_the_verbs_with_whole_sentences(ctl: Ctl) -> None:
    shown = ctl("--help").out
    for verb, command in cli.commands.items():
        assert (f"  {verb} " in shown) is not command.hidden
    assert "..." not in shown.partition("Commands:")[2]


def test_version(ctl: Ctl) -> None:
    shown = ctl("--version")
    assert (shown.status, shown.out) == (0, f"ovms-scalerctl {ovms_scaler.__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["stat"], id="unknown verb"),
        pytest.param(["status", "--jsn"], id="unknown option"),
        pytest.param(["render"], id="missing options"),
        pytest.param(["check-config", "one", "two"], id="too many arguments"),
        pytest.param(["topology", "--sysroot", "/etc/hostname"], id="file for a directory"),
        pytest.param(["reload", "--allow-outage=yes"], id="value for a flag"),
    ],
)
def test_wrong_usage_is_2_and_says_so(arguments: list[str], ctl: Ctl) -> None:
    refused = ctl(*arguments)
    assert (refused.status, refused.out) == (2, "")
    assert "Error: " in refused.err


@pytest.mark.parametrize(
    ("typed", "meant"), [("stat", "status"), ("drian", "drain"), ("chekc-config", "check-config")]
)
def test_a_verb_that_is_misspelled_is_guessed(typed: str, meant: str, ctl: Ctl) -> None:
    assert f"Did you mean {meant!r}?" in ctl(typed).err


def test_no_verb_is_wrong_usage_with_the_help(ctl: Ctl) -> None:
    shown = ctl()
    assert "Commands:" in shown.out + shown.err
    assert shown.status in (0, 2)


@pytest.mark.parametrize(
    ("arguments", "modules"),
    [
        pytest.param(["--help"], ["rich", "http.client", "ovms_scaler.config", "json"], id="help"),
        pytest.param(
            ["status", "--json"], ["rich", "ovms_scaler.config", "ovms_scaler.core.spec"], id="status --json"
        ),
        pytest.param(["status"], ["ovms_scaler.config", "ovms_scaler.core.spec", "aiohttp"], id="status"),
        pytest.param(["plan", "--json"], ["rich", "http.client", "aiohttp"], id="plan --json"),
    ],
)
def test_start_up_imports_only_what_it_needs(
    arguments: list[str], modules: list[str], agent: FakeAgent
) -> None:
    agent.say(status(instance()))
    program = (
        "import sys\nfrom ovms_scaler.ctl.main import run\n"
        f"run({arguments!r})\nprint([name for name in {modules!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"OVMS_SCALER_SOCKET": str(agent.socket)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_error(config: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*CTL, "plan", "--config", str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == Exit.output_closed


def test_a_full_disk_is_told(ctl_process: Ctl) -> None:
    with Path("/dev/full").open("w") as full:
        told = ctl_process("topology", "--json", stdout=full)
    assert told.status == 1
    assert told.err == "ovms-scalerctl: cannot finish: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_closed_streams_are_no_error(closed: str) -> None:
    command = f'exec "$0" -m ovms_scaler.ctl topology --json {closed}'
    done = subprocess.run(["/bin/sh", "-c", command, sys.executable], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_every_locale_can_be_printed_to(locale: str, ctl_process: Ctl, agent: FakeAgent) -> None:
    agent.say(status(instance(reason="größer \u2026 \ud800", in_rotation=False)))
    environment = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    shown = ctl_process("status", "--socket", agent.socket, env=environment)
    assert (shown.status, shown.err) == (1, "")
    assert "chat-numa0" in shown.out


def test_text_from_outside_does_not_steer_the_terminal(ctl: Ctl, agent: FakeAgent) -> None:
    agent.say(status(instance(reason="\x1b]0;owned\x07\x1b[2J \u202egnp", in_rotation=False)))
    shown = ctl("status", "--socket", agent.socket).out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\\x1b[2J" in shown


def test_an_interrupt_ends_quietly_with_130(agent: FakeAgent) -> None:
    agent.say(status(instance()))
    command = [*CTL, "status", "--watch", "--json", "--socket", str(agent.socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == Exit.interrupted


def test_plan_needs_no_root(open_directory: Path) -> None:
    closed = open_directory / "closed"
    closed.mkdir(mode=0)
    config = open_directory / "config.toml"
    config.write_text(POOL.format(model=closed / "model"))
    planned = run_as_anybody(open_directory, "plan", "--config", str(config))
    closed.chmod(0o700)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert "this user may not read" in planned.stdout
    assert "Would not be started" not in planned.stdout


def test_a_configuration_that_may_not_be_read_is_told(open_directory: Path) -> None:
    config = open_directory / "config.toml"
    config.write_text("")
    config.chmod(0)
    refused = run_as_anybody(open_directory, "check-config", str(config))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"{config}: cannot read: Permission denied\n")


def test_a_drop_in_directory_that_may_not_be_listed_is_told(open_directory: Path) -> None:
    config = open_directory / "config.toml"
    config.write_text("")
    (open_directory / "config.d").mkdir(mode=0)
    refused = run_as_anybody(open_directory, "check-config", str(config))
    assert refused.returncode == 1
    assert refused.stderr == f"{open_directory}/config.d: cannot read: Permission denied\n1 error\n"
