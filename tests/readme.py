# SPDX-License-Identifier: Apache-2.0
"""README.md as its readers use it: sections, and blocks to copy from them."""

import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
FIRST_PAGE = "From a bare host to a served model"
# The line above each block that the test of the first page does not type.
MARK = "*Not typed by the test, which has no network:*"
CONFIGURATION = re.compile(r"^cat >/etc/ovms-scaler/config\.toml <<'EOF'\n(.*?)^EOF$", re.M | re.S)


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


def read_configuration() -> str:
    """The configuration that the first page writes. Raises LookupError when it writes none."""
    for block in read_first_page():
        found = CONFIGURATION.search(block.text)
        if found is not None:
            return found[1]
    raise LookupError("README.md writes no configuration")
