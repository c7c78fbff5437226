# SPDX-License-Identifier: Apache-2.0
"""The man pages say everything there is to say: keys, verbs, options, exit statuses, states."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from ovms_scaler.core import spec
from ovms_scaler.core.lifecycle import State
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.main import cli

PACKAGING = Path(__file__).parent.parent / "packaging"
PAGES = sorted((PACKAGING / "man").glob("*.md"))
SECTIONS = ("NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO")


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


def read_page(name: str) -> str:
    return (PACKAGING / "man" / name).read_text()


def read_entry(key: Key) -> str:
    """What the page says of a key, in one line."""
    heading = "## [[pool]]\n" if key.table == "pool" else f"## [{key.table}]\n"
    section = read_page("ovms-scaler.toml.5.md").partition(heading)[2].partition("\n#")[0]
    found = re.search(rf"^`{key.name}` \(.*?(?=\n`|\Z)", section, re.MULTILINE | re.DOTALL)
    assert found, f"no entry for {key.name} below {heading.strip()}"
    return " ".join(found[0].split())


EVERY_KEY = pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.table}.{key.name}")


@EVERY_KEY
def test_every_key_has_its_description_and_an_example(key: Key) -> None:
    entry = read_entry(key)
    assert key.schema["description"] in entry
    assert f"Example: `{key.name} = " in entry


@EVERY_KEY
def test_every_key_has_its_default_its_range_and_its_choices(key: Key) -> None:
    entry = read_entry(key)
    if "default" in key.schema and key.schema["default"] != []:
        assert f"Default: `{json.dumps(key.schema['default'])}`" in entry
    if "minimum" in key.schema:
        assert f"{key.schema['minimum']:g} to {key.schema['maximum']:.10g}" in entry
    for choice in key.schema.get("enum", ()):
        assert f'`"{choice}"`' in entry


@EVERY_KEY
def test_every_key_with_a_unit_names_it(key: Key) -> None:
    for suffix, unit in (("_sec", "seconds"), ("_bytes", "bytes")):
        if key.name.endswith(suffix):
            assert f" of {unit}," in read_entry(key)


def test_no_key_is_described_that_does_not_exist() -> None:
    described = re.findall(r"^`(\w+)` \(", read_page("ovms-scaler.toml.5.md"), re.MULTILINE)
    assert sorted(described) == sorted(key.name for key in KEYS)


@EVERY_KEY
def test_every_key_is_in_the_shipped_configuration(key: Key) -> None:
    assert re.search(rf"^#{key.name} = ", (PACKAGING / "config.toml").read_text(), re.MULTILINE)


@pytest.mark.parametrize("verb", [name for name, command in cli.commands.items() if not command.hidden])
def test_every_verb_is_described_with_its_options(verb: str) -> None:
    page = read_page("ovms-scalerctl.8.md").replace("\\-", "-")
    entry = re.search(rf"^\*\*{verb}\*\*.*?\n:   ", page, re.MULTILINE | re.DOTALL)
    assert entry, f"no entry for {verb}"
    for parameter in cli.commands[verb].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert f"**{option}**" in entry[0]


def test_every_exit_status_is_described() -> None:
    section = read_page("ovms-scalerctl.8.md").partition("# EXIT STATUS\n")[2].partition("\n# ")[0]
    assert [int(number) for number in re.findall(r"^(\d+)\n:", section, re.MULTILINE)] == sorted(Exit)


def test_every_state_is_described() -> None:
    section = read_page("ovms-scaler.8.md").partition("# INSTANCES\n")[2].partition("\n# ")[0]
    assert {state.value for state in State} <= set(re.findall(r"\*\*([a-z]+)\*\*", section))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_has_the_usual_sections(page: Path) -> None:
    text = page.read_text()
    assert text.startswith("---\ntitle: ")
    assert "SPDX-License-Identifier: Apache-2.0" in text
    headings = re.findall(r"^# (.+)$", text, re.MULTILINE)
    assert [heading for heading in headings if heading in SECTIONS] == list(SECTIONS)
    title, _, section = page.name.removesuffix(".md").rpartition(".")
    assert f"title: {title.upper()}\nsection: {section}\n" in text
    assert f"# NAME\n\n{title}" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_of_ours_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"\*\*(ovms[\w@.-]*)\*\*\((\d)\)", page.read_text())
    assert named
    assert {f"{name}.{section}.md" for name, section in named} <= {one.name for one in PAGES}
