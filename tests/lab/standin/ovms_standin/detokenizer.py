# SPDX-License-Identifier: Apache-2.0
"""Text of a growing list of tokens, taken bit by bit, never half a character."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

# A character has four bytes at most: text that still ends in a replacement character after that many tokens
# will not become anything else.
_HELD_TOKENS_LIMIT: Final = 4
_REPLACEMENT: Final = "�"


class Decoder(Protocol):
    """What is needed of a tokenizer: texts of several token lists at once."""

    def decode(self, tokens: list[list[int]], /) -> list[str]: ...


@dataclass(slots=True)
class TextCursor:
    """The tokens of one generation, and how far their text was taken.

    Text depends on its neighbours (a leading blank may vanish), so new tokens are always decoded together
    with those of the time before, from `context_start`, and what was taken already is cut off.
    """

    tokens: list[int] = field(default_factory=list)
    context_start: int = 0
    taken: int = 0


def take_texts(decoder: Decoder, cursors: Sequence[tuple[TextCursor, bool]]) -> list[str]:
    """The new text of every cursor, "" where it is held back; `True` beside one means that no more comes."""
    rows: list[list[int]] = []
    for cursor, _ in cursors:
        rows.append(cursor.tokens[cursor.context_start : cursor.taken])
        rows.append(cursor.tokens[cursor.context_start :])
    # An empty list of tokens has an empty text; the decoder is not asked for it.
    filled = [row for row in rows if row]
    decoded = iter(decoder.decode(filled) if filled else [])
    texts = [next(decoded) if row else "" for row in rows]
    return [
        _advance(cursor, before=texts[2 * index], text=texts[2 * index + 1], is_last=is_last)
        for index, (cursor, is_last) in enumerate(cursors)
    ]


def _advance(cursor: TextCursor, *, before: str, text: str, is_last: bool) -> str:
    held = len(cursor.tokens) - cursor.taken
    if text.endswith(_REPLACEMENT) and held < _HELD_TOKENS_LIMIT and not is_last:
        return ""
    cursor.context_start, cursor.taken = cursor.taken, len(cursor.tokens)
    return text[len(before) :]
