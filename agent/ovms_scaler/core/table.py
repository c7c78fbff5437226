# SPDX-License-Identifier: Apache-2.0
"""Configuration tables as data: one description of a key drives parsing, schema and manual."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from ovms_scaler.errors import Problem

T = TypeVar("T")
MAX_SHOWN = 200  # characters of a wrong value that a message repeats
_TYPE_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
_SCHEMA_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What the type of a configuration key does not say.

    ``doc`` is the sentence for the manual, with units; ``pattern`` a regular expression that the whole
    string must match and ``rule`` how to say so ("must be ..."); ``check`` returns a rule that the
    value breaks.
    """

    doc: str
    example: str
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    rule: str | None = None
    check: Callable[[Any], str | None] | None = None


def key(default: object = dataclasses.MISSING, **facts: Any) -> Any:
    """A dataclass field that is a configuration key; without ``default`` the key is required.

    A ``default`` that is a type is called for each value: ``dict``, or the dataclass of a sub-table.
    """
    metadata = {"key": Key(**facts)}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Reader:
    """Reads tables and collects every problem instead of stopping at the first."""

    def __init__(self, origin: Callable[[str], str]) -> None:
        """``origin`` tells which file a key path stands in."""
        self._origin = origin
        self.problems: list[Problem] = []
        self.tables: dict[str, object] = {}  # those in which nothing is wrong, by path

    def problem(self, path: str, rule: str, hint: str | None = None) -> None:
        self.problems.append(Problem(file=self._origin(path), key=path, rule=rule, hint=hint))

    def read_table(self, cls: Callable[..., T], table: object, path: str) -> T | None:
        """The dataclass ``cls`` from a TOML table, or None when something in it is wrong."""
        if not isinstance(table, Mapping):
            self.problem(path, f"must be a table, not {_shown(table)}")
            return None
        known = {field.name: field for field in _fields(cls)}
        hints = typing.get_type_hints(cls)
        found: dict[str, object] = {}
        before = len(self.problems)
        for name, value in table.items():
            here = f"{path}.{name}" if path else name
            if name not in known:
                self._unknown(here, name, known)
            else:
                found[name] = self._read(hints[name], known[name].metadata["key"], value, here)
        for name, field in known.items():
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and name not in table:
                here = f"{path}.{name}" if path else name
                self.problem(
                    here, "is required and missing", f"for example {name} = {field.metadata['key'].example}"
                )
        if len(self.problems) != before:
            return None
        read = cls(**found)
        self.tables[path] = read
        return read

    def _unknown(self, here: str, name: str, known: Iterable[str]) -> None:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(sorted(known))}"
        self.problem(here, "is not a key of this table", hint)

    def _read(self, kind: Any, facts: Key, value: object, here: str) -> object:
        kind = _without_none(kind)
        origin = typing.get_origin(kind)
        if dataclasses.is_dataclass(kind):
            return self.read_table(typing.cast(type, kind), value, here)
        if origin is tuple and dataclasses.is_dataclass(typing.get_args(kind)[0]):
            return self._read_tables(typing.get_args(kind)[0], value, here)
        if origin is tuple:
            return self._read_strings(value, facts, here)
        if origin is not None and issubclass(origin, Mapping):
            return self._read_pairs(value, facts, here)
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            return self._read_choice(kind, value, here)
        return self._read_scalar(kind, facts, value, here)

    def _read_tables(self, cls: type[T], value: object, here: str) -> tuple[T, ...]:
        if not isinstance(value, list):
            self.problem(here, f"must be an array of tables, not {_shown(value)}", f"write [[{here}]]")
            return ()
        read = (self.read_table(cls, table, f"{here}[{index}]") for index, table in enumerate(value))
        return tuple(table for table in read if table is not None)

    def _read_strings(self, value: object, facts: Key, here: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.problem(
                here, f"must be an array of strings, not {_shown(value)}", f"for example {facts.example}"
            )
            return ()
        for index, item in enumerate(value):
            self._check_string(facts, item, f"{here}[{index}]")
        return tuple(value)

    def _read_pairs(self, value: object, facts: Key, here: str) -> Mapping[str, str]:
        if not isinstance(value, Mapping) or not all(isinstance(item, str) for item in value.values()):
            self.problem(here, f"must be a table of strings, not {_shown(value)}")
            return {}
        for name, item in value.items():
            self._check_string(facts, item, f"{here}.{name}")
        return dict(sorted(value.items()))

    def _read_choice(self, kind: type[StrEnum], value: object, here: str) -> object:
        choices = [choice.value for choice in kind]
        if not isinstance(value, str) or value not in choices:
            close = difflib.get_close_matches(value if isinstance(value, str) else "", choices, n=1)
            self.problem(
                here,
                f"must be one of {', '.join(map(repr, choices))}, not {_shown(value)}",
                f'did you mean "{close[0]}"?' if close else None,
            )
            return None
        return kind(value)

    def _read_scalar(self, kind: type, facts: Key, value: object, here: str) -> object:
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            self.problem(
                here, f"must be {_TYPE_NAMES[kind]}, not {_shown(value)}", f"for example {facts.example}"
            )
            return None
        if isinstance(value, str):
            self._check_string(facts, value, here)
        elif isinstance(value, int | float):
            self._check_range(facts, value, here)
        return value

    def _check_string(self, facts: Key, value: str, here: str) -> None:
        if any(ord(char) < 32 or ord(char) == 127 for char in value):
            self.problem(here, f"must not contain control characters, not {_shown(value)}")
        elif facts.pattern is not None and re.fullmatch(facts.pattern, value) is None:
            self.problem(here, f"{facts.rule}, not {_shown(value)}", f"for example {facts.example}")
        elif facts.check is not None and (rule := facts.check(value)) is not None:
            self.problem(here, rule, f"for example {facts.example}")

    def _check_range(self, facts: Key, value: float, here: str) -> None:
        if facts.minimum is not None and not value >= facts.minimum:
            self.problem(here, f"must be {facts.minimum:g} or greater, not {_shown(value)}")
        elif facts.maximum is not None and not value <= facts.maximum:
            self.problem(here, f"must be {facts.maximum:g} or less, not {_shown(value)}")


def render_schema(cls: type, title: str) -> dict[str, object]:
    """The JSON Schema (draft-07, which editors' TOML language servers read) of a configuration table."""
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": title, **_table_schema(cls)}


def _table_schema(cls: Any) -> dict[str, object]:
    hints = typing.get_type_hints(cls)
    fields = _fields(cls)
    required = [
        f.name
        for f in fields
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    properties = {f.name: _key_schema(hints[f.name], f.metadata["key"], f.default) for f in fields}
    schema: dict[str, object] = {"type": "object", "additionalProperties": False, "properties": properties}
    return schema | ({"required": required} if required else {})


def _key_schema(kind: Any, facts: Key, default: object) -> dict[str, object]:
    kind = _without_none(kind)
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _table_schema(kind) | {"description": facts.doc}
    schema: dict[str, object] = {"description": facts.doc}
    string = {"type": "string"} | ({"pattern": f"^(?:{facts.pattern})$"} if facts.pattern else {})
    if origin is tuple and dataclasses.is_dataclass(typing.get_args(kind)[0]):
        return schema | {"type": "array", "items": _table_schema(typing.get_args(kind)[0])}
    if origin is tuple:
        return schema | {"type": "array", "items": string}
    if origin is not None and issubclass(origin, Mapping):
        return schema | {"type": "object", "additionalProperties": {"type": "string"}}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        schema |= {"type": "string", "enum": [choice.value for choice in kind]}
    elif kind is str:
        schema |= string
    else:
        schema |= {"type": _SCHEMA_TYPES[kind]}
        schema |= {} if facts.minimum is None else {"minimum": facts.minimum}
        schema |= {} if facts.maximum is None else {"maximum": facts.maximum}
    return schema | ({} if default in (None, dataclasses.MISSING) else {"default": default})


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _shown(value: object) -> str:
    """The value for a message; one that is too long, too deep or too large a number is cut or named."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return "one too large to show"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _without_none(kind: Any) -> Any:
    """``X`` for ``X | None``: an optional key that is given must have its type."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind
