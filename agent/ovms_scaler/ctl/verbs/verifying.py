# SPDX-License-Identifier: Apache-2.0
"""The verb that compares the plan with what is."""

from pathlib import Path

import click

from ovms_scaler.ctl import output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import config_option, json_option, socket_option


@click.command()
@click.argument("name", metavar="[INSTANCE|POOL]", required=False)
@json_option
@config_option
@socket_option
def verify(*, name: str | None, as_json: bool, config_file: Path, socket: Path) -> Exit:
    """Compare what systemd, kernel and proxy say with the plan.

    Of each instance: its threads' CPUs and memory nodes, where its memory really
    is, its control group, what systemd read in its files and the files themselves,
    its command line and environment, where it listens, and the GPUs it has open;
    of the proxy its configuration, its routes and what it runs with.

    Ends with 0 when nothing is other than planned, and with 1 when anything is.
    What only root may look at is left out for others, and named.

    \b
    Example:
      ovms-scalerctl verify
      ovms-scalerctl verify chat-numa0 --json | jq '.drifts[]'
    """
    from ovms_scaler.ctl import verify_view
    from ovms_scaler.ctl.busy import busy
    from ovms_scaler.ctl.client import read_status
    from ovms_scaler.errors import UnreachableError
    from ovms_scaler.verification import verify as compare

    status = None
    try:
        with busy("waiting for the agent's answer"):
            status = read_status(socket)
    except UnreachableError as error:
        output.complain(f"note: {error.message}; compared with what it planned last")
    with busy("looking"):
        report = compare(config_file, name, status)
    if as_json:
        output.show_json(verify_view.report_document(report))
    else:
        from ovms_scaler.ctl import tables

        tables.show(verify_view.render_report(report))
    return Exit.bad_news if report.drifts else Exit.good


VERBS = (verify,)
