# SPDX-License-Identifier: Apache-2.0
"""Harms hosts under load, one fault and balancer after the other; prints a table of what was lost."""

import argparse
import json
import signal
import sys
import textwrap
import time
from pathlib import Path

from lab.commands import LabError

from faults import images, rig, table
from faults.catalogue import FAULTS, at_length, harm
from faults.peers import Balancer
from faults.run import Options, Result


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as at Ctrl-C: nothing may stay
    faults = [FAULTS[name] for name in arguments.fault or FAULTS]
    wanted = [Balancer(name) for name in arguments.balancer or Balancer]
    options = Options(
        clients=arguments.clients,
        seconds=arguments.seconds,
        loading_sec=arguments.loading_sec,
        slow_sec=arguments.slow_sec,
        times=arguments.times,
        seed=arguments.seed,
    )
    cases = [at_length(fault, options) if arguments.thorough else (fault, options) for fault in faults]
    prepared = images.prepare(frozenset(wanted))
    pairs = [(*case, one) for case in cases for one in wanted if one in case[0].balancers]
    rows: dict[tuple[str, str], Result | str] = {}
    try:
        for number, (fault, extent, balancer) in enumerate(pairs, start=1):
            say(f"[{number}/{len(pairs)}] {fault.name}, {balancer}: {fault.about}")
            began = time.monotonic()
            try:
                with rig.boot(prepared[balancer], balancer, fault.engines) as booted:
                    result = harm(booted, fault, extent)
            except (LabError, OSError) as error:
                rows[fault.name, balancer] = f"not measured: {error}"
                say(f"    cannot be measured: {textwrap.shorten(str(error), 2000)}")
                continue
            rows[fault.name, balancer] = result
            found = result.figures
            lost = found.lost_unary + found.lost_streamed
            say(
                f"    {time.monotonic() - began:.0f} s: {found.sent} sent, {found.answered} answered, "
                f"{found.cut} cut, {lost} lost, {found.wrong} wrong; {'; '.join(result.notes)}"
            )
    except KeyboardInterrupt:
        say("interrupted: what was measured so far")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(table.render_json(rows), indent=1) + "\n")
    sys.stdout.write(table.render_markdown(rows))
    return int(any(isinstance(result, str) for result in rows.values()))


def parse_arguments() -> argparse.Namespace:
    listed = "\n".join(f"  {fault.name:13} {fault.about}" for fault in FAULTS.values())
    parser = argparse.ArgumentParser(
        prog="python -m faults",
        description=__doc__,
        epilog=f"faults:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Options()
    parser.add_argument(
        "--fault", action="append", choices=FAULTS, metavar="FAULT", help="only this one; again for more"
    )
    parser.add_argument(
        "--balancer", action="append", choices=list(Balancer), help="only this one; again for more"
    )
    parser.add_argument(
        "--clients", type=int, default=default.clients, help="clients that ask (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=default.seconds, help="length of a load (%(default)s)"
    )
    parser.add_argument(
        "--loading-sec",
        type=float,
        default=default.loading_sec,
        help="how long engines load again (%(default)s)",
    )
    parser.add_argument(
        "--slow-sec", type=float, default=default.slow_sec, help="how long systemd is slow (%(default)s)"
    )
    parser.add_argument(
        "--times", type=int, default=default.times, help="reloads, changes, kills of the agent (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=default.seed, help="of what is done at random moments (%(default)s)"
    )
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="each fault as long and as often as its bar has it (20 s of loading, 100 reloads under streams "
        "of 30 s, 50 kills of the agent, two minutes of crashes), whatever the options above say",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    return parser.parse_args()


def say(line: str) -> None:
    """Progress, beside the table."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
