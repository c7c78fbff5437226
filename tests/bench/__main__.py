# SPDX-License-Identifier: Apache-2.0
"""Prints what the agent costs beside what it may cost. Fails only when something could not be measured."""

import logging
import sys
import textwrap

import structlog
from lab.commands import LabError

from bench import deciding, plugging, running
from bench.measure import COLUMNS


def main() -> int:
    # The figures are the output; what an agent in this process logs is not.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    over = 0
    for title, about, measured in (
        ("Deciding", deciding.__doc__, deciding.measure()),
        ("Plugging", plugging.__doc__, plugging.measure()),
        ("Running", running.__doc__, running.measure()),
    ):
        show(f"\n{title}: {textwrap.dedent(about or '').strip()}\n\n{COLUMNS}")
        for one in measured:
            show(str(one))
            over += one.is_over
    show(f"\nbench: {over} over budget" if over else "\nbench: everything within its budget")
    return 0


def show(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench: {error}")
