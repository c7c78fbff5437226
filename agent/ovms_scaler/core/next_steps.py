# SPDX-License-Identifier: Apache-2.0
"""What to type next: the usual command of each bad state, and hints taken apart into words and commands.

Status, top, events and the status page all print what is found here, so that none of them sends people
another way than the others.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

EMPTY_POOL = "ovms-scalerctl topology"
REJECTED = "ovms-scalerctl check-config; then: systemctl reload ovms-scaler"
PAUSED = "ovms-scalerctl resume"
HINDERED = "journalctl -eu ovms-scaler"
WARNED = "ovms-scalerctl topology"
PROXY_DOWN = "systemctl status ovms-scaler-proxy"
PROXY_REFUSES = "journalctl -eu ovms-scaler-proxy"

_FOLLOW = "ovms-scalerctl logs {id} -f"
_LOOK = "journalctl -u ovms@{id}.service"
_WATCH = "ovms-scalerctl status --watch"
# By state, for verdicts that name nothing themselves. In words, as ovms_scaler.core.lifecycle would bring
# half the package along, and ovms-scalerctl reads this too.
_USUAL = {
    "absent": _WATCH,
    "starting": _FOLLOW,
    "loading": _FOLLOW,
    "warming": _FOLLOW,
    "ready": _WATCH,
    "suspect": _LOOK,
    "ejected": _LOOK,
    "draining": _WATCH,
    "drained": "ovms-scalerctl undrain {id}",
    "stopping": _WATCH,
    "stopped": "systemctl start ovms@{id}.service",
    "failed": _LOOK,
    "quarantined": _LOOK,
    "waiting": "ovms-scalerctl topology",
}

# A part of a hint that begins with one of these is a command as a whole; a command amid words is put in
# backticks by who writes the hint.
PROGRAMS = frozenset(
    {
        "apt", "apt-file", "chgrp", "chmod", "chown", "df", "dmesg", "findmnt", "journalctl", "ls", "mv",
        "openssl", "ovms-scalerctl", "setfacl", "ss", "systemctl", "systemd-tmpfiles",
    }
)  # fmt: skip
_QUOTED = re.compile(r"`([^`]+)`")
_THEN = re.compile(r"[;,] then:? |; ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Words, or a command to type."""

    text: str
    is_command: bool = False


def split_hint(hint: str) -> tuple[Piece, ...]:
    """The hint's words and commands, in its order."""
    return tuple(piece for part in _THEN.split(hint) if part for piece in _split_part(part))


def next_of(name: str, *, state: str, reason: str, hint: str, in_rotation: bool) -> str:
    """The hint of an instance, or what is usual in its state; "" for one that serves, or is about to."""
    is_well = state == "ready" and (in_rotation or not reason)
    return hint if hint or is_well else usual(state, name)


def usual(state: str, name: str) -> str:
    """What to type for an instance of which nothing but its state is known; "" for a state that is not."""
    return _USUAL.get(state, "").format(id=name)


def next_of_proxy(*, listens: bool, answers: bool, is_active: bool, error: str, waits: str) -> str:
    """What to type for the proxy; one without a front need not answer."""
    if listens and not (answers and is_active):
        return PROXY_DOWN
    if error:
        return PROXY_REFUSES
    return PROXY_DOWN if waits else ""


def _split_part(part: str) -> Iterator[Piece]:
    if "`" not in part:
        yield Piece(text=part, is_command=part.split(" ", 1)[0] in PROGRAMS)
        return
    for index, text in enumerate(_QUOTED.split(part)):
        if text.strip():
            yield Piece(text=text.strip(), is_command=index % 2 == 1)
