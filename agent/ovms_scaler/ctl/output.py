# SPDX-License-Identifier: Apache-2.0
"""Where everything that is printed goes: data to standard output, messages to standard error."""

import re
import sys

import click

# C0 and C1 controls but tab and newline, and what reorders the text after it.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with control characters as escapes: what stands in a file must not steer the terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def show(text: str) -> None:
    """Lines for standard output, never wrapped."""
    click.echo(printable(text))


def show_json(document: object, *, indent: int | None = 2) -> None:
    """A document for programs; with ``indent`` None on one line."""
    import json

    click.echo(json.dumps(document, indent=indent))


def complain(text: str) -> None:
    """A message for standard error; on a terminal its words are not cut at the right margin."""
    shown = printable(text)
    click.echo(_wrap(shown) if sys.stderr.isatty() else shown, err=True)


def _wrap(text: str) -> str:
    """The lines folded between words, continued below where the line itself begins."""
    import shutil
    import textwrap

    width = shutil.get_terminal_size().columns - 1
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())] + "  "
        folded = textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        lines += folded if len(line) > width else [line]
    return "\n".join(lines)


def is_terminal() -> bool:
    """Whether somebody looks at standard output."""
    return sys.stdout.isatty()
