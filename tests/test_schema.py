# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of a table accepts and refuses what the reader does."""

import jsonschema
import pytest
from tables import BAD, Outer

from ovms_scaler.core.table import Reader, render_schema

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
    reader = Reader(lambda _: "")
    assert reader.read_table(Outer, {"name": "abc", **table}, "") is not None


@pytest.mark.parametrize(("table", "_", "in_schema"), BAD.values(), ids=BAD)
def test_the_schema_refuses_what_it_can(table: dict[str, object], _: list[str], *, in_schema: bool) -> None:
    validator = jsonschema.Draft7Validator(SCHEMA)
    assert validator.is_valid({"name": "abc", **table}) is not in_schema
