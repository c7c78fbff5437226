# SPDX-License-Identifier: Apache-2.0
"""Conversations in the form of ShareGPT: a JSON array of objects with ``conversations``.

The rules by which entries are taken are those of vLLM's benchmark, which the OVMS guides use: the first two
turns, at least 4 tokens each, at most 1,024 in the prompt and 2,048 in both. It counts with the model's
tokenizer; here tokens are estimated, and counted by the engine when they are asked for.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ovms_scaler.errors import InputError

# English text in the vocabularies of current models.
_CHARS_PER_TOKEN = 4.0
_MIN_TOKENS, _MAX_PROMPT_TOKENS, _MAX_TOKENS = 4, 1024, 2048
# A conversation is some kilobytes; one that never ends is no JSON.
MAX_ENTRY_CHARS = 16 * 1024 * 1024
_SPACE = re.compile(r"[ \t\r\n]*")
_CUT = "the file ends in the middle"
_FORM = 'a JSON array of {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What is asked, and how many tokens the recorded answer had, by estimate."""

    prompt: str
    output_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was drawn; ``usable`` of ``total`` entries could be, ``refused`` counts why the others not."""

    conversations: tuple[Conversation, ...]
    usable: int
    total: int
    refused: dict[str, int]


def draw_sample(blocks: Iterable[str], count: int, seed: int, *, name: str) -> Sample:
    """So many conversations, the same ones for the same seed; they repeat when there are fewer.

    ``blocks`` is the file's text in pieces, as it may be larger than memory; ``name`` is for messages.
    Raises InputError.
    """
    source = random.Random(f"sample {seed}")
    kept: list[Conversation] = []
    refused: Counter[str] = Counter()
    usable = total = 0
    for entry in parse_entries(blocks, name):
        total += 1
        found = _parse_conversation(entry)
        if isinstance(found, str):
            refused[found] += 1
            continue
        usable += 1
        # Vitter's algorithm R: each of those seen so far is kept with the same probability.
        if len(kept) < count:
            kept.append(found)
        elif (place := source.randrange(usable)) < count:
            kept[place] = found
    if not kept:
        raise InputError(_explain_empty(name, total, refused), hint=f"it must be {_FORM}")
    source.shuffle(kept)
    repeated = tuple(kept[index % len(kept)] for index in range(count))
    return Sample(conversations=repeated, usable=usable, total=total, refused=dict(refused))


def estimate_tokens(text: str) -> int:
    return max(1, round(len(text) / _CHARS_PER_TOKEN))


def parse_entries(blocks: Iterable[str], name: str) -> Iterator[Any]:
    """The elements of a JSON array one by one. Raises InputError with the place of what is wrong."""
    text = _Text(blocks)
    if not text.skip_space():
        raise InputError(f"{name} is empty", hint=f"it must be {_FORM}")
    if (first := text.take()) != "[":
        raise InputError(f"{name} is not a JSON array: it begins with {first!r}", hint=f"it must be {_FORM}")
    number, following = 0, text.skip_space()
    while following != "]":
        number += 1
        yield _parse_entry(text, name, number)
        following = text.skip_space()
        if following not in (",", "]"):
            raise _broken(name, text, number, "a comma or ] must follow")
        if following == ",":
            text.take()
            if text.skip_space() == "]":
                raise _broken(name, text, number, "a comma is before the ]")
    text.take()
    if text.skip_space():
        raise _broken(name, text, number, "nothing may follow the array")


class _Text:
    """A text that is read on as far as it is needed."""

    def __init__(self, blocks: Iterable[str]) -> None:
        self._blocks = iter(blocks)
        self.held = ""
        self.at = 0
        self.line = 1

    def skip_space(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            found = _SPACE.match(self.held, self.at)
            self.advance(found.end() if found else self.at)
            if self.at < len(self.held):
                return self.held[self.at]
            if not self.read_on():
                return ""

    def take(self) -> str:
        character = self.held[self.at]
        self.advance(self.at + 1)
        return character

    def advance(self, at: int) -> None:
        self.line += self.held.count("\n", self.at, at)
        self.at = at

    def read_on(self) -> bool:
        """As much again as is held, so that an entry of any size is tried a few times only."""
        rest = self.held[self.at :]
        pieces, size = [rest], 0
        while size <= len(rest) and (block := next(self._blocks, "")):
            pieces.append(block)
            size += len(block)
        self.held, self.at = "".join(pieces), 0
        return size > 0


def _parse_entry(text: _Text, name: str, number: int) -> Any:
    decoder = json.JSONDecoder()
    while True:
        try:
            value, end = decoder.raw_decode(text.held, text.at)
        except (ValueError, RecursionError) as error:
            # Before more is read: what is held begins anew then.
            ahead = error.pos - text.at if isinstance(error, json.JSONDecodeError) else 0
            # It may just not be all there yet.
            if len(text.held) - text.at <= MAX_ENTRY_CHARS and text.read_on():
                continue
            text.advance(min(text.at + ahead, len(text.held)))
            raise _broken(name, text, number, _reason(error, text)) from error
        if end == len(text.held) and text.read_on():
            continue  # a number may go on
        text.advance(end)
        return value


def _reason(error: Exception, text: _Text) -> str:
    if isinstance(error, json.JSONDecodeError):
        is_cut = text.at >= len(text.held) or error.msg.startswith("Unterminated string")
        return _CUT if is_cut else error.msg
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    # Python reads no integer of more than 4300 digits (sys.set_int_max_str_digits).
    return "a number has too many digits"


def _broken(name: str, text: _Text, number: int, why: str) -> InputError:
    return InputError(
        f"{name} is not JSON: line {text.line}, entry {number}: {why}",
        hint="was it downloaded to its end? compare its size with the source's"
        if why == _CUT
        else "mend it there, or take another file",
    )


def _parse_conversation(entry: Any) -> Conversation | str:
    """What is to be asked, or why this entry is of no use."""
    turns = entry.get("conversations", entry.get("conversation")) if isinstance(entry, dict) else None
    if not isinstance(turns, list):
        return "no conversations"
    if len(turns) < 2:
        return "fewer than two turns"
    values = [turn.get("value") if isinstance(turn, dict) else None for turn in turns[:2]]
    prompt, answer = values
    if not isinstance(prompt, str) or not isinstance(answer, str):
        return "a turn without text"
    asked, answered = estimate_tokens(prompt), estimate_tokens(answer)
    if min(asked, answered) < _MIN_TOKENS:
        return "too short"
    if asked > _MAX_PROMPT_TOKENS or asked + answered > _MAX_TOKENS:
        return "too long"
    return Conversation(prompt=prompt, output_len=answered)


def _explain_empty(name: str, total: int, refused: Counter[str]) -> str:
    if not total:
        return f"{name} has no entry"
    why = ", ".join(f"{count} {reason}" for reason, count in refused.most_common())
    return f"{name} has no entry that can be used: of {total} {why}"
