# SPDX-License-Identifier: Apache-2.0
"""ovms-scalerctl. Whatever a verb needs is imported when it runs: most need little."""

import io
import os
import sys
from typing import Any, NoReturn, TextIO

import click

from ovms_scaler import __version__
from ovms_scaler.ctl import output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import PROGRAM
from ovms_scaler.ctl.verbs import (
    about,
    asking,
    beginning,
    bench,
    completing,
    engine,
    examining,
    history,
    looking,
    orders,
    top,
    verifying,
)
from ovms_scaler.errors import ConfigError, ScalerError, UnreachableError


class _OutputClosed(Exception):
    """Whoever read the output has gone."""


class _Verbs(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            if close := difflib.get_close_matches(args[0], self.commands, n=1):
                error.message += f" Did you mean {close[0]!r}?"
            raise

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError as error:
            raise _OutputClosed from error


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one verb and end with its status."""
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # closed by whoever started this
            setattr(sys, name, io.StringIO())
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run one verb; its exit status."""
    try:
        status = cli.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        output.complain(said.getvalue().rstrip("\n"))
        return Exit.usage
    except click.Abort:
        return Exit.interrupted
    except (_OutputClosed, BrokenPipeError):
        # What is still buffered must not be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.output_closed
    except ScalerError as error:
        _report(error)
        return Exit.unreachable if isinstance(error, UnreachableError) else Exit.bad_news
    except OSError as error:
        output.complain(f"{PROGRAM}: cannot finish: {error}")
        return Exit.bad_news
    return int(status or 0)


def _report(error: ScalerError) -> None:
    if isinstance(error, ConfigError):
        count = len(error.problems)
        output.complain(f"{error}\n{count} error{'' if count == 1 else 's'}")
    else:
        output.complain(f"{PROGRAM}: {error}")


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Ask and direct the agent that runs OpenVINO Model Server on this machine.

    \b
    Exit status: 0 good, 1 the answer is bad news, 2 wrong usage,
    3 the agent cannot be reached.

    \b
    Example:
      ovms-scalerctl plan
      systemctl enable --now ovms-scaler
      ovms-scalerctl status --watch
    """


for _module in (
    beginning,
    looking,
    verifying,
    examining,
    asking,
    top,
    history,
    orders,
    engine,
    bench,
    about,
    completing,
):
    for _verb in _module.VERBS:
        cli.add_command(_verb)
