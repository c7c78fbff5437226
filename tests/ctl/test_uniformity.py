# SPDX-License-Identifier: Apache-2.0
"""All verbs alike, those to come included: help with an example, JSON, statuses, colours, width."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import machines
import pytest
from command_lines import COMMANDS, check_command, find_commands
from ctl_lab import Ctl, FakeAgent, instance, status
from ctl_screen import PAINT, screen

from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import PROGRAM

VERBS = {name: command for name, command in COMMANDS.items() if not command.hidden}
EVERY_VERB = pytest.mark.parametrize("verb", VERBS)
# A path of several parts, as those of tests are.
PATH = re.compile(r"\S*/\S+/\S*")
STATUSES = {int(one) for one in (Exit.good, Exit.bad_news, Exit.unreachable)}


@EVERY_VERB
def test_help_fits_and_has_an_example_that_can_be_typed(verb: str, ctl: Ctl) -> None:
    for option in ("--help", "-h"):
        shown = ctl(*verb.split(), option)
        assert (shown.status, shown.err) == (0, "")
    assert max(map(len, shown.out.splitlines())) <= 80
    text = shown.out.partition("Example:")[2].partition("\n\n")[0]
    examples = find_commands(re.sub(r"\\\n *", "", text))
    assert any(example.split()[: len(verb.split())] == verb.split() for example in examples)
    for example in examples:
        check_command(example)


@EVERY_VERB
def test_an_unknown_option_is_wrong_usage(verb: str, ctl: Ctl) -> None:
    refused = ctl(*verb.split(), "--no-such-option")
    assert (refused.status, refused.out) == (Exit.usage, "")
    assert "No such option" in refused.err
    assert f"{PROGRAM} {verb} -h" in refused.err


@EVERY_VERB
def test_every_verb_speaks_json(verb: str) -> None:
    options = {name for parameter in VERBS[verb].params for name in parameter.opts}
    assert "--json" in options


@EVERY_VERB
def test_every_option_says_what_it_does(verb: str) -> None:
    for parameter in VERBS[verb].params:
        if isinstance(parameter, click.Option):
            assert (parameter.help or "").rstrip("]").endswith((".", ")")) or "[" in (parameter.help or "")
            assert (
                parameter.is_flag or parameter.hidden or parameter.metavar or parameter.type.name == "choice"
            )


# What waits for systemd, which is not everywhere where these tests are.
OF_SYSTEMD = ("verify",)
REASON = "the engine answered nothing for longer than it may, while requests were in work; it was killed"
MEASURES = {"at": 1000.0, "window_sec": 10.0, "front": {}, "instances": [], "nodes": [], "gpus": []}


@pytest.fixture
def runs(
    tmp_path: Path, config: Path, model: Path, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, list[str]]:
    """How each verb is run, after its name; an agent answers that has bad news."""
    broken = instance("chat-numa1", state="quarantined", reason=REASON, in_rotation=False, hint="do " * 60)
    cards = instance("fast-gpu-0000:03:00.0", gpus=["0000:03:00.0"], node=None, device="GPU.0")
    agent.say(status(instance(), broken, cards, version="0.1.0", observed_sec=2.0))
    for order in ("drain", "undrain", "restart", "reset", "pause", "resume"):
        agent.say({"accepted": True, "instances": ["chat-numa0"], "ordered_sec": 1.0}, path=f"/v1/{order}")
    agent.say({"instances": 3, "ordered_sec": 1.0}, path="/v1/reload?allow_outage=0")
    agent.say(MEASURES, path="/v1/measures")
    monkeypatch.setenv("OVMS_SCALER_SOCKET", str(agent.socket))
    monkeypatch.chdir(tmp_path)
    machine = ["--sysroot", str(machines.single_node(tmp_path / "machine"))]
    configured = ["--config", str(config)]
    named = ["chat-numa0"]
    return {
        "init": ["--model", str(model), *machine, "--output", "new.toml"],
        "topology": machine,
        "plan": [*configured, *machine, "--no-diff"],
        "render": [*configured, *machine, "--output", "rendered"],
        "check-config": [str(config), *machine],
        "doctor": [*configured, "model-files"],
        "status": [],
        "top": ["--once"],
        "events": [],
        "logs": named,
        "reload": [],
        "drain": named,
        "undrain": named,
        "restart": named,
        "reset": named,
        "pause": [],
        "resume": [],
        "engine install": [*configured, "gone.tar.gz"],
        "engine use": [*configured, "2026.3"],
        "engine rollback": configured,
        "engine list": configured,
        "engine remove": [*configured, "2026.3"],
        "bench": ["--url", "http://127.0.0.1:9/v3", "--num-prompts", "1"],
        "version": configured,
    }


def test_every_verb_is_run_below(runs: Mapping[str, list[str]]) -> None:
    assert sorted([*runs, *OF_SYSTEMD]) == sorted(VERBS)


def test_output_in_a_pipe_is_plain_and_json_is_json(runs: Mapping[str, list[str]], ctl: Ctl) -> None:
    for verb, arguments in runs.items():
        shown = ctl(*verb.split(), *arguments)
        assert shown.status in STATUSES, (verb, shown)
        assert "\x1b" not in shown.out + shown.err, verb
        assert "Traceback" not in shown.err, verb
        asked = ctl(*verb.split(), *arguments, "--json")
        assert asked.status in STATUSES, (verb, asked)
        if asked.status == 0 or asked.out:
            json.loads(asked.out)


OF_THE_AGENT = (
    *("status", "top", "events", "logs"),
    *("reload", "drain", "undrain", "restart", "reset", "pause", "resume"),
)


def test_an_agent_that_is_away_is_told_with_the_way_out(
    runs: Mapping[str, list[str]], ctl: Ctl, agent: FakeAgent
) -> None:
    agent.answer = None
    agent.answers.clear()
    for verb in OF_THE_AGENT:
        for more in ([], ["--json"]):
            told = ctl(verb, *runs[verb], *more)
            if verb in ("events", "logs"):  # the journal has them, too
                assert told.status in (0, Exit.bad_news, Exit.unreachable)
                continue
            assert (told.status, told.out) == (Exit.unreachable, ""), verb
            assert "cannot reach the agent" in told.err
            assert "hint: " in told.err


ALL = """\
import json, sys
from ovms_scaler.ctl.main import run
for words in json.loads(sys.argv[1]):
    print("<<", *words, ">>", flush=True)
    run(words)
"""


def look(runs: Mapping[str, list[str]], **env: str) -> dict[str, list[str]]:
    """What each verb shows on a terminal of 80 columns, by verb, in lines as they were sent."""
    words = [[*verb.split(), *arguments] for verb, arguments in runs.items()]
    with screen(json.dumps(words), command=[sys.executable, "-c", ALL], env=env) as shown:
        parts = re.split(r"<< .* >>\r\n", shown.read_rest())
    return {verb: part.splitlines() for verb, part in zip(runs, parts[1:], strict=True)}


def test_output_fits_a_terminal_and_has_no_colours_that_are_not_wanted(
    runs: Mapping[str, list[str]],
) -> None:
    for verb, lines in look(runs, NO_COLOR="1").items():
        for line in lines:
            plain = PAINT.sub("", line)
            # What is there to be copied is not folded: commands, and paths, however long they are.
            is_copied = len(plain.split()) == 1 or plain.startswith(f"  {PROGRAM} ")
            assert len(PATH.sub("PATH", plain)) <= 80 or is_copied, (verb, plain)
            # Bold is no colour.
            assert not re.search(r"\x1b\[(?![01]m)[0-9;]+m", line), (verb, line)
