# SPDX-License-Identifier: Apache-2.0
"""The verb that makes the first configuration."""

from pathlib import Path

import click

from ovms_scaler.ctl import output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import CONFIG, json_option, socket_option, sysroot_option

STDOUT = "-"
# Names of core.first_config.Where and the default of a pool, which are not imported for --help.
WHERE = ("numa", "gpu", "both", "hetero", "whole")
LISTEN = "8000"


@click.command()
@click.option(
    "--models",
    "directories",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Look for models below DIR; may be repeated.  [default: /srv/models, /opt/models and "
    "/var/lib/ovms/models]",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help="Serve this one: the directory of a model, or an OVMS config.json.",
)
@click.option(
    "--model-name", metavar="NAME", help="What clients call the model.  [default: its path below DIR]"
)
@click.option(
    "--placement",
    type=click.Choice(WHERE),
    help="Where to serve it; both is numa and gpu behind one address.  [default: numa without GPUs]",
)
@click.option(
    "--listen",
    default=LISTEN,
    show_default=True,
    metavar="ADDRESS",
    help="Port, or ADDRESS:PORT, for clients.",
)
@click.option(
    "--binary",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="The ovms program.  [default: /opt/ovms/bin/ovms, or as in PATH]",
)
@click.option(
    "--output", "place", metavar="FILE", help=f"Where to write, - for standard output.  [default: {CONFIG}]"
)
@click.option("--force", is_flag=True, help="Replace a configuration, and keep it as FILE.old.")
@click.option("--no-input", is_flag=True, help="Ask nothing; fail where something cannot be known.")
@sysroot_option
@json_option
@socket_option
def init(
    *,
    directories: tuple[Path, ...],
    model: Path | None,
    model_name: str | None,
    placement: str | None,
    listen: str,
    binary: Path | None,
    place: str | None,
    force: bool,
    no_input: bool,
    sysroot: Path,
    as_json: bool,
    socket: Path,
) -> Exit:
    """Write the first configuration, from what is found here.

    Finds models, the ovms program, NUMA nodes and GPUs. On a terminal it asks what
    it cannot know: which of several models, and whether to use CPUs or GPUs.
    Nothing is overwritten without --force, and nothing is started.

    \b
    Example:
      ovms-scalerctl init
      ovms-scalerctl init --model /srv/models/org/name --placement gpu
      ovms-scalerctl init --no-input --output -
    """
    from ovms_scaler import first
    from ovms_scaler.ctl.busy import busy
    from ovms_scaler.ctl.first_view import Written, read_next, show_written, written_document
    from ovms_scaler.ctl.questions import Wishes, settle

    if place is None and sysroot.resolve() != Path("/"):
        raise click.UsageError("--sysroot is about another machine: --output says where to write")
    file = None if place == STDOUT else Path(place or CONFIG)
    if file is not None:
        first.check_place(file, force=force)
    with busy("looking for models"):
        found = first.look(directories, model=model, binary=binary, sysroot=sysroot)
    wishes = Wishes(model_name=model_name, placement=placement, listen=listen)
    settled = settle(found, wishes, may_ask=not no_input)
    with busy("looking at the model"):
        draft = first.draft(settled, found, file or Path(CONFIG), sysroot=sysroot)
    written = Written(
        file=file,
        kept=first.write(file, draft.text) if file is not None else None,
        first=settled,
        found=found,
        draft=draft,
        next=read_next(file, socket) if file is not None else (),
    )
    if as_json:
        output.show_json(written_document(written))
    else:
        show_written(written)
    return Exit.good


VERBS = (init,)
