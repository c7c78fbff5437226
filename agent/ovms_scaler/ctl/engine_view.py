# SPDX-License-Identifier: Apache-2.0
"""Releases of OVMS, for people and programs, and how far an installation is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TextColumn

from ovms_scaler.ctl import output, tables
from ovms_scaler.ctl.tables import cell, indented, make_table, stack
from ovms_scaler.releases.releases import Installed, Releases

_PYTHON = {True: "yes", False: "no"}


def list_document(releases: Releases) -> dict[str, Any]:
    """What ``engine list --json`` prints; ``by_hand`` are instances that run what was unpacked by hand."""
    current, previous, planned = releases.current(), releases.previous(), releases.planned()
    return {
        "directory": str(releases.root),
        "current": current or None,
        "previous": previous,
        "releases": [
            {
                "version": name,
                "is_current": name == current,
                "is_previous": name == previous,
                "instances": [instance for instance, release in planned.items() if release == name],
                **{key: note.get(key) for key in ("build", "python", "sha256", "archive", "installed_at")},
            }
            for name in releases.names()
            for note in [releases.read_note(name)]
        ],
        "is_by_hand": current == "",
        "by_hand": [instance for instance, release in planned.items() if not release],
    }


def render_list(document: dict[str, Any]) -> RenderableType:
    """The table, with what is of interest below it."""
    if not document["releases"] and not document["is_by_hand"]:
        where = cell(f"There is no release of OVMS in {document['directory']}.")
        return stack(where, indented("next: ovms-scalerctl engine install TARBALL", "bold"))
    shown = make_table("Version", "", "Python", "Installed", "Instances")
    for one in document["releases"]:
        mark = "current" if one["is_current"] else "previous" if one["is_previous"] else " "
        shown.add_row(
            cell(one["version"]),
            cell(mark, "green" if one["is_current"] else ""),
            cell(_PYTHON.get(one["python"])),
            cell(_day(one["installed_at"])),
            cell(", ".join(one["instances"])),
        )
    if document["is_by_hand"] or document["by_hand"]:
        mark = "current" if document["is_by_hand"] else " "
        shown.add_row("by hand", mark, cell(None), cell(None), cell(", ".join(document["by_hand"])))
    parts: list[RenderableType] = [shown]
    current = document["current"]
    if current and any(one["instances"] and not one["is_current"] for one in document["releases"]):
        parts += ["", cell(f"Not every instance runs {current} yet.", "yellow")]
        parts += [indented("next: ovms-scalerctl status", "bold")]
    return stack(*parts)


def _day(seconds: object) -> str | None:
    if not isinstance(seconds, int | float):
        return None
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def install_document(installed: Installed, *, sha256_given: bool) -> dict[str, Any]:
    """What ``engine install --json`` prints of the release itself."""
    return {
        "version": installed.name,
        "build": installed.version.build,
        "python": installed.version.python,
        "directory": str(installed.directory),
        "sha256": installed.sha256,
        "sha256_checked": sha256_given,
        "is_new": installed.is_new,
        "notes": list(installed.notes),
    }


def warn_of_sum(archive: Path, installed: Installed) -> None:
    """Say what nobody has compared."""
    output.complain(
        f"warning: nobody vouches for {archive}: no --sha256 was given; that of this file is\n"
        f"  {installed.sha256}\n  compare it with what its publisher says"
    )


def show_installed(installed: Installed) -> None:
    """What was installed, and what to know of it."""
    what = "runs on this system" if installed.is_new else "was there, and runs on this system"
    output.show(f"OVMS {installed.name} in {installed.directory} {what}")
    for note in installed.notes:
        tables.show(cell(f"note: {note}"))


@contextmanager
def progress(*, as_json: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Takes what is under way; a bar on a terminal, nothing elsewhere, as it takes seconds."""
    if as_json or not output.is_terminal():
        yield lambda _what, _done, _total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn())
    with Progress(*columns, console=tables.console(), transient=True) as bar:
        task = bar.add_task("checksum", total=None)

        def report(what: str, done: int, total: int) -> None:
            share = f" {done / total:4.0%}" if total else ""  # a trial has no measure
            bar.update(task, description=f"{what}{share}", completed=done, total=total or None)

        yield report
