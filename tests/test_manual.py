# SPDX-License-Identifier: Apache-2.0
"""The man page of the configuration says everything of every key, and nothing else."""

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_machines
import jsonschema
import machines
import pytest
from manual import flatten, read_page, read_part, split_entries

from ovms_scaler.config import read_config
from ovms_scaler.core import spec
from ovms_scaler.offline import preview_target

SHIPPED = Path(__file__).parent.parent / "packaging" / "config.toml"
KINDS = {"string": "string", "boolean": "boolean", "integer": "whole number", "number": "number"}
UNITS = {"_sec": " of seconds", "_bytes": " of bytes", "cache_size": " of GB"}
# What an entry says of a key that has no default of its own.
WITHOUT_DEFAULT = re.compile(r"[Bb]y default|\bRequired\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of the configuration as its schema has it; ``table`` is the heading it stands below."""

    table: str
    name: str
    schema: dict[str, Any]


def read_keys(table: str, schema: dict[str, Any]) -> list[Key]:
    keys: list[Key] = []
    for name, value in schema["properties"].items():
        below = f"{table}.{name}" if table else name
        if "items" in value and "properties" in value["items"]:
            keys += read_keys(below, value["items"])
        elif "properties" in value:
            keys += read_keys(below, value)
        else:
            keys.append(Key(table=table, name=name, schema=value))
    return keys


KEYS = read_keys("", dict(spec.schema()))
EVERY_KEY = pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.table}.{key.name}")


def heading_of(table: str) -> str:
    return "## [[pool]]" if table == "pool" else f"## [{table}]"


def read_entry(key: Key) -> tuple[str, str]:
    """The kind that the page says a key has, and what it says of it, in one line."""
    for term, text in split_entries(read_part("ovms-scaler.toml.5.md", heading_of(key.table))).items():
        if found := re.fullmatch(rf"`{key.name}` \((.*)\)", term):
            return found[1], flatten(text)
    raise AssertionError(f"no entry for {key.name} below {heading_of(key.table)}")


def render_kind(key: Key) -> str:
    """The kind of a key in the words of the page: its type, unit and range, or its choices."""
    schema = key.schema
    if "enum" in schema:
        return "one of " + ", ".join(f'`"{choice}"`' for choice in schema["enum"])
    if schema["type"] in ("array", "object"):
        return {"array": "array of strings", "object": "table of strings"}[schema["type"]]
    unit = next((words for suffix, words in UNITS.items() if key.name.endswith(suffix)), "")
    has_range = "minimum" in schema
    values = f", {schema['minimum']:g} to {schema['maximum']:.10g}" if has_range else ""
    return KINDS[schema["type"]] + unit * has_range + values


@EVERY_KEY
def test_every_key_has_its_type_with_unit_and_range(key: Key) -> None:
    assert read_entry(key)[0] == render_kind(key)


@EVERY_KEY
def test_every_key_has_its_description(key: Key) -> None:
    assert key.schema["description"] in read_entry(key)[1].replace("`", "")


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> spec.Spec:
    """A configuration that gives nothing but what is required."""
    file = tmp_path_factory.mktemp("smallest") / "config.toml"
    file.write_text('[[pool]]\nname = "a"\nmodel_name = "a"\nmodel_path = "/a"\n')
    return read_config(file).spec


def read_default(key: Key, smallest: spec.Spec) -> object:
    """What holds when the key is not given: the schema does not tell it of arrays and tables."""
    value: Any = smallest
    for name in (*key.table.split("."), key.name):
        value = getattr(value[0] if isinstance(value, tuple) else value, name)
    return list(value) if isinstance(value, tuple) else value


@EVERY_KEY
def test_every_key_has_its_default_or_says_what_holds_without_it(key: Key, smallest: spec.Spec) -> None:
    _, text = read_entry(key)
    if key.schema["type"] == "object":
        assert read_default(key, smallest) == {}
        assert "Default: none." in text
    elif key.schema["type"] == "array":
        assert f"Default: `{json.dumps(read_default(key, smallest))}`." in text
    elif "default" in key.schema:
        assert f"Default: `{json.dumps(key.schema['default'])}`." in text
    else:
        assert "Default:" not in text
        # The heading says it of all options of the graph.
        assert WITHOUT_DEFAULT.search(text) or key.table == "pool.graph"


@EVERY_KEY
def test_every_key_has_a_valid_example(key: Key) -> None:
    found = re.search(rf"Example: `({key.name} = .*)`$", read_entry(key)[1])
    assert found
    jsonschema.validate(tomllib.loads(found[1])[key.name], key.schema)


@pytest.mark.parametrize("table", sorted({key.table for key in KEYS}))
def test_no_key_is_described_that_a_table_does_not_have(table: str) -> None:
    described = re.findall(
        r"^`(\w+)` \(", read_part("ovms-scaler.toml.5.md", heading_of(table)), re.MULTILINE
    )
    assert sorted(described) == sorted(key.name for key in KEYS if key.table == table)


def test_no_table_is_described_that_does_not_exist() -> None:
    headings = re.findall(r"^## .*", read_page("ovms-scaler.toml.5.md"), re.MULTILINE)
    assert sorted(headings) == sorted({heading_of(key.table) for key in KEYS})


@EVERY_KEY
def test_every_key_is_in_the_shipped_configuration(key: Key) -> None:
    assert re.search(rf"^#{key.name} = ", SHIPPED.read_text(), re.MULTILINE)


def read_examples() -> Iterator[str]:
    part = read_part("ovms-scaler.toml.5.md", "# EXAMPLES")
    for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", part, re.MULTILINE):
        yield re.sub(r"^    ", "", block, flags=re.MULTILINE)


@pytest.mark.parametrize("example", list(read_examples()))
def test_examples_are_accepted_on_a_machine_that_fits(example: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(example)
    config = read_config(file)
    machine = gpu_machines.four_b580 if re.search('"(gpu|hetero)"', example) else machines.xeon_6972p_2s
    if not config.spec.proxy.api_key_file:  # which would have to be there
        preview_target(config, machine(tmp_path / "machine"))
