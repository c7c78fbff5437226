# SPDX-License-Identifier: Apache-2.0
"""The verbs about the program itself."""

from pathlib import Path

import click

from ovms_scaler.ctl import output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import config_option, json_option, socket_option


@click.command()
@config_option
@json_option
@socket_option
def version(*, config_file: Path, as_json: bool, socket: Path) -> Exit:
    """Show the versions of this program and of what it works with.

    The agent's is that of the running process; it differs until it is restarted
    after an upgrade.

    \b
    Example:
      ovms-scalerctl version
      ovms-scalerctl version --json
    """
    from ovms_scaler.ctl.busy import busy
    from ovms_scaler.ctl.versions_view import read_document, show_versions

    with busy("asking programs for their version"):
        document = read_document(config_file, socket)
    if as_json:
        output.show_json(document)
    else:
        show_versions(document)
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
