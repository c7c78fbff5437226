# SPDX-License-Identifier: Apache-2.0
"""Tables described as data: what is read, and every message for what is not."""

import pytest
from tables import BAD, Colour, Inner, Outer

from ovms_scaler.core.table import Reader


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


def test_the_origin_of_each_key_is_asked_by_its_path() -> None:
    asked: list[str] = []

    def origin(path: str) -> str:
        asked.append(path)
        return f"{path.partition('.')[0]}.toml"

    reader = Reader(origin)
    reader.read_table(Outer, {"name": "abc", "inner": {"size": 0}}, "")
    assert asked == ["inner.size"]
    assert str(reader.problems[0]).startswith("inner.toml: inner.size: ")
