# SPDX-License-Identifier: Apache-2.0
"""Asks somebody at a terminal what nobody else can know of a first configuration."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from ovms_scaler.core.first_config import First, Where
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.quantities import format_bytes
from ovms_scaler.ctl import output, tables
from ovms_scaler.first import Findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What was said on the command line; None where nothing was."""

    model_name: str | None
    placement: str | None
    listen: str


def settle(found: Findings, wishes: Wishes, *, may_ask: bool) -> First:
    """What the configuration is to say.

    Raises click.UsageError with the option to use when something is not known and cannot be asked.
    """
    # Questions go to standard error: what is printed may be meant for a file.
    may_ask = may_ask and sys.stdin.isatty() and sys.stderr.isatty()
    model = _settle_model(found, may_ask=may_ask)
    return First(
        model=model,
        model_name=_settle_name(found, model, wishes, may_ask=may_ask),
        where=_settle_where(found, wishes, may_ask=may_ask),
        listen=wishes.listen,
        binary=found.binary,
    )


def _settle_model(found: Findings, *, may_ask: bool) -> ModelFacts:
    if len(found.models) == 1:
        return found.models[0]
    if may_ask:
        rows = [(found.name(model) or _kind(model), _size(model), model.path) for model in found.models]
        return found.models[_choose(f"{len(rows)} models were found. Which one is to be served?", rows)]
    paths = "".join(f"\n  --model {model.path}" for model in found.models)
    raise click.UsageError(f"{len(found.models)} models were found; say which one is to be served:{paths}")


def _settle_name(found: Findings, model: ModelFacts, wishes: Wishes, *, may_ask: bool) -> str | None:
    if model.kind is ModelKind.config:
        if wishes.model_name is not None:
            raise click.UsageError(f"--model-name has no effect: {model.path} names its models itself")
        return None
    if (name := wishes.model_name or found.name(model)) is not None:
        return name
    if may_ask:
        return str(
            click.prompt(f"What do clients call the model in {output.printable(model.path)}?", err=True)
        )
    raise click.UsageError(f"{model.path} does not tell what clients call this model: say --model-name NAME")


def _settle_where(found: Findings, wishes: Wishes, *, may_ask: bool) -> Where:
    if wishes.placement is not None:
        return Where(wishes.placement)
    if not found.gpus:
        return Where.numa
    if may_ask:
        gpus = ", ".join(gpu.address for gpu in found.gpus)
        rows = [
            (Where.numa.value, "on CPUs, an instance on each NUMA node"),
            (Where.gpu.value, f"an instance on each GPU: {gpus}"),
            (Where.both.value, "on CPUs and on GPUs, behind one address"),
        ]
        return Where(rows[_choose(f"This machine has {found.machine} to use. Where is it to run?", rows)][0])
    raise click.UsageError(f"this machine has {found.machine} to use: say --placement numa, gpu or both")


def _choose(question: str, rows: Sequence[tuple[str, ...]]) -> int:
    """The index of the row that was chosen."""
    table = tables.make_table(*([""] * (len(rows[0]) + 1)))
    table.show_header = False
    for number, row in enumerate(rows, start=1):
        table.add_row(tables.cell(number), *map(tables.cell, row))
    output.complain(question)
    tables.show(table, err=True)
    return int(click.prompt("Number", type=click.IntRange(1, len(rows)), err=True)) - 1


def _kind(model: ModelFacts) -> str:
    return f"{len(model.served_names)} models of a config.json"


def _size(model: ModelFacts) -> str:
    return "-" if model.weights_bytes is None else format_bytes(model.weights_bytes)
