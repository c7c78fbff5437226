# SPDX-License-Identifier: Apache-2.0
"""What happened, from the journal: without the agent, and beyond restarts of it and of the machine."""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from ovms_scaler.core.event import Event, is_about, parse_event
from ovms_scaler.core.journal_entry import Fields
from ovms_scaler.core.log_line import LogLine, make_line, render_matches
from ovms_scaler.core.subject import (
    Known,
    Subject,
    find_subject,
    name_known,
    parse_known,
    parse_unit,
    unknown_name,
)
from ovms_scaler.errors import ScalerError
from ovms_scaler.host import journal_reader

T = TypeVar("T")

HINT = journal_reader.HINT
can_read = journal_reader.can_read
read_time = journal_reader.read_time
# What journalctl calls the levels of the log.
_PRIORITIES = {"info": "info", "warning": "warning", "error": "err", "critical": "crit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which: since when (seconds since the epoch), of those the last ``lines``, and then what comes."""

    since: float | None = None
    lines: int | None = None
    follow: bool = False


def read_subject(name: str, status: Mapping[str, object] | None) -> Subject:
    """Whom a name means: by the agent's status if it can be had, by the configuration, or by the journal.

    Raises UnknownNameError, and HostError when the journal cannot be read.
    """
    known = parse_known(status or {}) or _read_configured()
    if (subject := find_subject(known, name)) is not None:
        return subject
    # One that was taken out of the configuration, or whose node or GPU is gone.
    logged = name_known(_read_logged()) if can_read() else ()
    if (subject := find_subject(logged, name)) is not None:
        return subject
    every = (*known, *logged)
    raise unknown_name([*(one.id for one in every), *(one.pool for one in every)], name)


def read_events(selection: Selection, subject: Subject | None, level: str) -> Generator[Event, None, None]:
    """Events of that level and worse, oldest first; about ``subject`` if one is given. Raises HostError."""

    def keep(fields: Fields) -> Event | None:
        event = parse_event(fields)
        if event is None or subject is None or is_about(event, subject.instances, subject.gpus):
            return event
        return None

    return _read(selection, keep, f"--priority={_PRIORITIES[level]}", *journal_reader.AGENT)


def read_lines(selection: Selection, subject: Subject) -> Generator[LogLine, None, None]:
    """What engine, agent, systemd and proxy say about it, in the order of time. Raises HostError."""
    matches = render_matches(subject, journal_reader.AGENT)
    return _read(selection, lambda fields: make_line(fields, subject), *matches)


def _read(
    selection: Selection, keep: Callable[[Fields], T | None], *arguments: str
) -> Generator[T, None, None]:
    """What ``keep`` makes of entries, unless that is None.

    journalctl cannot count what is kept, so the last lines are looked for from the end on.
    """
    since = () if selection.since is None else (f"--since=@{selection.since:.6f}",)
    start = since
    if selection.lines is not None:
        found: list[T] = []
        with closing(journal_reader.read_entries("--all", "--reverse", *since, *arguments)) as entries:
            for fields in entries:
                if start is since and "__CURSOR" in fields:
                    start = (f"--after-cursor={fields['__CURSOR']}",)
                if len(found) >= selection.lines:
                    break
                if (kept := keep(fields)) is not None:
                    found.append(kept)
        yield from reversed(found)
        if not selection.follow:
            return
    follow = ("--follow", "--no-tail") if selection.follow else ()
    with closing(journal_reader.read_entries("--all", *follow, *start, *arguments)) as entries:
        for fields in entries:
            if (kept := keep(fields)) is not None:
                yield kept


def _read_configured() -> tuple[Known, ...]:
    """The instances of the configuration on disk; none of one that is not valid."""
    # It is needed seldom, and costs more than everything else here.
    from ovms_scaler.config import CONFIG_FILE, read_config
    from ovms_scaler.offline import preview_target

    try:
        target, _ = preview_target(read_config(CONFIG_FILE))
    except ScalerError:
        return ()
    return tuple(
        Known(
            id=one.id, pool=one.pool, upstream=target.wanted[one.id].upstream, port=one.port, gpus=one.gpus
        )
        for one in target.instances
        if one.id in target.wanted
    )


def _read_logged() -> set[str]:
    """Every instance of which the journal has a word."""
    units = map(parse_unit, journal_reader.list_values("_SYSTEMD_UNIT"))
    return {*filter(None, units), *journal_reader.list_values("OVMS_SCALER_INSTANCE")}
