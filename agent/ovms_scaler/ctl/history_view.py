# SPDX-License-Identifier: Apache-2.0
"""Events and log lines, for people: when, who, what, and the next command to type where something is bad."""

import textwrap
import time
from collections.abc import Mapping
from typing import Any

import click

from ovms_scaler.core.event import Event
from ovms_scaler.core.event_text import render_event, render_hint
from ovms_scaler.core.log_line import LogLine
from ovms_scaler.ctl import tables
from ovms_scaler.ctl.output import printable

_STYLES: Mapping[str, Mapping[str, Any]] = {
    "warning": {"fg": "yellow"},
    "error": {"fg": "red"},
    "critical": {"fg": "red"},
}
_SOURCES: Mapping[str, Mapping[str, Any]] = {
    "engine": {"fg": "green"},
    "agent": {"fg": "cyan"},
    "proxy": {"fg": "magenta"},
    "systemd": {"fg": "blue"},
}
_BOLD = {"bold": True}
_DIM = {"dim": True}
_INDENT = " " * len("Nov 21 19:00:00 ")
_NARROWEST = 40


class HistoryView:
    """Prints one after the other, as they come."""

    def __init__(self) -> None:
        screen = tables.console()
        self._is_coloured = screen.color_system is not None
        self._width = max(screen.width - len(_INDENT), _NARROWEST)
        self.shown = 0

    def show_event(self, event: Event) -> None:
        """A sentence, folded to the width of the terminal."""
        at = event.get("at")
        style = _STYLES.get(str(event.get("level")), {})
        lines = [
            self._paint(part, style)
            for line in printable(render_event(event)).splitlines() or [""]
            for part in self._fold(line)
        ]
        self._show(at if isinstance(at, float | int) else 0.0, [*lines, *self._next(event)])

    def show_line(self, line: LogLine) -> None:
        """As it is: a line is folded by the terminal, and whole when it is copied."""
        who = self._paint(line.instance if line.source == "engine" else line.source, _SOURCES[line.source])
        style = _STYLES.get(line.level, {})
        first, *rest = printable(line.text).splitlines() or [""]
        hint = self._next(line.event) if line.event is not None else []
        painted = [self._paint(one, style) for one in rest]
        self._show(line.at, [f"{who}: {self._paint(first, style)}", *painted, *hint])

    def _next(self, event: Event) -> list[str]:
        hint = printable(render_hint(event))
        return [self._paint(part, _BOLD) for part in self._fold(f"next: {hint}")] if hint else []

    def _fold(self, text: str) -> list[str]:
        return textwrap.wrap(text, self._width, break_long_words=False, break_on_hyphens=False)

    def _paint(self, text: str, style: Mapping[str, Any]) -> str:
        return click.style(text, **style) if self._is_coloured and style else text

    def _show(self, at: float, lines: list[str]) -> None:
        below = f"\n{_INDENT}".join(lines)
        click.echo(f"{self._paint(_format_time(at), _DIM)} {below}", color=True)
        self.shown += 1


def _format_time(at: float) -> str:
    """As journalctl(1) has it, in the time of this machine."""
    try:
        return time.strftime("%b %d %H:%M:%S", time.localtime(at))
    except (OverflowError, OSError, ValueError):
        return "?".ljust(len(_INDENT) - 1)
