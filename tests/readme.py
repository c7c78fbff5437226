# SPDX-License-Identifier: Apache-2.0
"""README.md as its readers use it: sections, and blocks to copy from them."""

import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
FIRST_PAGE = "From a bare host to a served model"
# The line above each block that the test of the first page does not type.
MARK = "*Not typed by the test, which has no network:*"
# OVMS puts a model in the directory of its name below the repository.
PULL = re.compile(
    r"/bin/ovms --pull .*--source_model (?P<name>\S+) --model_name (?P=name) "
    r"--model_repository_path (?P<repository>\S+)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block; ``is_marked`` is one that is not typed."""

    language: str
    lines: tuple[str, ...]
    is_marked: bool

    @property
    def text(self) -> str:
        """The lines as they are copied."""
        return "".join(line + "\n" for line in self.lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What clients call it, and where it lies."""

    name: str
    path: str


def read_section(heading: str) -> str:
    """What stands below a heading of the second level. Raises LookupError when there is no such heading."""
    _, found, rest = README.read_text().partition(f"\n## {heading}\n")
    if not found:
        raise LookupError(f"README.md has no section {heading!r}")
    return rest.partition("\n## ")[0]


def parse_blocks(section: str) -> list[Block]:
    """The fenced blocks of a section, in their order."""
    blocks: list[Block] = []
    above, language, lines = "", "", list[str]()
    is_inside = False
    for line in section.splitlines():
        if is_inside and line == "```":
            blocks.append(Block(language=language, lines=tuple(lines), is_marked=above == MARK))
            is_inside, above = False, ""
        elif is_inside:
            lines.append(line)
        elif line.startswith("```"):
            is_inside, language, lines = True, line.removeprefix("```"), []
        elif line:
            above = line
    return blocks


def read_first_page() -> list[Block]:
    """The blocks of the first page."""
    return parse_blocks(read_section(FIRST_PAGE))


def read_model() -> Model:
    """The model that the first page pulls. Raises LookupError when it pulls none."""
    for block in read_first_page():
        found = PULL.search(block.text)
        if found is not None:
            return Model(name=found["name"], path=f"{found['repository']}/{found['name']}")
    raise LookupError("README.md pulls no model")
