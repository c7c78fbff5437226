# SPDX-License-Identifier: Apache-2.0
"""The verbs that look at the machine and the configuration, without the agent."""

from pathlib import Path

import click

from ovms_scaler.ctl import output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import CONFIG, config_option, json_option, sysroot_option


@click.command()
@sysroot_option
@json_option
def topology(*, sysroot: Path, as_json: bool) -> Exit:
    """Show NUMA nodes, CPUs, memory and GPUs of this machine.

    \b
    Example:
      ovms-scalerctl topology
      ovms-scalerctl topology --sysroot /tmp/copied-host --json
    """
    from ovms_scaler.ctl.busy import busy
    from ovms_scaler.offline import read_machine

    with busy("looking at the machine"):
        found = read_machine(sysroot)
    if as_json:
        from ovms_scaler.core.topology import topology_document

        output.show_json(topology_document(found))
    else:
        from ovms_scaler.ctl import tables
        from ovms_scaler.ctl.topology_view import render_topology

        tables.show(render_topology(found))
    return Exit.good


@click.command()
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
    from ovms_scaler.ctl.busy import busy
    from ovms_scaler.ctl.changes import list_actions, list_changes, plan_document
    from ovms_scaler.offline import preview

    with busy("looking at the machine and the models"):
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


@click.command()
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
@json_option
def render(*, config_file: Path, sysroot: Path, directory: Path, as_json: bool) -> Exit:
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
    from ovms_scaler.ctl.busy import busy
    from ovms_scaler.ctl.judgement import list_warnings
    from ovms_scaler.offline import preview_target, render_files, write_rendered

    with busy("rendering"):
        target, more = preview_target(read_config(config_file), sysroot)
        written = write_rendered(directory, render_files(target))
    warnings = list_warnings(target, more)
    if as_json:
        output.show_json({"files": list(written), "warnings": warnings})
        return Exit.good
    for warning in warnings:
        output.complain(f"warning: {warning}")
    for path in written:
        output.show(path)
    return Exit.good


@click.command("check-config")
@click.argument(
    "config_file", type=click.Path(path_type=Path, readable=False), default=CONFIG, metavar="[FILE]"
)
@sysroot_option
@json_option
def check_config(*, config_file: Path, sysroot: Path, as_json: bool) -> Exit:
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
    from ovms_scaler.ctl.busy import busy
    from ovms_scaler.ctl.judgement import config_document, list_warnings
    from ovms_scaler.errors import ConfigError
    from ovms_scaler.offline import preview_target

    try:
        with busy("looking at the machine and the models"):
            config = read_config(config_file)
            target, more = preview_target(config, sysroot)
    except ConfigError as error:
        if not as_json:
            raise
        output.show_json(config_document(error.problems, ()))
        return Exit.bad_news
    warnings = list_warnings(target, more)
    if as_json:
        output.show_json(config_document((), warnings))
        return Exit.good
    for warning in warnings:
        output.complain(f"warning: {warning}")
    pools, instances = len(config.spec.pool), len(target.instances)
    output.show(f"{config_file}: good; pools: {pools}, instances: {instances}")
    return Exit.good


VERBS = (topology, plan, render, check_config)
