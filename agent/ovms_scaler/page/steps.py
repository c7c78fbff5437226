# SPDX-License-Identifier: Apache-2.0
"""What to type next: hints for people taken apart into words and commands that can be copied."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# What hints begin with when they are a command as they stand.
_PROGRAMS = ("journalctl", "systemctl", "ovms-scalerctl", "dmesg", "df", "ls", "openssl", "ss")
_COMMAND = re.compile(rf"(?:{'|'.join(_PROGRAMS)})(?: [^\s;,]+)*")
_QUOTED = re.compile(r"`([^`]+)`")
_THEN = re.compile(r"[;,] then:? |; ")

# What README.md says of each state at three in the morning, for hints that name no command.
_USUAL = {
    "absent": "ovms-scalerctl status",
    "draining": "ovms-scalerctl status --watch",
    "drained": "ovms-scalerctl undrain {id}",
    "failed": "journalctl -u {unit}",
    "quarantined": "journalctl -u {unit}",
    "ejected": "journalctl -u {unit}",
    "suspect": "journalctl -u {unit}",
    "stopped": "systemctl start {unit}",
    "stopping": "ovms-scalerctl status --watch",
    "waiting": "ovms-scalerctl topology",
}
_USUALLY = "journalctl -fu {unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Words, or a command to type."""

    text: str
    is_command: bool = False


def split_hint(hint: str) -> tuple[Piece, ...]:
    """The hint's words and commands, in its order."""
    return tuple(piece for part in _THEN.split(hint) if part for piece in _split_part(part))


def next_steps(hint: str, *, state: str, name: str, unit: str) -> tuple[Piece, ...]:
    """What to type for an instance in a state; a command at least."""
    pieces = split_hint(hint)
    if any(piece.is_command for piece in pieces):
        return pieces
    usual = _USUAL.get(state, _USUALLY).format(id=name, unit=unit or f"ovms@{name}.service")
    return (Piece(text=usual, is_command=True), *pieces)


def commands(*texts: str) -> tuple[Piece, ...]:
    """Commands to type one after the other."""
    return tuple(Piece(text=text, is_command=True) for text in texts)


def _split_part(part: str) -> Iterator[Piece]:
    if _COMMAND.fullmatch(part):
        yield Piece(text=part, is_command=True)
        return
    for index, text in enumerate(_QUOTED.split(part)):
        if text.strip():
            yield Piece(text=text.strip(), is_command=index % 2 == 1)
