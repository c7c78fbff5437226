# SPDX-License-Identifier: Apache-2.0
"""The verbs about releases of OpenVINO Model Server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ovms_scaler.ctl import output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import config_option, json_option, socket_option
from ovms_scaler.ctl.verbs.orders import outage_option
from ovms_scaler.errors import RefusedError

if TYPE_CHECKING:
    from ovms_scaler.config import Config
    from ovms_scaler.releases.releases import Releases

wait_option = click.option(
    "--wait/--no-wait", default=True, help="Whether to follow the restarts to their end, the default."
)


def _check_sum(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """As sha256sum prints it: the sum, and then maybe a name."""
    if value is None:
        return None
    found = value.strip().partition(" ")[0].lower()
    if len(found) != 64 or found.strip("0123456789abcdef"):
        raise click.BadParameter("must be 64 hexadecimal digits")
    return found


@click.group()
def engine() -> None:
    """Install releases of OVMS, and go from one to another.

    Releases lie beside each other in /opt/ovms. Instances are started from the
    current one. Another one is taken into use by a rolling restart.

    \b
    Example:
      ovms-scalerctl engine install ovms_ubuntu22_2026.3.1_python_off.tar.gz
      ovms-scalerctl engine rollback
    """


@engine.command()
@click.argument("tarball", type=click.Path(path_type=Path, readable=False), metavar="TARBALL")
@click.option("--sha256", metavar="SUM", callback=_check_sum, help="What the archive's SHA-256 must be.")
@click.option("--force", is_flag=True, help="Put it beside another build of the same version.")
@click.option("--no-switch", is_flag=True, help="Go on with the current release.")
@outage_option
@wait_option
@json_option
@config_option
@socket_option
def install(
    *,
    tarball: Path,
    sha256: str | None,
    force: bool,
    no_switch: bool,
    allow_outage: bool,
    wait: bool,
    as_json: bool,
    config_file: Path,
    socket: Path,
) -> Exit:
    """Unpack a release, and have all instances go over to it.

    It is tried as the user of the instances, with the libraries of this system.
    Whatever is wrong with it changes nothing. Instances are then restarted one
    after the other, none after one that failed; the release before is kept.

    \b
    Example:
      ovms-scalerctl engine install ovms_ubuntu22_2026.3.1_python_off.tar.gz
      ovms-scalerctl engine install ovms.tar.gz --sha256 "$(cat ovms.sha256)"
    """
    from ovms_scaler.ctl import engine_view

    config, releases = _open(config_file, "install a release")
    with engine_view.progress(as_json=as_json) as report:
        installed = releases.install(tarball, sha256=sha256, force=force, report=report)
    document = engine_view.install_document(installed, sha256_given=sha256 is not None)
    if sha256 is None:
        engine_view.warn_of_sum(tarball, installed)
    if not as_json:
        engine_view.show_installed(installed)
    if not no_switch:
        return _switch(
            releases, config, document, socket=socket, allow_outage=allow_outage, wait=wait, as_json=as_json
        )
    if as_json:
        output.show_json(document | {"switched": False, "before": None, "rolling": None})
    else:
        output.show(f"to take it into use: ovms-scalerctl engine use {installed.name}")
    return Exit.good


@engine.command()
@click.argument("version", metavar="VERSION")
@outage_option
@wait_option
@json_option
@config_option
@socket_option
def use(
    *, version: str, allow_outage: bool, wait: bool, as_json: bool, config_file: Path, socket: Path
) -> Exit:
    """Have all instances go over to an installed release.

    \b
    Example:
      ovms-scalerctl engine use 2026.3.1
    """
    config, releases = _open(config_file, "switch")
    document = {"version": version}
    return _switch(
        releases, config, document, socket=socket, allow_outage=allow_outage, wait=wait, as_json=as_json
    )


@engine.command()
@click.argument("version", metavar="[VERSION]", required=False)
@outage_option
@wait_option
@json_option
@config_option
@socket_option
def rollback(
    *, version: str | None, allow_outage: bool, wait: bool, as_json: bool, config_file: Path, socket: Path
) -> Exit:
    """Have all instances go back to the release before.

    With VERSION they go to that one. Instances that run it still, as after a
    switch that failed, are left alone.

    \b
    Example:
      ovms-scalerctl engine rollback
    """
    config, releases = _open(config_file, "go back")
    name = version or releases.previous()
    if name is None:
        raise RefusedError(
            "cannot go back: there is no release before the current one", hint="ovms-scalerctl engine list"
        )
    document = {"version": name}
    return _switch(
        releases, config, document, socket=socket, allow_outage=allow_outage, wait=wait, as_json=as_json
    )


@engine.command("list")
@json_option
@config_option
def list_releases(*, as_json: bool, config_file: Path) -> Exit:
    """Show the releases, and which instances run which.

    \b
    Example:
      ovms-scalerctl engine list
    """
    from ovms_scaler.ctl import engine_view, tables

    document = engine_view.list_document(_read(config_file)[1])
    if as_json:
        output.show_json(document)
    else:
        tables.show(engine_view.render_list(document))
    return Exit.good


@engine.command()
@click.argument("version", metavar="VERSION")
@json_option
@config_option
def remove(*, version: str, as_json: bool, config_file: Path) -> Exit:
    """Remove a release that nobody uses.

    \b
    Example:
      ovms-scalerctl engine remove 2026.2.0
    """
    from ovms_scaler.ctl.busy import busy

    releases = _open(config_file, "remove a release")[1]
    with busy(f"removing {version}"):
        releases.remove(version)
    if as_json:
        output.show_json({"removed": version})
    else:
        output.show(f"removed: {version}")
    return Exit.good


def _open(config_file: Path, what: str) -> tuple[Config, Releases]:
    if os.geteuid() != 0:
        raise RefusedError(f"cannot {what}: only root may", hint="run this as root")
    return _read(config_file)


def _read(config_file: Path) -> tuple[Config, Releases]:
    from ovms_scaler.config import read_written
    from ovms_scaler.releases.releases import Releases, find_root

    config = read_written(config_file)
    return config, Releases(find_root(config))


def _switch(
    releases: Releases,
    config: Config,
    document: Mapping[str, Any],
    *,
    socket: Path,
    allow_outage: bool,
    wait: bool,
    as_json: bool,
) -> Exit:
    from ovms_scaler.ctl.switching import Wish, switch

    wish = Wish(socket=socket, allow_outage=allow_outage, wait=wait, as_json=as_json)
    status, switched = switch(releases, document["version"], config, wish)
    if as_json:
        output.show_json({**document, **switched})
    return status


VERBS = (engine,)
