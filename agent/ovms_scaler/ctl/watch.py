# SPDX-License-Identifier: Apache-2.0
"""Status again and again: redrawn in place for people, a new one for each change otherwise."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from rich.live import Live

from ovms_scaler.ctl import output, tables
from ovms_scaler.ctl.status_view import render_status
from ovms_scaler.errors import ScalerError

# The agent is asked anew this often; nothing else happens in between.
INTERVAL_SEC = 1.0

Document = Mapping[str, Any]


def watch(read: Callable[[], Document], *, as_json: bool) -> NoReturn:
    """Show what ``read`` returns until somebody interrupts.

    Raises UnreachableError when the agent cannot be reached at first; later it is waited for.
    """
    document = read()
    if as_json or not output.is_terminal():
        _follow(document, read, as_json=as_json)
    _redraw(document, read)


def _follow(document: Document, read: Callable[[], Document], *, as_json: bool) -> NoReturn:
    shown: Document | str | None = None
    current: Document | str = document
    while True:
        if current != shown:
            _show(current, as_json=as_json)
            shown = current
        time.sleep(INTERVAL_SEC)  # the control socket sends no events
        current = _try(read)


def _show(current: Document | str, *, as_json: bool) -> None:
    if isinstance(current, str):
        output.complain(current)
    elif as_json:
        output.show_json(current, indent=None)
    else:
        output.show(time.strftime("%H:%M:%S"))
        tables.show(tables.stack(render_status(current, now=time.time()), ""))


def _redraw(document: Document, read: Callable[[], Document]) -> NoReturn:
    current: Document | str = document
    # Everything is written at once, without clearing the screen in between.
    with Live(console=tables.console(), auto_refresh=False, transient=False) as live:
        while True:
            last = current if not isinstance(current, str) else document
            view = render_status(last, now=time.time())
            if isinstance(current, str):
                view = tables.stack(view, "", tables.cell(current, "bold red"))
            document = last
            live.update(view, refresh=True)
            time.sleep(INTERVAL_SEC)  # the same
            current = _try(read)


def _try(read: Callable[[], Document]) -> Document | str:
    try:
        return read()
    except ScalerError as error:
        return str(error)
