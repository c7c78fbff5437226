# SPDX-License-Identifier: Apache-2.0
"""The configuration in force as an agent that comes back finds it, and what was allowed for its sake."""

import structlog

from ovms_scaler.config import Config
from ovms_scaler.core.books import Books
from ovms_scaler.core.facts import Facts
from ovms_scaler.core.plan import is_reached
from ovms_scaler.core.target import Target
from ovms_scaler.errors import HostError
from ovms_scaler.host.store import Store

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

ACCEPTED = "accepted"  # the store's note of the configuration in force
OUTAGE = "outage"  # and of the one that may be brought about by an outage


class Accepted:
    """Keeps it all. What cannot be written down holds until the next start; ``problem`` says so until then.

    ``allows_outage`` ends when everything runs as that configuration says: the next change asks again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.allows_outage = False
        self.problem = ""

    def read(self) -> object:
        """The document of the configuration that was accepted last in this boot, None for none."""
        return self._store.read_note(ACCEPTED)

    def recall(self, config: Config) -> None:
        """Go on with what was allowed for this configuration before the agent came back."""
        self.allows_outage = self._store.read_note(OUTAGE) == config.document()

    def allow(self, config: Config, *, outage: bool) -> None:
        """Take the administrator's word for this configuration, in place of that for any other."""
        self.allows_outage = outage
        self._write(OUTAGE, config.document() if outage else None)

    def settle(self, target: Target, facts: Facts) -> None:
        """Ask again from now on when nothing is left to change."""
        if self.allows_outage and is_reached(target, facts):
            self.allows_outage = False
            self._write(OUTAGE, None)

    def remember(self, books: Books, config: Config | None = None) -> None:
        """Write down the books, and the configuration if there is a new one."""
        self.problem = ""
        try:
            self._store.write_books(books)
        except HostError as error:
            # The plan holds without them until the next boot.
            self._tell(error)
        if config is not None:
            self._write(ACCEPTED, config.document())

    def _write(self, note: str, document: object) -> None:
        if document is None and self._store.read_note(note) is None:
            return
        try:
            self._store.write_note(note, document)
        except HostError as error:
            self._tell(error)

    def _tell(self, error: HostError) -> None:
        self.problem = error.message
        log.error("state not written", error=error.message, hint=error.hint)
