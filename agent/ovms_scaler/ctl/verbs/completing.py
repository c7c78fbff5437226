# SPDX-License-Identifier: Apache-2.0
"""The verbs that shells use, and their makers; nobody else has to know them."""

from pathlib import Path

import click

from ovms_scaler.ctl import output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import config_option, socket_option

SHELLS = ("bash", "zsh", "fish")
KINDS = ("names", "instances", "pools", "releases", "checks")


@click.command(hidden=True)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(*, shell: str) -> Exit:
    """Print the completion of a shell, as in packaging/completion.

    \b
    Example:
      python3 -m ovms_scaler.ctl completion fish | source
    """
    from ovms_scaler.ctl.completion.bash import render_bash
    from ovms_scaler.ctl.completion.fish import render_fish
    from ovms_scaler.ctl.completion.tree import read_tree
    from ovms_scaler.ctl.completion.zsh import render_zsh
    from ovms_scaler.ctl.main import cli

    render = {"bash": render_bash, "zsh": render_zsh, "fish": render_fish}[shell]
    output.show(render(read_tree(cli)).rstrip("\n"))
    return Exit.good


@click.command(hidden=True)
@click.argument("kind", type=click.Choice(KINDS))
@config_option
@socket_option
def names(*, kind: str, config_file: Path, socket: Path) -> Exit:
    """Print words that a shell may complete, each with a description.

    Of instances those that the agent knows; while it is away those that have files,
    and the pools of the configuration.

    \b
    Example:
      ovms-scalerctl names instances
    """
    from ovms_scaler.ctl.completion.names import list_names

    for name, description in list_names(kind, config_file, socket):
        output.show(f"{name}\t{description}" if description else name)
    return Exit.good


VERBS = (completion, names)
