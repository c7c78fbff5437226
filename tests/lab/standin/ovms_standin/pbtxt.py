# SPDX-License-Identifier: Apache-2.0
"""A reader for protobuf text format, as far as graph.pbtxt files use it."""

import re
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*|[,;])
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<word>\[[\w\s./]+\](?=\s*:?\s*[{<])|[-+.\w]+)      # an extension's name, or a plain word
      | (?P<open>[{<\[]) | (?P<close>[}>\]]) | (?P<colon>:)""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(.)")
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}


class PbtxtError(ValueError):
    """The text is not protobuf text format."""


@dataclass(slots=True)
class Message:
    """Fields in order of appearance; a repeated field has several values."""

    fields: dict[str, list["str | Message"]] = field(default_factory=dict)

    def messages(self, name: str) -> list["Message"]:
        return [value for value in self.fields.get(name, []) if isinstance(value, Message)]

    def texts(self, name: str) -> list[str]:
        return [value for value in self.fields.get(name, []) if isinstance(value, str)]


def parse_pbtxt(text: str) -> Message:
    """Raises PbtxtError with the place of the first fault."""
    tokens = _tokens(text)
    message = _parse_fields(tokens, is_nested=False)
    if tokens:
        raise PbtxtError(f"unexpected {tokens[-1][1]!r}")
    return message


def _tokens(text: str) -> list[tuple[str, str]]:
    """Kinds and texts, last one first, so that pop() yields the next."""
    found: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise PbtxtError(f"cannot read line {text.count(chr(10), 0, position) + 1}")
        position = match.end()
        kind = match.lastgroup or ""
        if kind != "skip":
            found.append((kind, match.group()))
    return found[::-1]


def _parse_fields(tokens: list[tuple[str, str]], *, is_nested: bool) -> Message:
    message = Message()
    while tokens:
        kind, text = tokens.pop()
        if kind == "close" and is_nested:
            return message
        if kind != "word":
            raise PbtxtError(f"expected a field name, found {text!r}")
        name = text.strip("[] ").rpartition("/")[2].strip()
        message.fields.setdefault(name, []).extend(_parse_values(tokens, name))
    if is_nested:
        raise PbtxtError("a brace is not closed")
    return message


def _parse_values(tokens: list[tuple[str, str]], name: str) -> list[str | Message]:
    if tokens and tokens[-1][0] == "colon":
        tokens.pop()
    elif not tokens or tokens[-1][0] != "open":
        raise PbtxtError(f"field {name!r} has no value")
    if not tokens:
        raise PbtxtError(f"field {name!r} has no value")
    kind, text = tokens.pop()
    if kind == "open" and text == "[":
        return _parse_list(tokens, name)
    if kind == "open":
        return [_parse_fields(tokens, is_nested=True)]
    if kind == "word":
        return [text]
    if kind != "string":
        raise PbtxtError(f"field {name!r} has no value")
    # Adjacent strings are one, as in C.
    value = _unquoted(text)
    while tokens and tokens[-1][0] == "string":
        value += _unquoted(tokens.pop()[1])
    return [value]


def _parse_list(tokens: list[tuple[str, str]], name: str) -> list[str | Message]:
    values: list[str | Message] = []
    while tokens:
        kind, text = tokens.pop()
        if kind == "close":
            return values
        match kind:
            case "open":
                values.append(_parse_fields(tokens, is_nested=True))
            case "string":
                values.append(_unquoted(text))
            case _:
                values.append(text)
    raise PbtxtError(f"the list of field {name!r} is not closed")


def _unquoted(text: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match.group(1), match.group(1)), text[1:-1])
