# SPDX-License-Identifier: Apache-2.0
"""The letter and the colour by which an instance is known in the drawing and in the table."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from ovms_scaler.page.reading import Document, read_cpus, read_id, read_text, read_texts

# Colours of instances in style.css: after the last, the first is used again, as letters tell them apart.
TONES = 8
# What is to be mended. What somebody wanted, or what comes by itself, is not.
_BAD = frozenset({"failed", "quarantined", "ejected"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """An instance as it is drawn: solid while it is in rotation, hatched while it is not.

    ``level`` is "good", "bad", or "attention" for what is neither.
    """

    letter: str
    tone: int
    name: str
    state: str
    level: str
    is_in: bool
    is_unbound: bool
    node: int | None
    cpus: frozenset[int]
    gpus: tuple[str, ...]


def assign_marks(instances: Sequence[Document]) -> tuple[Mark, ...]:
    """Marks in the order of the status document."""
    return tuple(
        Mark(
            letter=letter_of(index),
            tone=index % TONES,
            name=read_text(entry, "id") or "?",
            state=read_text(entry, "state") or "?",
            level=_level(entry),
            is_in=entry.get("in_rotation") is True,
            is_unbound=entry.get("pool") is not None and not entry.get("cpus") and not entry.get("gpus"),
            node=read_id(entry, "node"),
            cpus=read_cpus(entry, "cpus"),
            gpus=read_texts(entry, "gpus"),
        )
        for index, entry in enumerate(instances)
    )


def _level(entry: Document) -> str:
    state = read_text(entry, "state")
    if state in _BAD:
        return "bad"
    return "good" if state == "ready" and entry.get("in_rotation") is True else "attention"


def letter_of(index: int) -> str:
    """A to Z, then AA, AB and so on."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, len(ascii_uppercase))
        letters = ascii_uppercase[rest] + letters
    return letters
