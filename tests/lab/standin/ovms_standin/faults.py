# SPDX-License-Identifier: Apache-2.0
"""Faults that a test switches on in a running stand-in, by writing a word into a file."""

import os
from enum import StrEnum
from pathlib import Path


class Fault(StrEnum):
    """What the file may say."""

    none = ""
    wedge = "wedge"  # stays AVAILABLE, takes requests, generates nothing until the file changes
    errors = "errors"  # stays AVAILABLE, every generation is a 400 (as after a lost GPU context)
    crash = "crash"  # the next generation ends the process with exit code 1
    poison = "poison"  # as crash, but only a completion whose prompt contains this word does it


class Faults:
    """Reads the file named by OVMS_STANDIN_FAULTS; without it there are no faults."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def read_fault(self) -> Fault:
        """The fault of this moment; anything unreadable or unknown is none."""
        if self._path is None:
            return Fault.none
        try:
            return Fault(self._path.read_text(encoding="utf-8").strip())
        except (OSError, ValueError):
            return Fault.none


def exit_after_crash() -> None:
    """Ends the process as the LLM executor of OVMS does after a fatal exception (llm_executor.hpp)."""
    os._exit(1)
