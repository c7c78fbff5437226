# SPDX-License-Identifier: Apache-2.0
"""The only configuration of structlog: fields for the journal, readable lines on a terminal."""

import contextlib
import logging
from collections.abc import Callable, Mapping

import structlog

from ovms_scaler.host.journal import open_sink


def configure(note: Callable[[Mapping[str, object]], None]) -> None:
    """Send every log entry to the journal, or to standard error where there is none, and to ``note``."""
    sink = open_sink()
    structlog.configure(
        # The last processor's dictionary becomes the sink's keywords.
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _make_tee(note),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=True,
    )


def _make_tee(note: Callable[[Mapping[str, object]], None]) -> structlog.typing.Processor:
    def tee(_logger: object, _method: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
        # Whatever is wrong with an entry, it must get into the log.
        with contextlib.suppress(Exception):
            note(entry)
        return entry

    return tee
