# SPDX-License-Identifier: Apache-2.0
"""Which command is named next, and hints taken apart."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ovms_scaler
from ovms_scaler.core.lifecycle import State
from ovms_scaler.core.next_steps import next_of, next_of_proxy, split_hint, usual

PACKAGE = Path(ovms_scaler.__file__).parent
# Words that no command has, and people's sentences do.
PROSE = re.compile(r" (and|or|it|is|prints|makes|takes|shows|says?|tries|gives|sets)( |$)")


@pytest.mark.parametrize(
    ("hint", "pieces"),
    [
        ("", []),
        ("journalctl -u ovms@chat-numa0.service", ["$ journalctl -u ovms@chat-numa0.service"]),
        ("journalctl -u ovms@a.service; then: ovms-scalerctl reset a",
         ["$ journalctl -u ovms@a.service", "$ ovms-scalerctl reset a"]),
        ("dmesg; then `ovms-scalerctl reload` tries again",
         ["$ dmesg", "$ ovms-scalerctl reload", "tries again"]),
        ("`ovms-scalerctl reload` sets some aside, by changing the instances there one at a time",
         ["$ ovms-scalerctl reload", "sets some aside, by changing the instances there one at a time"]),
        ("use smaller weights (int8, int4), a smaller graph.cache_size",
         ["use smaller weights (int8, int4), a smaller graph.cache_size"]),
        ("ls -l /dev/dri/renderD128; udev gives it to the group render with mode 0660",
         ["$ ls -l /dev/dri/renderD128", "udev gives it to the group render with mode 0660"]),
        ("ovms-scalerctl reload --allow-outage", ["$ ovms-scalerctl reload --allow-outage"]),
        ("`dmesg` says why", ["$ dmesg", "says why"]),
        ("apt install libxml2", ["$ apt install libxml2"]),
        ("chown root:root /opt/ovms; chmod 755 /opt/ovms",
         ["$ chown root:root /opt/ovms", "$ chmod 755 /opt/ovms"]),
        ("mv /opt/a /opt/a.old", ["$ mv /opt/a /opt/a.old"]),
        ("findmnt --target /opt", ["$ findmnt --target /opt"]),
        ("`ss` and `df` say more", ["$ ss", "and", "$ df", "say more"]),
        ("raise proxy.shutdown_timeout_sec, then: systemctl reload ovms-scaler",
         ["raise proxy.shutdown_timeout_sec", "$ systemctl reload ovms-scaler"]),
    ],
)  # fmt: skip
def test_hints_are_words_and_commands(hint: str, pieces: list[str]) -> None:
    assert [f"$ {one.text}" if one.is_command else one.text for one in split_hint(hint)] == pieces


def read_hints() -> Iterator[str]:
    """What is said as a ``hint`` by those parts whose hints get into the agent's documents."""
    for part in ("core", "host", "daemon"):
        for module in sorted((PACKAGE / part).rglob("*.py")):
            if "checks" in module.parts:
                continue  # what doctor says is printed as it is
            for node in ast.walk(ast.parse(module.read_text())):
                if isinstance(node, ast.keyword) and node.arg == "hint":
                    yield from read_texts(node.value)


def read_texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(one.value) if isinstance(one, ast.Constant) else "X" for one in node.values)
    elif isinstance(node, ast.IfExp):
        yield from (*read_texts(node.body), *read_texts(node.orelse))


def test_no_hint_of_the_agent_has_words_in_a_command() -> None:
    hints = tuple(read_hints())
    assert len(hints) > 50
    commands = [one.text for hint in hints for one in split_hint(hint) if one.is_command]
    assert not [text for text in commands if PROSE.search(text)]


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_usual_command(state: State) -> None:
    said = usual(state.value, "chat-numa0")
    assert [one.is_command for one in split_hint(said)] == [True]
    assert "{" not in said


def test_of_a_state_that_is_not_known_nothing_is_guessed() -> None:
    assert usual("hibernating", "chat-numa0") == ""


@pytest.mark.parametrize(
    ("state", "reason", "hint", "said"),
    [
        ("loading", "it loads", "", "ovms-scalerctl logs a -f"),
        ("starting", "not asked yet", "", "ovms-scalerctl logs a -f"),
        ("failed", "it fails", "apt install libxml2", "apt install libxml2"),
        ("failed", "it fails", "use smaller weights", "use smaller weights"),
        ("ready", "it is kept out", "", "ovms-scalerctl status --watch"),
        # It is about to be put in rotation.
        ("ready", "", "", ""),
    ],
)
def test_own_hint_first_else_what_is_usual(state: str, reason: str, hint: str, said: str) -> None:
    assert next_of("a", state=state, reason=reason, hint=hint, in_rotation=False) == said


def test_one_that_serves_needs_nothing_unless_it_is_doubted() -> None:
    reason = "as overridden in a.conf"
    assert next_of("a", state="ready", reason=reason, hint="", in_rotation=True) == ""
    doubted = next_of("a", state="suspect", reason="a doubt", hint="", in_rotation=True)
    assert doubted == "journalctl -u ovms@a.service"


WELL: dict[str, Any] = {"listens": True, "answers": True, "is_active": True, "error": "", "waits": ""}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"listens": False, "answers": False, "is_active": False}, ""),
        ({"answers": False}, "systemctl status ovms-scaler-proxy"),
        ({"is_active": False, "error": "it fails"}, "systemctl status ovms-scaler-proxy"),
        ({"error": "it fails", "waits": "it waits"}, "journalctl -eu ovms-scaler-proxy"),
        ({"waits": "it waits"}, "systemctl status ovms-scaler-proxy"),
    ],
)
def test_what_to_type_for_the_proxy(changes: dict[str, Any], said: str) -> None:
    assert next_of_proxy(**(WELL | changes)) == said
