# SPDX-License-Identifier: Apache-2.0
"""The verbs that tell what happened."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ovms_scaler.ctl import output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import json_option, socket_option
from ovms_scaler.errors import InputError, UnreachableError

if TYPE_CHECKING:
    from ovms_scaler.core.subject import Subject

F = TypeVar("F", bound=Callable[..., Any])

# Of what is followed, as journalctl(1) and tail(1) do.
FOLLOWED_LINES = 10
EVENTS = 50
LOG_LINES = 100


class _Time(click.ParamType):
    name = "time"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        from ovms_scaler.history import read_time

        try:
            return read_time(value)
        except InputError as error:
            self.fail(str(error), parameter, context)


class _Lines(click.ParamType):
    name = "lines"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """-1 for all of them."""
        if isinstance(value, int):
            return value
        if value == "all":
            return -1
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            self.fail(f'{value!r} is no number of lines; "all" is every one.', parameter, context)
        return int(value)


def _selecting(verb: F) -> F:
    """Which entries, as with journalctl(1)."""
    for option in (
        click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until interrupted."),
        click.option("-n", "--lines", type=_Lines(), metavar="N|all", help="Show the last N, or all."),
        click.option(
            "--since", type=_Time(), metavar="TIME", help='Since then, as "10 min ago"; systemd.time(7).'
        ),
    ):
        verb = option(verb)
    return verb


@click.command()
@click.argument("name", metavar="[INSTANCE|POOL]", required=False)
@_selecting
@click.option(
    "--level",
    type=click.Choice(["info", "warning", "error", "critical"]),
    default="info",
    metavar="LEVEL",
    help="Of this level and worse: info, warning, error or critical.",
)
@json_option
@socket_option
def events(
    *,
    name: str | None,
    follow: bool,
    lines: int | None,
    since: float | None,
    level: str,
    as_json: bool,
    socket: Path,
) -> Exit:
    """Show what the agent did, and why.

    From the journal: it needs no agent, and goes back over restarts and boots. The
    last 50 are shown, or all of those since a TIME. Who may not read the journal is
    shown what the agent remembers.

    \b
    Example:
      ovms-scalerctl events
      ovms-scalerctl events chat-numa0 --since "2 hours ago"
      ovms-scalerctl events --level warning --follow
    """
    from ovms_scaler import history

    subject = None if name is None else _read_subject(name, socket)
    selection = history.Selection(
        since=since, lines=_count(lines, since, EVENTS, follow=follow), follow=follow
    )
    if history.can_read():
        found = history.read_events(selection, subject, level)
    else:
        from ovms_scaler.ctl.remembered import read_remembered

        found = read_remembered(socket, selection, subject, level)
    from ovms_scaler.ctl.history_view import HistoryView

    view = HistoryView()
    with closing(found):
        for event in found:
            if as_json:
                output.show_json(event, indent=None)
            else:
                view.show_event(event)
    if not (view.shown or as_json):
        output.complain("no such event")
    return Exit.good


@click.command()
@click.argument("name", metavar="INSTANCE|POOL")
@_selecting
@json_option
@socket_option
def logs(
    *, name: str, follow: bool, lines: int | None, since: float | None, as_json: bool, socket: Path
) -> Exit:
    """Show what an instance says, and what others say of it.

    Lines of the engine, of systemd about its unit, of the agent and of the proxy,
    in the order of time. The last 100 are shown, or all of those since a TIME.

    \b
    Example:
      ovms-scalerctl logs chat-numa0
      ovms-scalerctl logs chat --follow
      ovms-scalerctl logs chat-numa0 --since "yesterday" | less
    """
    from ovms_scaler import history
    from ovms_scaler.ctl.history_view import HistoryView

    subject = _read_subject(name, socket)
    can_read = history.can_read()
    selection = history.Selection(
        since=since, lines=_count(lines, since, LOG_LINES, follow=follow), follow=follow
    )
    if can_read:
        found = history.read_lines(selection, subject)
    else:
        from ovms_scaler.core.log_line import make_event_line
        from ovms_scaler.ctl.remembered import read_remembered

        remembered = read_remembered(socket, selection, subject, "info")
        found = (line for event in remembered if (line := make_event_line(event, subject)) is not None)
    view = HistoryView()
    with closing(found):
        for line in found:
            if as_json:
                output.show_json(line.document(), indent=None)
            else:
                view.show_line(line)
    if not (view.shown or as_json):
        output.complain(f"no such line of {name}")
    # Without the journal there is nothing of the engine in it.
    return Exit.good if can_read else Exit.bad_news


def _count(lines: int | None, since: float | None, usual: int, *, follow: bool) -> int | None:
    """How many of the last, None for all."""
    if lines is None and since is None:
        return FOLLOWED_LINES if follow else usual
    return None if lines is None or lines < 0 else lines


def _read_subject(name: str, socket: Path) -> Subject:
    """Whom a name means; the whole journal is searched for one that nobody else knows."""
    from ovms_scaler import history
    from ovms_scaler.ctl.busy import busy

    with busy(f"looking for {name}"):
        return history.read_subject(name, _read_status(socket))


def _read_status(socket: Path) -> dict[str, Any] | None:
    """None when the agent cannot be asked: what happened can be shown without it."""
    from ovms_scaler.ctl.client import read_status

    try:
        return read_status(socket)
    except UnreachableError:
        return None


VERBS = (events, logs)
