# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs have in common."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

PROGRAM = "ovms-scalerctl"
# The same as in ovms_scaler.config and ovms_scaler.ctl.client, which are not imported for --help.
CONFIG = "/etc/ovms-scaler/config.toml"
SOCKET = "/run/ovms-scaler/control.sock"

F = TypeVar("F", bound=Callable[..., Any])


def config_option(verb: F) -> F:
    """The configuration to look at."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, readable=False),
        default=CONFIG,
        show_default=True,
        metavar="FILE",
        help="Configuration; config.d/*.toml beside it is read too.",
    )(verb)


def sysroot_option(verb: F) -> F:
    """The machine to look at."""
    return click.option(
        "--sysroot",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        default="/",
        metavar="DIR",
        help="Look at DIR/sys and DIR/proc in place of this machine's (a copied host).",
    )(verb)


def json_option(verb: F) -> F:
    """For programs instead of people."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(verb)


def socket_option(verb: F) -> F:
    """Where the agent listens; for tests."""
    return click.option(
        "--socket",
        type=click.Path(path_type=Path, readable=False),
        default=SOCKET,
        envvar="OVMS_SCALER_SOCKET",
        hidden=True,
        help="Control socket of the agent.",
    )(verb)
