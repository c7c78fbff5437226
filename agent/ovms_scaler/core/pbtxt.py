# SPDX-License-Identifier: Apache-2.0
"""Protobuf's text format as graph.pbtxt files use it: text to a tree of frozen values and back."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ovms_scaler.errors import InputError

MAX_CHARS = 1 << 20  # a graph.pbtxt has a few thousand; what is larger is not one
MAX_DEPTH = 64  # protobuf itself stops at 100 nested messages by default


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A quoted string; bytes that are not UTF-8 are kept as surrogates (PEP 383)."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """A number, an enum's name, true or false: the token as it was written."""

    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """A list in brackets, the short form of a repeated field."""

    values: "tuple[Value, ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Fields in the order they were written, repeated ones as often as they were.

    ``comments`` stand after the last field, "#" included.
    """

    fields: "tuple[Field, ...]" = ()
    comments: tuple[str, ...] = ()

    def values(self, name: str) -> "Iterator[Value]":
        """Every value of the field ``name``."""
        return (each.value for each in self.fields if each.name == name)

    def messages(self, name: str) -> "Iterator[Message]":
        """Every message in the field ``name``, in lists too."""
        for value in self.values(name):
            for each in value.values if isinstance(value, Items) else (value,):
                if isinstance(each, Message):
                    yield each


Value = Text | Scalar | Items | Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field. The name of an extension or of an Any has its brackets: "[mediapipe.X.ext]".

    ``comments`` stood before it, "#" included.
    """

    name: str
    value: Value
    comments: tuple[str, ...] = ()


def replace_field(message: Message, name: str, value: Value) -> Message:
    """``message`` with exactly one field ``name``: in the place of the first one, or at the end."""
    kept: list[Field] = []
    placed = False
    for each in message.fields:
        if each.name != name:
            kept.append(each)
        elif not placed:
            kept.append(Field(name=name, value=value, comments=each.comments))
            placed = True
    if not placed:
        kept.append(Field(name=name, value=value))
    return Message(fields=tuple(kept), comments=message.comments)


def parse_pbtxt(text: str) -> Message:
    """The message that ``text`` spells.

    Raises InputError with line and column. The grammar is that of
    protobuf.dev/reference/protobuf/textformat-spec; names are not checked against a schema.
    """
    if len(text) > MAX_CHARS:
        raise InputError(f"must have at most {MAX_CHARS} characters, not {len(text)}")
    return _Parser(text).read_fields("", 0)


def render_pbtxt(message: Message) -> str:
    """Canonical text of ``message``: a field per line, two spaces per level; the same for equal values."""
    return "".join(f"{line}\n" for line in _message_lines(message, ""))


