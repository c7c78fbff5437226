# SPDX-License-Identifier: Apache-2.0
"""Runs fuzzers for a long time: `python -m fuzz --seconds 600 config sysfs`."""

import argparse
import sys
import time

from fuzz.driver import ROUND, run, run_for
from fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each of them (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="repeat the round of inputs that this number began")
    parser.add_argument("target", nargs="*", help=f"one or more of {', '.join(TARGETS)}; all by default")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.target) - TARGETS.keys()):
        parser.error(f"no such target: {', '.join(unknown)}")
    for name in arguments.target or TARGETS:
        target = TARGETS[name]
        if arguments.seed is not None:
            say(f"{name}: {run(target, inputs=ROUND, start=arguments.seed)} inputs")
            continue
        began, tried = time.monotonic(), 0
        say(f"{name}: {target.about}")
        for start, count in run_for(target, arguments.seconds):
            tried += count
            passed_sec = time.monotonic() - began
            say(f"{name}: {tried} inputs in {passed_sec:.0f} s; the round began with seed {start}")
    return 0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
