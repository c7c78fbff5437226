# SPDX-License-Identifier: Apache-2.0
"""The events that the agent remembers, for whoever may not read the journal."""

import time
from collections.abc import Generator
from pathlib import Path

from ovms_scaler.core.event import LEVELS, Event, is_about
from ovms_scaler.core.subject import Subject
from ovms_scaler.ctl import output
from ovms_scaler.ctl.client import read_events
from ovms_scaler.ctl.options import PROGRAM
from ovms_scaler.errors import UnreachableError
from ovms_scaler.history import HINT, Selection

# The agent is asked anew this often; nothing else happens in between.
INTERVAL_SEC = 1.0


def read_remembered(
    socket: Path, selection: Selection, subject: Subject | None, level: str
) -> Generator[Event, None, None]:
    """As history.read_events, from the agent, which is said on standard error.

    Raises UnreachableError when it cannot be reached at first.
    """
    worth = LEVELS[LEVELS.index(level) :]

    def is_wanted(event: Event) -> bool:
        mine = subject is None or is_about(event, subject.instances, subject.gpus)
        return mine and event.get("level") in worth

    try:
        told = read_events(socket, since=selection.since or 0.0)
    except UnreachableError as error:
        raise UnreachableError(f"cannot read the journal, and {error.message}", hint=HINT) from error
    output.complain(
        f"{PROGRAM}: cannot read the journal; these are the latest events, as the agent remembers them\n"
        f"  hint: {HINT}"
    )
    found = [event for event in told if is_wanted(event)]
    yield from found if selection.lines is None else found[max(0, len(found) - selection.lines) :]
    while selection.follow:
        time.sleep(INTERVAL_SEC)  # the control socket sends no events
        newest = max((_at(event) for event in told), default=selection.since or 0.0)
        try:
            now = read_events(socket, since=newest)
        except UnreachableError:
            continue  # it is restarted, and remembers what it did meanwhile
        yield from (event for event in now if event not in told and is_wanted(event))
        told = now or told


def _at(event: Event) -> float:
    at = event.get("at")
    return at if isinstance(at, float | int) else 0.0
