# SPDX-License-Identifier: Apache-2.0
"""The plan, for people."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ovms_scaler.config import Config
from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.spec import Pool
from ovms_scaler.ctl.changes import Action, FileChange, describe_actions, render_diff
from ovms_scaler.ctl.output import printable
from ovms_scaler.ctl.tables import cell, indented, make_table, show, stack
from ovms_scaler.offline import Preview

_FIRST = "next: ovms-scalerctl init"
_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def show_plan(
    config: Config, preview: Preview, changes: Sequence[FileChange], actions: Sequence[Action]
) -> None:
    """Print it to standard output: tables, the diff of ``changes``, the actions."""
    show(render_plan(config, preview))
    if changes:
        show(render_diff_text(changes), wrap=False)
    show(*render_actions(actions), wrap=False)


def render_plan(config: Config, preview: Preview) -> RenderableType:
    """A table for each pool, then what is wrong and what is doubtful."""
    parts: list[RenderableType] = []
    instances = preview.target.instances
    for pool in config.spec.pool:
        parts += [*_render_pool(pool, [one for one in instances if one.pool == pool.name]), ""]
    if not config.spec.pool:
        parts += [cell(f"No pool in {config.file}: nothing would serve."), indented(_FIRST), ""]
    waiting = [one for one in instances if one.is_waiting]
    parts += _render_reasons("Waiting", "bold yellow", waiting)
    parts += _render_reasons(
        "Would not be started", "bold red", [one for one in instances if not one.is_waiting]
    )
    if preview.warnings:
        parts += [cell("Warnings", "bold yellow"), *(indented(text) for text in preview.warnings), ""]
    return stack(*parts)


def render_diff_text(changes: Sequence[FileChange]) -> Text:
    """The diff in the usual colours; to be printed without wrapping, so that it can be copied."""
    text = Text(overflow="ignore", no_wrap=True)
    for line in render_diff(changes):
        style = "bold" if line.startswith(("+++ ", "--- ")) else _DIFF_STYLES.get(line[:1], "")
        text.append(printable(line) + "\n", style=style or None)
    return text


def render_actions(actions: Sequence[Action]) -> Iterator[RenderableType]:
    """Each action on a line, and how many there are."""
    if not actions:
        yield cell("Every file is as it should be: nothing to do.", "green")
        return
    yield cell("Actions", "bold")
    for action in actions:
        yield Text(printable(f"  {action['action']} {action.get('path') or action['unit']}"), no_wrap=True)
    yield cell(f"To do: {describe_actions(actions)}.", "bold")


def _render_pool(pool: Pool, instances: Sequence[Instance]) -> Iterator[RenderableType]:
    placed = [one for one in instances if not one.is_waiting]
    what = [_count(placed) if placed else "no instance"]
    if waiting := len(instances) - len(placed):
        what.append(f"{waiting} that wait{'s' if waiting == 1 else ''} for a GPU")
    yield cell(f"{pool.name}: {pool.model_name or pool.config_path}", "bold")
    yield indented(f"{', '.join(what)}, clients connect to {_where(pool)}")
    if placed:
        yield _render_on_gpus(placed) if placed[0].gpus else _render_on_cpus(placed)


def _count(placed: Sequence[Instance]) -> str:
    """How many there are, and on what; all of a pool are on the same kind of device."""
    size = len(placed[0].gpus)
    on = placed[0].device if size == 0 else "one GPU" if size == 1 else f"{size} GPUs"
    if len(placed) == 1:
        return f"1 instance on {on}"
    return f"{len(placed)} instances on {on}{' each' if size else ''}"


def _where(pool: Pool) -> str:
    return f"port {pool.listen}" if pool.listen.isdigit() else pool.listen


def _render_on_cpus(instances: Sequence[Instance]) -> Table:
    table = make_table(
        "Instance", "Node", "CPUs", "Threads", "Memory", "Port", "Weight",
        right=("Node", "Threads", "Port", "Weight"),
    )  # fmt: skip
    for one in instances:
        memory = f"{one.memory} {format_cpu_list(one.memory_nodes)}" if one.memory is not None else "any"
        table.add_row(
            cell(one.id, "red" if one.problem else ""),
            cell(one.node),
            cell(format_cpu_list(one.cpus) or "any"),
            cell(one.inference_threads),
            cell(memory),
            cell(one.port),
            cell(one.weight),
        )
    return table


def _render_on_gpus(instances: Sequence[Instance]) -> Table:
    table = make_table(
        "Instance", "GPU", "Node", "Host CPUs", "Port", "Weight", right=("Node", "Port", "Weight")
    )
    for one in instances:
        table.add_row(
            cell(one.id, "red" if one.problem else ""),
            cell(", ".join(one.gpus)),
            cell(one.node),
            cell(format_cpu_list(one.cpus)),
            cell(one.port),
            cell(one.weight),
        )
    return table


def _render_reasons(title: str, style: str, instances: Sequence[Instance]) -> list[RenderableType]:
    """Why instances are not started, each reason once with those it is about."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in instances:
        if one.problem is not None:
            reasons.setdefault((one.problem, one.hint or ""), []).append(one.id)
    if not reasons:
        return []
    parts: list[RenderableType] = [cell(title, style)]
    for (problem, hint), names in reasons.items():
        parts += [indented(f"{', '.join(names)}: {problem}")]
        parts += [indented(f"hint: {hint}", by=4)] if hint else []
    return [*parts, ""]
