# SPDX-License-Identifier: Apache-2.0
"""The verbs about the program itself."""

import click

from ovms_scaler import __version__
from ovms_scaler.ctl import output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import PROGRAM


@click.command()
def version() -> Exit:
    """Show the version.

    \b
    Example:
      ovms-scalerctl version
    """
    output.show(f"{PROGRAM} {__version__}")
    return Exit.good


@click.command(hidden=True)
def schema() -> Exit:
    """Print the JSON Schema of the configuration, as in packaging/config.schema.json.

    \b
    Example:
      python3 -m ovms_scaler.ctl schema >packaging/config.schema.json
    """
    from ovms_scaler.core import spec

    output.show_json(spec.schema())
    return Exit.good


VERBS = (version, schema)
