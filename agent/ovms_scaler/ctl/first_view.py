# SPDX-License-Identifier: Apache-2.0
"""What ``init`` has to say of the configuration that it wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from ovms_scaler.core.first_config import First
from ovms_scaler.core.model import ModelKind
from ovms_scaler.ctl import client, output, tables
from ovms_scaler.ctl.judgement import list_warnings
from ovms_scaler.ctl.options import CONFIG, PROGRAM
from ovms_scaler.errors import ScalerError
from ovms_scaler.first import Draft, Findings

# Whether an agent runs decides what to type next, and is not worth waiting for.
_ASK_SEC = 1.0
MAX_INSTANCES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A configuration that was written, or only shown when ``file`` is None.

    ``kept`` is where the one before it is now; ``next`` are commands.
    """

    file: Path | None
    kept: Path | None
    first: First
    found: Findings
    draft: Draft
    next: tuple[str, ...]


def read_next(file: Path, socket: Path) -> tuple[str, ...]:
    """The commands to type after the configuration was written."""
    if file.absolute() != Path(CONFIG):
        return (f"{PROGRAM} check-config {file}", f"{PROGRAM} plan --config {file} --no-diff")
    start: tuple[str, ...] = ("systemctl enable --now ovms-scaler", f"{PROGRAM} status --watch")
    try:
        client.read_status(socket, timeout_sec=_ASK_SEC)
        start = (f"{PROGRAM} reload --wait",)
    except ScalerError:
        pass
    return (f"{PROGRAM} check-config", f"{PROGRAM} plan --no-diff", *start)


def written_document(written: Written) -> dict[str, object]:
    """The JSON of ``init --json``."""
    first, draft = written.first, written.draft
    return {
        "file": str(written.file) if written.file is not None else None,
        "kept": str(written.kept) if written.kept is not None else None,
        "text": draft.text,
        "model": {
            "path": first.model.path,
            "name": first.model_name,
            "weights_bytes": first.model.weights_bytes,
        },
        "placement": first.where.value,
        "listen": first.listen,
        "binary": first.binary,
        "instances": [one.id for one in draft.target.instances],
        "warnings": _list_warnings(written),
        "next": list(written.next),
    }


def show_written(written: Written) -> None:
    """Print the text if it was written nowhere, else what it makes of the machine; and what to type next."""
    if written.file is None:
        output.show(written.draft.text.rstrip("\n"))
    else:
        tables.show(_render_table(written))
    for warning in _list_warnings(written):
        output.complain(f"warning: {warning}")
    if written.next:
        output.show("\nNext:")
        for command in written.next:
            output.show(f"  {command}")


def _render_table(written: Written) -> Table:
    first, instances = written.first, written.draft.target.instances
    model = first.model.path
    if first.model.kind is not ModelKind.config:
        model = f"{first.model_name}\n{model}"
    table = tables.make_table("", "")
    table.show_header = False
    rows = {
        "Written": written.file,
        "Kept": written.kept,
        "Machine": f"{written.found.machine} to use",
        "Engine": first.binary,
        "Model": model,
        "Instances": _list_instances([one.id for one in instances]),
        "Clients": f"port {first.listen}" if first.listen.isdigit() else first.listen,
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(tables.cell(name, "bold"), tables.cell(value))
    return table


def _list_instances(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = len(names) - MAX_INSTANCES
    shown = names if more <= 0 else [*names[:MAX_INSTANCES], f"and {more} more"]
    return f"{len(names)}: {', '.join(shown)}"


def _list_warnings(written: Written) -> list[str]:
    return [*written.found.warnings, *list_warnings(written.draft.target, written.draft.warnings)]
