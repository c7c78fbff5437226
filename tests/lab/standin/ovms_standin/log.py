# SPDX-License-Identifier: Apache-2.0
"""The log, in the line format of OVMS: `[date time.ms][thread][logger][level][file:line] text` on stdout."""

import logging
import sys
from typing import Final

_FORMAT: Final = "[%(asctime)s][%(thread)d][%(name)s][%(levelname)s][%(filename)s:%(lineno)d] %(message)s"
_LEVELS: Final = {"TRACE": 5, "DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}

# The names that OVMS gives its loggers (src/logging.cpp).
SERVING: Final = logging.getLogger("serving")
MODELMANAGER: Final = logging.getLogger("modelmanager")
LLM_EXECUTOR: Final = logging.getLogger("llm_executor")


class _Formatter(logging.Formatter):
    default_time_format = "%Y-%m-%d %H:%M:%S"
    default_msec_format = "%s.%03d"


def open_log(level: str, *, path: str | None) -> None:
    """Sends the log to stdout and, with a path, to that file too (never rotated, as in OVMS).

    Raises OSError when the file cannot be opened.
    """
    for name, number in _LEVELS.items():
        logging.addLevelName(number, name.lower())
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if path:
        handlers.append(logging.FileHandler(path))
    for handler in handlers:
        handler.setFormatter(_Formatter(_FORMAT))
    for logger in (SERVING, MODELMANAGER, LLM_EXECUTOR):
        logger.handlers = handlers
        logger.setLevel(_LEVELS[level])
        logger.propagate = False