_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
    |(?P<number>(?:0[xX][0-9a-fA-F]+|(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?[fF]?)(?![\w.]))
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<mark>[{}<>\[\]:,;/.\-])""",
    re.VERBOSE,
)
_BLANK = re.compile(r"[ \t\r\n\v\f]+|#[^\n]*")
_PIECE = re.compile(
    r"(?P<text>[^\\]+)|\\(?:(?P<octal>[0-7]{1,3})|[xX](?P<hex>[0-9a-fA-F]{1,2})|u(?P<u4>[0-9a-fA-F]{4})"
    r"""|U(?P<u8>[0-9a-fA-F]{8})|(?P<plain>[abfnrtv?"'\\])|(?P<unknown>))"""
)
_PLAIN = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_FLOAT_NAMES = ("inf", "infinity", "nan")
_CLOSING = {"{": "}", "<": ">"}
_OUT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


class _Parser:
    """One token of look-ahead: ``kind``, ``token`` and ``start``, and the comments before it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.end = 0
        self.comments: list[str] = []
        self.advance()

    def advance(self) -> None:
        position = self.end
        while True:
            blank = _BLANK.match(self.text, position)
            if blank is None:
                break
            if blank[0].startswith("#"):
                self.comments.append(blank[0].rstrip())
            position = blank.end()
        self.start = position
        match = _TOKEN.match(self.text, position)
        if match is None:
            self.kind, self.token, self.end = "end", "", position
            if position < len(self.text):
                raise self.error("a token of protobuf's text format")
            return
        self.kind, self.token, self.end = match.lastgroup or "", match[0], match.end()

    def error(self, expected: str) -> InputError:
        line = self.text.count("\n", 0, self.start) + 1
        column = self.start - self.text.rfind("\n", 0, self.start)
        found = self.token or self.text[self.start : self.start + 1]
        what = repr(found[:40]) if found else "the end"
        return InputError(f"line {line}, column {column}: expected {expected}, not {what}")

    def take_mark(self, marks: str) -> str:
        """Pass one of ``marks`` when it stands here; else ""."""
        if self.kind != "mark" or self.token not in marks:
            return ""
        token = self.token
        self.advance()
        return token

    def take_comments(self) -> tuple[str, ...]:
        taken, self.comments = tuple(self.comments), []
        return taken

    def read_fields(self, closing: str, depth: int) -> Message:
        """Fields up to ``closing``, or to the end of the text for ""."""
        if depth > MAX_DEPTH:
            raise self.error(f"at most {MAX_DEPTH} messages in each other")
        fields: list[Field] = []
        while not (self.kind == "end" and not closing):
            if closing and self.kind == "mark" and self.token == closing:
                comments = self.take_comments()
                self.advance()
                return Message(fields=tuple(fields), comments=comments)
            comments = self.take_comments()
            name = self.read_name(closing)
            value = self.read_field_value(depth)
            self.take_mark(",;")
            fields.append(Field(name=name, value=value, comments=comments))
        return Message(fields=tuple(fields), comments=self.take_comments())

    def read_name(self, closing: str) -> str:
        if self.take_mark("["):
            return f"[{self.read_bracketed()}]"
        if self.kind != "name":
            raise self.error(f"a field's name or {closing!r}" if closing else "a field's name")
        name = self.token
        self.advance()
        return name

    def read_bracketed(self) -> str:
        """The name of an extension or the type URL of an Any, without the spaces it may have."""
        parts: list[str] = []
        while self.kind == "name" or (parts and self.kind == "mark" and self.token in "./-"):
            parts.append(self.token)
            self.advance()
        if not parts or not self.take_mark("]"):
            raise self.error("a type's name and ']'")
        return "".join(parts)

    def read_field_value(self, depth: int) -> Value:
        colon = self.take_mark(":")
        if not colon and not (self.kind == "mark" and self.token in "{<["):
            raise self.error("':' or '{'")
        return self.read_value(depth)

    def read_value(self, depth: int) -> Value:
        if self.kind == "string":
            return self.read_string()
        opening = self.take_mark("{<[")
        if opening == "[":
            return self.read_items(depth)
        if opening:
            return self.read_fields(_CLOSING[opening], depth + 1)
        sign = self.take_mark("-")
        if self.kind not in ("number", "name") or (
            sign and self.kind == "name" and self.token.lower() not in _FLOAT_NAMES
        ):
            raise self.error("a value")
        token = f"{sign}{self.token}"
        self.advance()
        return Scalar(token=token)

    def read_items(self, depth: int) -> Items:
        values: list[Value] = []
        if self.take_mark("]"):
            return Items(values=())
        while True:
            if self.kind == "mark" and self.token == "[":
                raise self.error("a value that is not a list")
            values.append(self.read_value(depth))
            if self.take_mark("]"):
                return Items(values=tuple(values))
            if not self.take_mark(","):
                raise self.error("',' or ']'")

    def read_string(self) -> Text:
        content = b""
        while self.kind == "string":
            content += self.unescape(self.token[1:-1])
            self.advance()
        return Text(text=content.decode("utf-8", "surrogateescape"))

    def unescape(self, quoted: str) -> bytes:
        parts = [_unescaped(match) for match in _PIECE.finditer(quoted)]
        if None in parts:
            raise self.error("a string with known escapes")
        return b"".join(part for part in parts if part is not None)


def _unescaped(match: re.Match[str]) -> bytes | None:
    """The bytes of one piece of a string, None when there is no such byte or character."""
    if match["text"]:
        return match["text"].encode("utf-8", "surrogateescape")
    if match["plain"]:
        return _PLAIN.get(match["plain"], match["plain"]).encode()
    if match["octal"] or match["hex"]:
        byte = int(match["octal"], 8) if match["octal"] else int(match["hex"], 16)
        return bytes([byte]) if byte < 256 else None
    point = int(match["u4"] or match["u8"] or "110000", 16)
    return None if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF else chr(point).encode()


def _message_lines(message: Message, indent: str) -> Iterator[str]:
    for each in message.fields:
        yield from (f"{indent}{comment}" for comment in each.comments)
        if isinstance(each.value, Message):
            yield f"{indent}{each.name} {{"
            yield from _message_lines(each.value, f"{indent}  ")
            yield f"{indent}}}"
        else:
            yield f"{indent}{each.name}: {_inline(each.value)}"
    yield from (f"{indent}{comment}" for comment in message.comments)


def _inline(value: Value) -> str:
    match value:
        case Text():
            return _quoted(value.text)
        case Scalar():
            return value.token
        case Items():
            return f"[{', '.join(_inline(each) for each in value.values)}]"
        case Message():
            fields = " ".join(f"{each.name}: {_inline(each.value)}" for each in value.fields)
            return f"{{ {fields} }}" if fields else "{}"


def _quoted(text: str) -> str:
    """``text`` as a literal in the quotes that it has none of; what cannot be printed as octal bytes."""
    quote = "'" if '"' in text and "'" not in text else '"'
    is_plain = text.isprintable() and "\\" not in text and quote not in text
    return quote + (text if is_plain else "".join(_escaped(char, quote) for char in text)) + quote


def _escaped(char: str, quote: str) -> str:
    if char == quote:
        return f"\\{char}"
    if char.isprintable() and char != "\\":
        return char
    return _OUT.get(char) or "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))
