# SPDX-License-Identifier: Apache-2.0
"""Sentences: one for every phrase that is logged anywhere, and a way out of everything bad."""

import pytest
from log_phrases import read_phrases

from ovms_scaler.core.event_text import render_event, render_hint

# As much as an entry of any phrase may have.
KEYS: dict[str, object] = {
    "action": "start ovms@chat-numa0.service", "added": ["chat-numa1"], "address": "0000:03:00.0",
    "allow_outage": True, "at_once": True, "count": 2, "cut_requests": 3, "detail": "", "dropped":
    4, "error": "no space left", "file": "/etc/ovms-scaler/config.toml", "files": ["/run/a"],
    "generation": "00c0ffee00c0ffee", "instance": "chat-numa0", "instances": ["chat-numa0",
    "chat-numa1"], "is_rolling": True, "listen": "127.0.0.1:8002", "method": "rebind", "methods":
    ["rebind"], "old_workers": 5, "path": "/v1/reload", "reason": "it hangs", "removed":
    ["chat-numa2"], "shutdown_timeout_sec": 60, "state": "ejected", "unit":
    "ovms@chat-numa0.service", "version": "0.1.0", "was": "ready",
}  # fmt: skip


@pytest.mark.parametrize("phrase", sorted(read_phrases()))
def test_every_phrase_has_a_sentence_and_everything_bad_a_way_out(phrase: str) -> None:
    sentence = render_event({"at": 1.0, "level": "info", "event": phrase, **KEYS})
    assert "/etc/ovms-scaler/config.toml, files" not in sentence, "it has no sentence of its own"
    assert not {"?", "{", "}", "\n"} & set(sentence)
    assert sentence[0] != " "
    assert not sentence.endswith((".", " ", ":"))
    assert len(sentence) < 200
    assert render_hint({"at": 1.0, "level": "info", "event": phrase, **KEYS}) == ""
    # Of those that are never bad nothing is asked.
    hint = render_hint({"at": 1.0, "level": "error", "event": phrase, **KEYS})
    assert "?" not in hint
    assert hint or not is_logged_as_bad(phrase)


def is_logged_as_bad(phrase: str) -> bool:
    return bool(read_phrases()[phrase] & {"warning", "error", "exception", "critical"})


def event(phrase: str, **keys: object) -> dict[str, object]:
    return {"at": 1.0, "level": "warning", "event": phrase, **keys}


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            event("instance changed", instance="chat-numa0", state="starting", was="ready", reason="again"),
            "chat-numa0 is starting (was ready): again",
        ),
        (event("instance changed", instance="chat-numa0", state="ready"), "chat-numa0 is ready"),
        (
            event("instance out of rotation", instance="chat-numa0", state="stopping"),
            "chat-numa0 is out of rotation, as it is stopping",
        ),
        (event("instance out of rotation", instance="chat-numa0"), "chat-numa0 is out of rotation"),
        (
            event("proxy changed", generation="00c0", added=["a", "b"], removed=[]),
            "the proxy runs with new files (generation 00c0); it sends requests to a, b",
        ),
        (event("stopping instance", instance="chat-numa0", at_once=False), "stopping chat-numa0"),
        (event("to be drained", instances=["a", "b"], allow_outage=False), "ordered: drain a, b"),
        (
            event("gpu coredump", address="0000:03:00.0", methods=[], detail=""),
            "GPU 0000:03:00.0 hangs: its driver left a coredump",
        ),
        (event("a card grew wings", port=8003, names=["a"]), "a card grew wings (port 8003, names a)"),
        (event("of a later version"), "of a later version"),
        ({}, ""),
        (event("agent started"), "the agent started, version ?"),
    ],
)
def test_sentences(said: dict[str, object], sentence: str) -> None:
    assert render_event(said) == sentence


def test_the_agents_own_hint_comes_first() -> None:
    assert render_hint(event("instance changed", instance="a", hint="ovms-scalerctl topology")) == (
        "ovms-scalerctl topology"
    )
    assert render_hint(event("instance changed", instance="a")) == "ovms-scalerctl logs a"


def test_a_change_without_a_hint_has_the_command_that_status_names() -> None:
    changed = event("instance changed", instance="a", state="suspect")
    assert render_hint(changed) == "journalctl -u ovms@a.service"


def test_a_hint_that_is_no_command_is_not_shown_as_one() -> None:
    cut = event("requests cut by the proxy", count=1, hint="they went on for longer than ...")
    assert "systemctl reload ovms-scaler" in render_hint(cut)


def test_what_braces_hold_is_text() -> None:
    assert render_event(event("agent cannot run", error="{instance}")) == "the agent cannot run: {instance}"
