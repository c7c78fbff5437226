# SPDX-License-Identifier: Apache-2.0
"""The verbs of ovms-scalerctl. Whatever a verb needs is imported when it runs: most need little."""

import io
import os
import sys
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from ovms_scaler import __version__
from ovms_scaler.ctl import orders, output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import CONFIG, config_option, json_option, socket_option, sysroot_option
from ovms_scaler.errors import ConfigError, ScalerError, UnreachableError

PROGRAM = "ovms-scalerctl"


class _OutputClosed(Exception):
    """Whoever read the output has gone."""


class _Verbs(click.Group):
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
        error.show()
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


@cli.command()
@sysroot_option
@json_option
def topology(*, sysroot: Path, as_json: bool) -> Exit:
    """Show NUMA nodes, CPUs, memory and GPUs of this machine.

    \b
    Example:
      ovms-scalerctl topology
      ovms-scalerctl topology --sysroot /tmp/copied-host --json
    """
    from ovms_scaler.offline import read_machine

    found = read_machine(sysroot)
    if as_json:
        from ovms_scaler.core.topology import topology_document

        output.show_json(topology_document(found))
    else:
        from ovms_scaler.ctl import tables
        from ovms_scaler.ctl.topology_view import render_topology

        tables.show(render_topology(found))
    return Exit.good


@cli.command()
@config_option
@sysroot_option
@json_option
@click.option("--diff/--no-diff", default=True, help="Whether to show what changes in each file.")
def plan(*, config_file: Path, sysroot: Path, as_json: bool, diff: bool) -> Exit:
    """Show what the agent would do, and do nothing.

    Needs neither the agent nor root. Files are compared with those on disk; what
    runs is not asked, and who is in rotation is up to the agent.

    \b
    Example:
      ovms-scalerctl plan
      ovms-scalerctl plan --config new.toml --no-diff
    """
    from ovms_scaler.config import read_config
    from ovms_scaler.ctl.changes import list_actions, list_changes, plan_document
    from ovms_scaler.offline import preview

    config = read_config(config_file)
    found = preview(config, sysroot)
    changes = list_changes(found)
    actions = list_actions(found, changes)
    if as_json:
        output.show_json(plan_document(found, actions))
    else:
        from ovms_scaler.ctl.plan_view import show_plan

        show_plan(config, found, changes if diff else (), actions)
    return Exit.good


@cli.command()
@config_option
@sysroot_option
@click.option(
    "--output",
    "directory",
    type=click.Path(path_type=Path, readable=False),
    required=True,
    metavar="DIR",
    help="Where to write: an empty directory, or one that was rendered to before.",
)
def render(*, config_file: Path, sysroot: Path, directory: Path) -> Exit:
    """Write every file that the agent would write below DIR.

    The proxy's files are as with every instance in rotation. What is known only
    when an engine runs, the id of its invocation, is all zeros in the routes.
    Neither API keys and certificates nor the agent's own notes are among the files.

    \b
    Example:
      ovms-scalerctl render --config new.toml --output /tmp/new
      diff -r /run/systemd/system /tmp/new/run/systemd/system
    """
    from ovms_scaler.config import read_config
    from ovms_scaler.offline import preview_target, render_files, write_rendered

    target, warnings = preview_target(read_config(config_file), sysroot)
    written = write_rendered(directory, render_files(target))
    for warning in (*target.warnings, *warnings):
        output.complain(f"warning: {warning}")
    for path in written:
        output.show(path)
    return Exit.good


@cli.command("check-config")
@click.argument(
    "config_file", type=click.Path(path_type=Path, readable=False), default=CONFIG, metavar="[FILE]"
)
@sysroot_option
def check_config(*, config_file: Path, sysroot: Path) -> Exit:
    """Say whether the agent would accept a configuration.

    It is judged as on this machine, whose nodes and ports it has to fit. Every
    error is shown, not only the first. What would be accepted and still could not
    be started, such as a missing model, is a warning.

    \b
    Example:
      ovms-scalerctl check-config && systemctl reload ovms-scaler
      ovms-scalerctl check-config new.toml
    """
    from ovms_scaler.config import read_config
    from ovms_scaler.offline import preview_target

    config = read_config(config_file)
    target, warnings = preview_target(config, sysroot)
    problems = dict.fromkeys((one.problem, one.hint) for one in target.instances if one.problem)
    for problem, hint in problems:
        output.complain(f"warning: would not be started: {problem}" + (f"\n  hint: {hint}" if hint else ""))
    for warning in (*target.warnings, *warnings):
        output.complain(f"warning: {warning}")
    pools, instances = len(config.spec.pool), len(target.instances)
    output.show(f"{config_file}: good; pools: {pools}, instances: {instances}")
    return Exit.good


@cli.command()
@json_option
@click.option("--watch", "again", is_flag=True, help="Go on until interrupted, with every change.")
@socket_option
def status(*, as_json: bool, again: bool, socket: Path) -> Exit:
    """Show who serves, and why the others do not.

    Ends with 0 when every wanted instance is in rotation and nothing hinders the
    agent, with 1 when not, and with 3 when the agent cannot be reached.

    \b
    Example:
      ovms-scalerctl status
      ovms-scalerctl status --watch
      ovms-scalerctl status --json | jq '.instances[].state'
    """
    from ovms_scaler.ctl.client import read_status
    from ovms_scaler.ctl.verdict import is_good

    if again:
        from ovms_scaler.ctl.watch import watch

        watch(lambda: read_status(socket), as_json=as_json)
    document = read_status(socket)
    if as_json:
        output.show_json(document)
    else:
        from ovms_scaler.ctl.status_view import show_status

        show_status(document)
    return Exit.good if is_good(document) else Exit.bad_news


@cli.command()
def version() -> Exit:
    """Show the version.

    \b
    Example:
      ovms-scalerctl version
    """
    output.show(f"{PROGRAM} {__version__}")
    return Exit.good


@cli.command(hidden=True)
def schema() -> Exit:
    """Print the JSON Schema of the configuration, as in packaging/config.schema.json.

    \b
    Example:
      python3 -m ovms_scaler.ctl schema >packaging/config.schema.json
    """
    from ovms_scaler.core import spec

    output.show_json(spec.schema())
    return Exit.good


for _verb in orders.VERBS:
    cli.add_command(_verb)
