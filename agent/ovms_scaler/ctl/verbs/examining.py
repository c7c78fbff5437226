# SPDX-License-Identifier: Apache-2.0
"""The verb that looks for what goes wrong in practice."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ovms_scaler.ctl import output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import config_option, json_option, socket_option


class _CheckName(click.ParamType):
    """The name of a check; the names are imported when one is given."""

    name = "check"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from ovms_scaler.core.checks.catalogue import CHECKS

        if value not in CHECKS:
            near = [name for name in CHECKS if name.startswith(str(value)[:3])]
            self.fail(f"there is no check {value!r}; man ovms-scalerctl lists them{_name(near)}", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from ovms_scaler.core.checks.catalogue import CHECKS

        return [
            CompletionItem(name, help=about) for name, about in CHECKS.items() if name.startswith(incomplete)
        ]


def _name(names: list[str]) -> str:
    return f" (near it: {', '.join(names)})" if names else ""


@click.command()
@click.argument("checks", metavar="[CHECK]...", nargs=-1, type=_CheckName())
@click.option("--skip", metavar="CHECK", multiple=True, type=_CheckName(), help="Leave this check out.")
@click.option("--all", "everything", is_flag=True, help="Show what is good, too.")
@click.option(
    "--timeout",
    "timeout_sec",
    metavar="SEC",
    type=click.FloatRange(min=0.1, max=3600),
    default=10.0,
    show_default=True,
    help="Give a check up after that many seconds.",
)
@config_option
@json_option
@socket_option
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default="/",
    hidden=True,
    help="Look at everything below this directory; for tests.",
)
def doctor(
    *,
    checks: tuple[str, ...],
    skip: tuple[str, ...],
    everything: bool,
    timeout_sec: float,
    config_file: Path,
    as_json: bool,
    socket: Path,
    root: Path,
) -> Exit:
    """Look for what goes wrong in practice, and say what helps.

    Changes nothing, and works with and without the agent. Best as root: what
    others may not see is not known then. All checks are made, or those that are
    named. One that gives no answer, as of a model on a file server that is away,
    does not hold up the others. Ends with 1 when something is bad, or nothing at
    all could be looked at; with 0 also when there are warnings, or when a part
    could not be looked at, which the last line says.

    \b
    Example:
      ovms-scalerctl doctor
      ovms-scalerctl doctor ports model-access
      ovms-scalerctl doctor --skip engine-python --json
    """
    from ovms_scaler.core.checks.catalogue import CHECKS
    from ovms_scaler.core.checks.finding import Result, findings_document, nothing_known
    from ovms_scaler.doctor.examining import diagnose

    names = [name for name in CHECKS if (not checks or name in checks) and name not in skip]
    status, status_error = _ask_agent(socket)
    with _Progress() as progress:
        findings = diagnose(
            config_file,
            names,
            deadline_sec=timeout_sec,
            root=root,
            status=status,
            status_error=status_error,
            ended=progress,
        )
    if as_json:
        output.show_json(findings_document(findings, names))
    else:
        from ovms_scaler.ctl import tables
        from ovms_scaler.ctl.findings_view import render_findings

        for part, wrap in render_findings(findings, names, everything=everything):
            tables.show(part, wrap=wrap)
    is_bad = nothing_known(findings) or any(one.result is Result.bad for one in findings)
    return Exit.bad_news if is_bad else Exit.good


def _ask_agent(socket: Path) -> tuple[Mapping[str, Any] | None, str]:
    """Its status document, or why there is none."""
    from ovms_scaler.ctl.client import read_status
    from ovms_scaler.errors import ScalerError

    try:
        return read_status(socket), ""
    except ScalerError as error:
        return None, error.message


class _Progress:
    """On a terminal, a line that says what has been looked at; it is gone in the end.

    Not a spinner, as those turn in a thread, and the checks are processes made by fork(2).
    """

    def __init__(self) -> None:
        self._show: Callable[[str], object] = sys.stderr.write if sys.stderr.isatty() else lambda _: None

    def __enter__(self) -> "_Progress":
        self._line("looking at this machine ...")
        return self

    def __call__(self, name: str) -> None:
        self._line(f"looked at {output.printable(name)[:60]} ...")

    def __exit__(self, *_: object) -> None:
        self._line("")

    def _line(self, text: str) -> None:
        self._show(f"\r\x1b[K{text}")
        sys.stderr.flush()


VERBS = (doctor,)
