# SPDX-License-Identifier: Apache-2.0
"""The latest events, for whoever cannot or need not read the journal: the control socket, the page."""

import math
import os
import time
from collections import deque
from collections.abc import Mapping

from ovms_scaler.core.event import make_event, parse_event
from ovms_scaler.errors import HostError, InputError
from ovms_scaler.host import journal_reader

# So many are kept: days of an agent that has little to do, some hundred kilobytes at most.
MOST = 500
RECALL_SEC = 10.0


class Events:
    """A ring of them; ``note`` is fed by structlog with every entry that is logged."""

    def __init__(self, most: int = MOST, environment: Mapping[str, str] = os.environ) -> None:
        self._ring: deque[dict[str, object]] = deque(maxlen=most)
        self._invocation = environment.get("INVOCATION_ID", "")

    def note(self, entry: Mapping[str, object]) -> None:
        """Keep what is logged now."""
        self._ring.append(make_event(entry, at=round(time.time(), 6)))

    async def recall(self, *, deadline_sec: float = RECALL_SEC) -> None:
        """Put what agents before this one logged in front.

        It is read from the journal, so nothing has to be written down all the time, and an agent that was
        killed has lost nothing. Where there is no journal, there is no past.
        """
        try:
            entries = await journal_reader.read_latest(
                self._ring.maxlen or MOST, *journal_reader.AGENT, deadline_sec=deadline_sec
            )
        except HostError:
            return
        past = [
            parse_event(entry)
            for entry in entries
            if entry.get("_SYSTEMD_INVOCATION_ID", "?") != self._invocation
        ]
        known = [*filter(None, past), *self._ring]
        self._ring.clear()
        self._ring.extend(known)

    def document(self, *, since: float = 0.0, limit: int = MOST) -> dict[str, object]:
        """The newest ``limit`` of those since then (seconds since the epoch), oldest first."""
        found = [event for event in self._ring if _at(event) >= since]
        return {"events": found[max(0, len(found) - limit) :]}

    def answer(self, query: Mapping[str, str]) -> dict[str, object]:
        """The document that a query asks for. Raises InputError."""
        if unknown := sorted(query.keys() - {"since", "limit"}):
            raise InputError(f"{unknown[0]!r} is not asked for here; since and limit are")
        since = _parse_number(query.get("since", "0"))
        if since is None:
            raise InputError(f"since must be seconds since the epoch, not {query['since']!r}")
        limit = query.get("limit", str(MOST))
        if not (limit.isascii() and limit.isdigit() and len(limit) < 10 and int(limit) >= 1):
            raise InputError(f"limit must be a whole number from 1 on, not {limit!r}")
        return self.document(since=since, limit=int(limit))


def _at(event: Mapping[str, object]) -> float:
    at = event["at"]
    return at if isinstance(at, float) else 0.0


def _parse_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
