# SPDX-License-Identifier: Apache-2.0
"""The man pages say everything of the programs, and nothing else: verbs, options, statuses, states, the log.

How pages look is tested where their tools are, in tests/system/test_man_pages.py.
"""

import re
import sys
from pathlib import Path

import click
import pytest
from command_lines import COMMANDS, check_command, find_commands
from log_phrases import read_phrases
from manual import EVERY_PAGE, PAGES, ROOT, flatten, read_part, split_entries

from ovms_scaler.core.checks.catalogue import CHECKS
from ovms_scaler.core.lifecycle import State
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.daemon import main as daemon

AGENT = ROOT / "agent" / "ovms_scaler"
SECTIONS = ("NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO")
VERBS = [name for name, command in COMMANDS.items() if not command.hidden]


def read_verbs() -> dict[str, str]:
    """What the page says of each verb, by the line with its options."""
    part = read_part("ovms-scalerctl.8.md", "# VERBS").replace("\\-", "-")
    return split_entries(part)


def list_options(command: click.Command) -> set[str]:
    found = {"--help"}
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found


def test_every_verb_is_described_and_no_other() -> None:
    assert sorted(line.split("**")[1] for line in read_verbs()) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_options_and_no_other(verb: str) -> None:
    (line,) = (line for line in read_verbs() if line.startswith(f"**{verb}**"))
    options = [word for word in re.findall(r"\*\*([^*]+)\*\*", line) if word.startswith("-")]
    assert {*options, "--help"} == list_options(COMMANDS[verb])
    assert len(options) == len(set(options))
    shown = re.sub(r"\[\*\*-[^]]*\]|\*\*--output\*\* \*DIR\*", "", line).removeprefix(f"**{verb}**")
    arguments = [one for one in COMMANDS[verb].params if isinstance(one, click.Argument)]
    assert shown.replace("*", "").split() == [str(one.metavar) for one in arguments]


def test_every_option_is_described_and_no_other() -> None:
    part = read_part("ovms-scalerctl.8.md", "# OPTIONS").replace("\\-", "-")
    described = {word for line in split_entries(part) for word in re.findall(r"\*\*(--?\w[\w-]*)\*\*", line)}
    # With plan, where they mean something.
    of_one_verb = {
        "--diff",
        "--no-diff",
        "--watch",
        "--rolling",
        "--level",
        "--sha256",
        "--no-switch",
        "--once",
        "--interval",
        "--skip",
        "--all",
        "--timeout",
    }
    others = [verb for verb in VERBS if verb != "bench"]
    every = {option for verb in others for option in list_options(COMMANDS[verb])}
    assert described == every - of_one_verb | {"-h", "--version"}


def test_every_option_of_bench_is_described_and_no_other() -> None:
    part = read_part("ovms-scalerctl.8.md", "# MEASURING").replace("\\-", "-")
    described = {word for line in split_entries(part) for word in re.findall(r"\*\*(--\w[\w-]*)\*\*", line)}
    elsewhere = {"--help", "--json", "--allow-outage"}
    assert described == list_options(COMMANDS["bench"]) - elsewhere


def test_every_check_of_doctor_is_described_and_no_other() -> None:
    described = split_entries(read_part("ovms-scalerctl.8.md", "# CHECKS").replace("\\-", "-"))
    assert {name.strip("*"): flatten(text) for name, text in described.items()} == CHECKS
    assert [name.strip("*") for name in described] == list(CHECKS)


def test_every_exit_status_is_described() -> None:
    numbers = list(split_entries(read_part("ovms-scalerctl.8.md", "# EXIT STATUS")))
    assert [int(number) for number in numbers] == sorted(Exit)


def test_every_option_of_the_agent_is_described_and_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ovms-scaler", "--help"])
    with pytest.raises(SystemExit):
        daemon.main()
    options = set(re.findall(r"^ +(-.*?)(?:  |$)", capsys.readouterr().out, re.MULTILINE))
    described = split_entries(read_part("ovms-scaler.8.md", "# OPTIONS").replace("\\-", "-"))
    assert {re.sub(r"\*", "", line) for line in described} == options


def test_every_state_is_described_and_no_other() -> None:
    described = split_entries(read_part("ovms-scaler.8.md", "# STATES OF AN INSTANCE"))
    assert sorted(line.strip("*") for line in described) == sorted(State)


def test_every_phrase_of_the_log_is_described_and_no_other() -> None:
    entries = split_entries(read_part("ovms-scaler.8.md", "# LOG")).values()
    assert {
        phrase for text in entries for phrase in re.findall(r'"([^"]+)"', flatten(text))
    } == read_phrases().keys()


def test_every_variable_of_the_environment_is_described_and_no_other() -> None:
    read = re.compile(r"\b(?:environ|environment)\.get\(\"(\w+)\"|envvar=\"(\w+)\"")
    for page, directories in (("ovms-scalerctl.8.md", ["ctl"]), ("ovms-scaler.8.md", ["daemon", "host"])):
        text = "".join(path.read_text() for name in directories for path in (AGENT / name).rglob("*.py"))
        described = re.findall(r"`([A-Z_]+)`", " ".join(split_entries(read_part(page, "# ENVIRONMENT"))))
        assert sorted(described) == sorted({one or other for one, other in read.findall(text)})


@EVERY_PAGE
def test_commands_in_pages_exist(page: Path) -> None:
    for command in find_commands(page.read_text()):
        check_command(command)


@EVERY_PAGE
def test_every_page_has_the_usual_sections(page: Path) -> None:
    text = page.read_text()
    assert text.startswith("---\ntitle: ")
    assert "SPDX-License-Identifier: Apache-2.0" in text
    headings = re.findall(r"^# (.+)$", text, re.MULTILINE)
    assert [heading for heading in headings if heading in SECTIONS] == list(SECTIONS)
    title, _, section = page.name.removesuffix(".md").rpartition(".")
    assert f"title: {title.upper()}\nsection: {section}\n" in text
    # As it is, where pandoc would write an "@" so that whatis(1) does not find the page.
    assert f"# NAME\n\n{title}" in text.replace("`@`{=man}", "@")


@EVERY_PAGE
def test_pages_of_ours_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"\*\*(ovms[\w@.-]*)\*\*\((\d)\)", page.read_text())
    assert named
    assert {f"{name}.{section}.md" for name, section in named} <= {one.name for one in PAGES}
