# SPDX-License-Identifier: Apache-2.0
"""The verb that shows what instances do and use."""

import math
from pathlib import Path

import click

from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import json_option, socket_option

INTERVAL_SEC = 2.0


@click.command()
@click.option("--once", is_flag=True, help="Show it once, all of it.")
@click.option(
    "--interval",
    "interval_sec",
    type=click.FloatRange(min=0.1, max=3600),
    default=INTERVAL_SEC,
    show_default=True,
    metavar="SEC",
    help="Seconds from one look to the next.",
)
@json_option
@socket_option
def top(*, once: bool, interval_sec: float, as_json: bool, socket: Path) -> Exit:
    """Show live what instances do and use, and who is not ready.

    Rates are those of the last ten seconds. Requests are those that infer; of an
    instance also those that another one was asked for afterwards. What is not known
    is a dash. Who is not ready is explained, with the next command to type.

    On a terminal q or Ctrl-C ends it; space and b turn pages. In a pipe it prints
    plain tables, and with --json one document in each line.

    \b
    Example:
      ovms-scalerctl top
      ovms-scalerctl top --once
      ovms-scalerctl top --once --json | jq '.front.requests_per_sec'
    """
    if math.isnan(interval_sec):
        raise click.BadParameter("must be a number of seconds", param_hint="--interval")
    from ovms_scaler.ctl import top as running
    from ovms_scaler.ctl.client import read_measures, read_status

    def read() -> running.Seen:
        return running.Seen(measures=read_measures(socket), status=read_status(socket))

    if once:
        running.show_once(read, as_json=as_json)
    else:
        running.show_live(read, interval_sec=interval_sec, as_json=as_json)
    return Exit.good


VERBS = (top,)
