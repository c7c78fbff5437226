# SPDX-License-Identifier: Apache-2.0
"""Prints what agent and front cost beside what they may. Fails only when something could not be measured.

python -m bench [PART...]: all parts without names.
"""

import argparse
import logging
import sys
import textwrap

import structlog
from lab.commands import LabError

from bench import balance, deciding, fronts, placement, plugging, reloading, running
from bench.measure import COLUMNS

PARTS = {
    "deciding": deciding,
    "plugging": plugging,
    "running": running,
    "reloading": reloading,
    "fronts": fronts,
    "balance": balance,
    "placement": placement,
}


def main() -> int:
    # The figures are the output; what an agent in this process logs is not.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    over = 0
    for name in parse_arguments() or PARTS:
        part = PARTS[name]
        show(f"\n{name}: {textwrap.dedent(part.__doc__ or '').strip()}\n\n{COLUMNS}")
        for one in part.measure():
            show(str(one))
            over += one.is_over
    show(f"\nbench: {over} over budget" if over else "\nbench: everything within its budget")
    return 0


def parse_arguments() -> list[str]:
    """The parts that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    listed = ", ".join(PARTS)
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"one of {listed}")
    found: list[str] = parser.parse_args().part
    return found


def show(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench: {error}")
