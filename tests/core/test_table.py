# SPDX-License-Identifier: Apache-2.0
"""Tables described as data: what is read, every message for what is not, and the schema."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import jsonschema
import pytest

from ovms_scaler.core.table import Reader, key, render_schema

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


def read(**table: object) -> tuple[Outer | None, list[str]]:
    reader = Reader(lambda _: "f.toml")
    found = reader.read_table(Outer, table, "")
    return found, [str(problem) for problem in reader.problems]


def test_a_whole_table_is_read() -> None:
    found, problems = read(
        name="abc", code="wxyz", ratio=2, is_on=True, colour="green", words=["a", "b c"],
        pairs={"z": "1", "a": ""}, inner={"size": 9}, inners=[{}, {"size": 1}],
    )  # fmt: skip
    assert problems == []
    assert found == Outer(
        name="abc", code="wxyz", ratio=2.0, is_on=True, colour=Colour.green, words=("a", "b c"),
        pairs={"a": "", "z": "1"}, inner=Inner(size=9), inners=(Inner(), Inner(size=1)),
    )  # fmt: skip


def test_what_is_not_given_has_its_default() -> None:
    assert read(name="abc") == (Outer(name="abc"), [])


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


@pytest.mark.parametrize(("table", "expected", "_"), BAD.values(), ids=BAD)
def test_every_mistake_is_named(table: dict[str, object], expected: list[str], *, _: bool) -> None:
    found, problems = read(**{"name": "abc", **table})
    assert found is None
    assert len(problems) == len(expected)
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(f"f.toml: {start}")


def test_a_required_key_that_is_missing_comes_with_an_example() -> None:
    assert read() == (None, ['f.toml: name: is required and missing\n  hint: for example name = "abc"'])


def test_something_else_than_a_table_is_refused() -> None:
    reader = Reader(lambda _: "")
    assert reader.read_table(Outer, [], "here") is None
    assert [str(problem) for problem in reader.problems] == ["here: must be a table, not []"]


SCHEMA = render_schema(Outer, "a title")


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["title"] == "a title"


@pytest.mark.parametrize(
    "table",
    [
        pytest.param({}, id="as little as possible"),
        pytest.param(
            {"ratio": 2, "is_on": True, "colour": "green", "words": ["x"], "pairs": {"a": "b"}},
            id="one of each",
        ),
        pytest.param({"inners": [{"size": 1}]}, id="an array of tables"),
    ],
)
def test_the_schema_accepts_what_the_reader_does(table: dict[str, object]) -> None:
    jsonschema.validate({"name": "abc", **table}, SCHEMA)
    assert read(**{"name": "abc", **table})[1] == []


@pytest.mark.parametrize(("table", "_", "in_schema"), BAD.values(), ids=BAD)
def test_the_schema_refuses_what_it_can(table: dict[str, object], _: list[str], *, in_schema: bool) -> None:
    validator = jsonschema.Draft7Validator(SCHEMA)
    assert validator.is_valid({"name": "abc", **table}) is not in_schema


def test_the_origin_of_each_key_is_asked_by_its_path() -> None:
    asked: list[str] = []

    def origin(path: str) -> str:
        asked.append(path)
        return f"{path.partition('.')[0]}.toml"

    reader = Reader(origin)
    reader.read_table(Outer, {"name": "abc", "inner": {"size": 0}}, "")
    assert asked == ["inner.size"]
    assert str(reader.problems[0]).startswith("inner.toml: inner.size: ")
