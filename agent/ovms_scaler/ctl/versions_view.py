# SPDX-License-Identifier: Apache-2.0
"""Who is which version, for people and for programs."""

from pathlib import Path
from typing import Any

from ovms_scaler import __version__
from ovms_scaler.ctl import client, output, tables
from ovms_scaler.errors import ScalerError
from ovms_scaler.versions import read_versions

# An agent that is busy does not keep anybody from the other versions.
_ASK_SEC = 2.0
RESTART = "systemctl restart ovms-scaler"
_NAMES = {"ovms_scalerctl": "ovms-scalerctl", "ovms_scaler": "ovms-scaler", "python": "Python"}


def read_document(config_file: Path, socket: Path) -> dict[str, Any]:
    """The JSON of ``version --json``: each version, null where it cannot be told; then why, and warnings."""
    agent, problems = _read_agent(socket)
    versions = read_versions(config_file)
    for name, one in versions.items():
        if one.number is None:
            problems[name] = f"{one.program}: {one.why}"
    warnings = []
    if agent is not None and agent != __version__:
        warnings.append(
            f"the agent that runs is {agent}, this program is {__version__}: an upgrade is pending"
            f"\n  hint: {RESTART}"
        )
    return {
        "ovms_scalerctl": __version__,
        "ovms_scaler": agent,
        **{name: one.number for name, one in versions.items()},
        "programs": {name: one.program for name, one in versions.items()},
        "problems": problems,
        "warnings": warnings,
    }


def show_versions(document: dict[str, Any]) -> None:
    """A line for each; warnings go to standard error."""
    table = tables.make_table("", "", "")
    table.show_header = False
    for name, number in document.items():
        if name in ("programs", "problems", "warnings"):
            continue
        more = document["problems"].get(name) or document["programs"].get(name, "")
        table.add_row(tables.cell(_NAMES.get(name, name)), tables.cell(number, "bold"), tables.text(more))
    tables.show(table)
    for warning in document["warnings"]:
        output.complain(f"warning: {warning}")


def _read_agent(socket: Path) -> tuple[str | None, dict[str, str]]:
    """The version of the agent that runs, and why it cannot be told."""
    try:
        version = client.read_status(socket, timeout_sec=_ASK_SEC).get("version")
    except ScalerError as error:
        return None, {"ovms_scaler": error.message}
    if isinstance(version, str):
        return version, {}
    return None, {"ovms_scaler": "the agent does not tell: it is older than this program"}
