# SPDX-License-Identifier: Apache-2.0
"""The verbs that ask the agent."""

from pathlib import Path

import click

from ovms_scaler.ctl import output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import json_option, socket_option


@click.command()
@json_option
@click.option("--watch", "again", is_flag=True, help="Go on until interrupted, with every change.")
@socket_option
def status(*, as_json: bool, again: bool, socket: Path) -> Exit:
    """Show who serves, and why the others do not.

    Ends with 0 when every wanted instance is in rotation and nothing hinders the
    agent, with 1 when not, and with 3 when the agent cannot be reached.

    \b
    Example:
      ovms-scalerctl status
      ovms-scalerctl status --watch
      ovms-scalerctl status --json | jq '.instances[].state'
    """
    from ovms_scaler.core.news import is_good
    from ovms_scaler.ctl.busy import busy
    from ovms_scaler.ctl.client import read_status

    if again:
        from ovms_scaler.ctl.watch import watch

        watch(lambda: read_status(socket), as_json=as_json)
    with busy("waiting for the agent's answer"):
        document = read_status(socket)
    if as_json:
        output.show_json(document)
    else:
        from ovms_scaler.ctl.status_view import show_status

        show_status(document)
    return Exit.good if is_good(document) else Exit.bad_news


VERBS = (status,)
