# SPDX-License-Identifier: Apache-2.0
"""The only configuration of structlog: fields for the journal, readable lines on a terminal."""

import logging

import structlog

from ovms_scaler.host.journal import open_sink


def configure() -> None:
    """Send every log entry to the journal, or to standard error where there is none."""
    sink = open_sink()
    structlog.configure(
        # The last processor's dictionary becomes the sink's keywords.
        processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=True,
    )
