# SPDX-License-Identifier: Apache-2.0
"""Tables, sentences and colours, on a screen of any width."""

import os
import sys

import click
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ovms_scaler.ctl.output import is_terminal, printable

# Wide enough that nothing is folded where nobody looks: in a pipe each row is a line.
UNFOLDED = 100_000


def console(*, err: bool = False) -> Console:
    """Standard output as wide as the terminal; in colour only on one, and not with NO_COLOR set.

    ``err`` is for standard error.
    """
    folded = (sys.stderr.isatty() if err else is_terminal()) or os.environ.get("COLUMNS", "").isdigit()
    return Console(
        stderr=err,
        width=None if folded else UNFOLDED,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )


def show(*parts: RenderableType, wrap: bool = True, err: bool = False) -> None:
    """Print to standard output; what is to be copied stays on one line without ``wrap``.

    ``err`` is for standard error.
    """
    screen = console(err=err)
    with screen.capture() as captured:
        for part in parts:
            screen.print(part, soft_wrap=not wrap)
    # rich fills rows up with spaces, which programs would stumble over.
    lines = (line.rstrip(" ") for line in captured.get().split("\n"))
    click.echo("\n".join(lines), nl=False, color=True, err=err)


def make_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without rows and lines; the columns named in ``right`` hold numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def cell(value: object, style: str = "") -> Text:
    """A cell or a sentence; what is not known is a dash."""
    return Text("-" if value is None or value == "" else printable(str(value)), style=style)


def text(value: str, style: str = "") -> Text:
    """Text as it is, also when it is empty."""
    return Text(printable(value), style=style)


def indented(text: str, style: str = "", *, by: int = 2) -> Padding:
    """A sentence that keeps its indentation when it is wrapped."""
    return Padding(cell(text, style), (0, 0, 0, by), expand=False)


def stack(*parts: RenderableType) -> Group:
    """One below the other."""
    return Group(*parts)
