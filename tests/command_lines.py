# SPDX-License-Identifier: Apache-2.0
"""Commands of ovms-scalerctl that documents tell people to type."""

import re
import shlex

import click

from ovms_scaler.ctl.main import cli
from ovms_scaler.ctl.options import PROGRAM

# In a code span it ends with the span, on a line of an example with the line, a pipe or a second command.
COMMAND = re.compile(rf"(?:^ *|`|&& ){PROGRAM} ((?:[a-z]|--)[^`|;&#\n]*)", re.MULTILINE)


def find_commands(text: str) -> list[str]:
    """What follows the program's name in each command of the text."""
    return [found.strip() for found in COMMAND.findall(text)]


def check_command(command: str) -> None:
    """Raises AssertionError when there is no such verb, or it has no such option or fewer arguments."""
    verb, *words = shlex.split(command)
    if verb in ("--help", "--version"):
        return
    assert verb in cli.commands, f"there is no verb {verb!r}: {command}"
    called = cli.commands[verb]
    try:
        _, rest, _ = called.make_parser(click.Context(called)).parse_args(words)
    except click.UsageError as error:
        raise AssertionError(f"{command}: {error}") from error
    assert rest == [], f"{verb} does not take {rest}: {command}"
