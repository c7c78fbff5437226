# SPDX-License-Identifier: Apache-2.0
"""A table with one key of each kind, and all that can be wrong in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ovms_scaler.core.table import key

OFF = False


class Colour(StrEnum):
    red = "red"
    green = "green"


def _even(value: int | str) -> str | None:
    return None if len(str(value)) % 2 == 0 else f"must have an even length, not {value!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    size: int | None = key(None, minimum=1, maximum=9, example="4", doc="A size.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: str = key(pattern="[a-z]+", rule="must be letters", example='"abc"', doc="A name.")
    code: str = key("ab", check=_even, example='"abcd"', doc="A code.")
    ratio: float = key(1.0, minimum=0.5, maximum=2, example="1.5", doc="A ratio.")
    is_on: bool = key(OFF, example="true", doc="A switch.")
    colour: Colour = key(Colour.red, example='"green"', doc="A colour.")
    words: tuple[str, ...] = key((), example='["a"]', doc="Words.")
    pairs: Mapping[str, str] = key(dict, example="{}", doc="Pairs.")
    inner: Inner = key(Inner, example="{}", doc="A table.")
    inners: tuple[Inner, ...] = key((), example="[[inners]]", doc="Tables.")


# What is wrong, the start of each message, and whether a JSON Schema can say so too.
BAD: dict[str, tuple[dict[str, Any], list[str], bool]] = {
    "number for string": ({"name": 1}, ["name: must be a string, not 1\n  hint: for example"], True),
    "pattern": ({"name": "A1"}, ["name: must be letters, not 'A1'\n  hint: for example"], True),
    "control character": (
        {"name": "abc\n"}, ["name: must not contain control characters, not 'abc\\n'"], False,
    ),
    "check": ({"code": "abc"}, ["code: must have an even length, not 'abc'\n  hint: for example"], False),
    "string for number": (
        {"ratio": "1"}, ["ratio: must be a number, not '1'\n  hint: for example 1.5"], True,
    ),
    "too small": ({"ratio": 0.4}, ["ratio: must be 0.5 or greater, not 0.4"], True),
    "too large": ({"ratio": 3}, ["ratio: must be 2 or less, not 3.0"], True),
    "not a number": ({"ratio": float("nan")}, ["ratio: must be 0.5 or greater, not nan"], False),
    "endless": ({"ratio": float("inf")}, ["ratio: must be 2 or less, not inf"], True),
    "switch for number": (
        {"ratio": True}, ["ratio: must be a number, not True\n  hint: for example 1.5"], True,
    ),
    "number for switch": (
        {"is_on": 1}, ["is_on: must be true or false, not 1\n  hint: for example true"], True,
    ),
    "switch for whole number": (
        {"inner": {"size": True}}, ["inner.size: must be a whole number, not True"], True,
    ),
    # To JSON Schema 1.0 is an integer.
    "fraction": ({"inner": {"size": 1.0}}, ["inner.size: must be a whole number, not 1.0"], False),
    "misspelt choice": (
        {"colour": "gren"},
        ["colour: must be one of 'red', 'green', not 'gren'\n  hint: did you mean \"green\"?"],
        True,
    ),
    "choice of another type": ({"colour": 7}, ["colour: must be one of 'red', 'green', not 7"], True),
    "string for array": ({"words": "a"}, ["words: must be an array of strings, not 'a'"], True),
    "number in array": (
        {"words": ["a", 1]}, ["words: must be an array of strings, not ['a', 1]"], True,
    ),
    "control character in array": (
        {"words": ["a", "\x7f"]}, ["words[1]: must not contain control characters"], False,
    ),
    "array for pairs": ({"pairs": ["a"]}, ["pairs: must be a table of strings, not ['a']"], True),
    "number in pairs": (
        {"pairs": {"a": 1}}, ["pairs: must be a table of strings, not {'a': 1}"], True,
    ),
    "line break in pairs": (
        {"pairs": {"a": "x\ny"}}, ["pairs.a: must not contain control characters, not 'x\\ny'"], False,
    ),
    "number for table": ({"inner": 1}, ["inner: must be a table, not 1"], True),
    "table for array of tables": (
        {"inners": {"size": 1}},
        ["inners: must be an array of tables, not {'size': 1}\n  hint: write [[inners]]"],
        True,
    ),
    "number in array of tables": ({"inners": [1]}, ["inners[0]: must be a table, not 1"], True),
    "misspelt key": (
        {"naem": 1}, ['naem: is not a key of this table\n  hint: did you mean "name"?'], True,
    ),
    "unknown key": (
        {"inner": {"what": 1}}, ["inner.what: is not a key of this table\n  hint: known here: size"], True,
    ),
    "everything at once": (
        {"ratio": 9, "inners": [{}, {"size": 0}], "zzz": 1},
        ["ratio: must be 2 or less", "inners[1].size: must be 1 or greater", "zzz: is not a key"],
        True,
    ),
}  # fmt: skip
