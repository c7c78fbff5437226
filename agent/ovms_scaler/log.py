# SPDX-License-Identifier: Apache-2.0
"""The only configuration of structlog: fields for the journal, readable lines on a terminal."""

import structlog

from ovms_scaler.host.journal import JournalSink


def configure() -> None:
    """Send every log entry to the journal, or to standard error where there is none."""
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            JournalSink(),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
