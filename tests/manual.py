# SPDX-License-Identifier: Apache-2.0
"""The man pages as they are written, in Markdown for pandoc(1)."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "packaging" / "man").glob("*.md"))
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read_page(name: str) -> str:
    return (ROOT / "packaging" / "man" / name).read_text()


def read_part(name: str, heading: str) -> str:
    """What stands below a heading of a page, up to the next one of any level."""
    _, found, rest = read_page(name).partition(f"\n{heading}\n")
    assert found, f"{name} has no {heading!r}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def split_entries(part: str) -> dict[str, str]:
    """The entries of a definition list, by what is defined."""
    return dict(re.findall(r"^(\S[^\n]*)\n:   (.*?)(?=^\S|\Z)", part, re.MULTILINE | re.DOTALL))


def flatten(text: str) -> str:
    return " ".join(text.split())
