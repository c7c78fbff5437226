# SPDX-License-Identifier: Apache-2.0
"""Commands of ovms-scalerctl that documents tell people to type."""

import re
import shlex

import click

from ovms_scaler.ctl.main import cli
from ovms_scaler.ctl.options import PROGRAM

# In a code span it ends with the span, on a line of an example with the line, a pipe or a second command.
COMMAND = re.compile(rf"(?:^ *|`|&& ){PROGRAM} ((?:[a-z]|--)[^`|;&#\n]*)", re.MULTILINE)


def list_commands(group: click.Group = cli, prefix: str = "") -> dict[str, click.Command]:
    """Everything that can be run, by what is typed: "status", "engine install"."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= list_commands(command, f"{prefix}{name} ")
        else:
            found[f"{prefix}{name}"] = command
    return found


COMMANDS = list_commands()


def find_commands(text: str) -> list[str]:
    """What follows the program's name in each command of the text."""
    return [found.strip() for found in COMMAND.findall(text)]


def check_command(command: str) -> None:
    """Raises AssertionError when there is no such verb, or it has no such option or fewer arguments."""
    words = shlex.split(command)
    if words[0] in ("--help", "--version"):
        return
    verb = next((" ".join(words[:count]) for count in (2, 1) if " ".join(words[:count]) in COMMANDS), "")
    assert verb, f"there is no verb {words[0]!r}: {command}"
    called, words = COMMANDS[verb], words[len(verb.split()) :]
    try:
        _, rest, _ = called.make_parser(click.Context(called)).parse_args(words)
    except click.UsageError as error:
        raise AssertionError(f"{command}: {error}") from error
    assert rest == [], f"{verb} does not take {rest}: {command}"
