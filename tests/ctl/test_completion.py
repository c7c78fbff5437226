# SPDX-License-Identifier: Apache-2.0
"""What a shell completes: verbs, options, their values, and names that the agent knows."""

from pathlib import Path

import pytest
import shell_lab
from ctl_lab import Ctl, FakeAgent, instance, status
from shell_lab import Shells

from ovms_scaler import known
from ovms_scaler.core.checks.catalogue import CHECKS
from ovms_scaler.ctl.completion.tree import Kind, Verb, read_tree
from ovms_scaler.ctl.main import cli

TREE = read_tree(cli)
EVERY_SHELL = pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
PLACES = {"bash": shell_lab.BASH, "zsh": shell_lab.ZSH, "fish": shell_lab.FISH}
ON_A_CARD = "fast-gpu-0000:03:00.0"
NAMES = ["chat", "chat-numa0", "chat-numa1", "fast", ON_A_CARD]


@pytest.fixture
def shells(tmp_path: Path, agent: FakeAgent) -> Shells:
    """In a directory with a file and another directory."""
    instances = [instance("chat-numa0"), instance("chat-numa1", state="failed"), instance(ON_A_CARD)]
    agent.say(status(*instances, pools=[{"name": "chat"}, {"name": "fast"}]))
    here = tmp_path / "here"
    here.mkdir()
    (here / "models").mkdir()
    (here / "other.toml").write_text("")
    return Shells(directory=here, socket=agent.socket)


@pytest.mark.parametrize("shell", PLACES)
def test_scripts_are_those_of_the_verbs_as_they_are(shell: str, ctl: Ctl) -> None:
    written = ctl("completion", shell).out
    place = PLACES[shell].relative_to(shell_lab.SCRIPTS.parents[1])
    assert (shell_lab.SCRIPTS.parents[1] / place).read_text() == written, (
        f"python3 -m ovms_scaler.ctl completion {shell} >{place}"
    )


def words_of(verb: Verb) -> list[str]:
    return [word for option in verb.options for word in (*option.names, *option.negations)]


@EVERY_SHELL
def test_every_verb_and_option_is_offered(shell: str, shells: Shells) -> None:
    below = {" ".join(("ovms-scalerctl", *verb.path, "")): verb for verb in TREE.walk()}
    groups = [line for line, verb in below.items() if verb.verbs]
    found = shells.complete(shell, [*groups, *(f"{line}--" for line in below)])
    for line in groups:
        assert found[line] == sorted(verb.name for verb in below[line].verbs)
    for line, verb in below.items():
        offered = [word.split("[")[0].rstrip("=") for word in found[f"{line}--"]]
        assert sorted(offered) == sorted(word for word in words_of(verb) if word.startswith("--"))


OFFERED = {
    "drain ": NAMES,
    "drain chat-numa": ["chat-numa0", "chat-numa1"],
    "restart --rolling ": NAMES,
    "events --since 5m ": NAMES,
    "drain chat ": [],
    "events --level ": ["critical", "error", "info", "warning"],
    "events --level=w": ["warning"],
    "init --listen ": [],
    "doctor --skip ": sorted(CHECKS),
    "doctor nginx ": sorted(CHECKS),
    "plan --config oth": ["other.toml"],
    "topology --sysroot m": ["models"],
    "check-config oth": ["other.toml"],
    "plan x": [],
    "nonsense ": [],
}


@EVERY_SHELL
def test_words_are_offered_where_they_belong(shell: str, shells: Shells) -> None:
    found = shells.complete(shell, [f"ovms-scalerctl {line}" for line in OFFERED])
    for line, words in OFFERED.items():
        offered = [word.rstrip("/") for word in found[f"ovms-scalerctl {line}"]]
        # zsh offers options also where nobody has begun one.
        offered = [word.removeprefix("--level=") for word in offered]
        assert (line, sorted(word for word in offered if not word.startswith("-"))) == (line, words)


TYPED = {
    "ovms-scalerctl undr\tfas\t-\t\n": f"undrain {ON_A_CARD}",
    "ovms-scalerctl drain fast-gpu-0000:\t\n": f"drain {ON_A_CARD}",
    "ovms-scalerctl stat\t--js\t\n": "status --json",
    "ovms-scalerctl eng\trem\t--js\t\n": "engine remove --json",
}


@EVERY_SHELL
def test_whoever_presses_tab_gets_it(shell: str, shells: Shells) -> None:
    assert shells.type(shell, list(TYPED)) == list(TYPED.values())


def test_without_an_agent_names_are_those_of_files(
    ctl: Ctl, agent: FakeAgent, config: Path, tmp_path: Path
) -> None:
    agent.answer = None
    more = config.parent / "config.d/other.toml"
    more.parent.mkdir()
    more.write_text('[[pool]]\nname = "more"\n[[pool]]\nname = "$(reboot)"\n[[pool]]\nname = 7\n')
    (config.parent / "config.d/broken.toml").write_text("[[pool")
    found = ctl("names", "pools", "--config", config, "--socket", agent.socket)
    assert (found.status, found.out, found.err) == (0, "chat\tpool\nmore\tpool\n", "")
    for name in ("ovms@chat-numa0.service.d", "ovms@.service.d", "nginx.service.d"):
        (tmp_path / "units" / name).mkdir(parents=True)
    assert known.list_instances(tmp_path / "units") == ["chat-numa0"]
    assert known.list_instances(tmp_path / "gone") == []


def test_nothing_at_all_is_known_in_silence(ctl: Ctl, agent: FakeAgent, tmp_path: Path) -> None:
    agent.say([], status=500)
    for kind in Kind:
        if kind.is_asked_for and kind is not Kind.checks:
            asked = ctl("names", kind, "--config", tmp_path / "gone.toml", "--socket", agent.socket)
            assert (asked.status, asked.err) == (0, "")


def test_an_agent_that_says_something_else_is_no_trouble(ctl: Ctl, agent: FakeAgent) -> None:
    agent.say({"instances": [{"id": 7}, 8, {"id": "chat-numa0"}], "pools": None})
    asked = ctl("names", "names", "--socket", agent.socket)
    assert (asked.status, asked.out, asked.err) == (0, "chat-numa0\n", "")


def test_releases_are_those_beside_the_program(ctl: Ctl, tmp_path: Path) -> None:
    for name in ("2026.2.0", "2026.10.1", "notes"):
        (tmp_path / "ovms" / name / "bin").mkdir(parents=True)
        (tmp_path / "ovms" / name / "bin/ovms").write_text("")
    config = tmp_path / "config.toml"
    config.write_text(f'[engine]\nbinary = "{tmp_path}/ovms/bin/ovms"\n')
    assert ctl("names", "releases", "--config", config).out == "2026.10.1\n2026.2.0\n"
