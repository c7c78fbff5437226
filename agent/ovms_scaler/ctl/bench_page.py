# SPDX-License-Identifier: Apache-2.0
"""The report as a page in a file: whether it can be written is known before, whatever comes of it after."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovms_scaler.ctl.options import PROGRAM


def try_page(path: Path) -> None:
    """Better now than after an hour; nothing is left there, and what is there stays. Raises OSError."""
    was_there = path.exists()
    path.open("a").close()
    if not was_there:
        # A link that leads nowhere leads to what was made just now.
        Path(os.path.realpath(path)).unlink()


def write_page(path: Path, document: Mapping[str, Any]) -> str:
    """Why it could not be written, "" if it was: the figures are still to be shown."""
    from ovms_scaler.bench.report import render_report

    page = render_report(document)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        if path.is_file():
            with contextlib.suppress(OSError):  # half a page is of no use, but does no harm
                path.unlink()
        return (
            f"{PROGRAM}: cannot write {path}: {error.strerror}\n"
            "  hint: all figures are on standard output; make room, or give --html another file"
        )
    return ""
