# SPDX-License-Identifier: Apache-2.0
"""What instances do and use, again and again: on a screen for people, table after table otherwise."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ovms_scaler.ctl import output, tables
from ovms_scaler.ctl.busy import busy
from ovms_scaler.ctl.live import Key, Screen
from ovms_scaler.ctl.top_view import render_screen, render_top
from ovms_scaler.errors import ScalerError

# Shares are of the time between two looks of the agent, and nobody may have had it look before.
SECOND_LOOK_SEC = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The agent's documents."""

    measures: Mapping[str, Any]
    status: Mapping[str, Any]


Read = Callable[[], Seen]


def show_once(read: Read, *, as_json: bool) -> None:
    """Print it to standard output. Raises UnreachableError."""
    with busy("measuring"):
        seen = read()
        if seen.measures.get("use_span_sec", 0.0) is None:
            time.sleep(SECOND_LOOK_SEC)  # the agent looks only when it is asked
            seen = read()
    if as_json:
        output.show_json(seen.measures)
    else:
        tables.show(render_top(seen.measures, seen.status, tables.console()))


def show_live(read: Read, *, interval_sec: float, as_json: bool) -> None:
    """Show it until somebody has enough.

    Raises UnreachableError when the agent cannot be reached at first; later it is waited for.
    """
    seen = read()
    if as_json or not tables.console().is_terminal or tables.console().is_dumb_terminal:
        _follow(seen, read, interval_sec, as_json=as_json)
    else:
        _draw(seen, read, interval_sec)


def _follow(seen: Seen, read: Read, interval_sec: float, *, as_json: bool) -> None:
    while True:
        if as_json:
            output.show_json(seen.measures, indent=None)
        else:
            tables.show(render_top(seen.measures, seen.status, tables.console()), "")
        current: Seen | str = ""
        while not isinstance(current, Seen):
            time.sleep(interval_sec)  # the agent measures when it is asked, and this is how often
            current = _try(read)
            if isinstance(current, str):
                output.complain(current)
        seen = current


def _draw(seen: Seen, read: Read, interval_sec: float) -> None:
    page, error, next_sec = 0, "", time.monotonic() + interval_sec
    with Screen(tables.console) as screen:
        while True:
            view = render_screen(seen.measures, seen.status, screen.console, page=page, error=error)
            screen.draw(view.shown)
            page = min(page, view.pages - 1)
            match screen.wait(next_sec - time.monotonic()):
                case Key.quit:
                    return
                case Key.forward:
                    page = (page + 1) % view.pages
                case Key.back:
                    page = (page - 1) % view.pages
                case Key.redraw:
                    continue
                case None:
                    current = _try(read)
                    error = current if isinstance(current, str) else ""
                    seen = current if isinstance(current, Seen) else seen
                    next_sec = time.monotonic() + interval_sec


def _try(read: Read) -> Seen | str:
    try:
        return read()
    except ScalerError as error:
        return str(error)
