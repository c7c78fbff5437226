# SPDX-License-Identifier: Apache-2.0
"""The drop-in that makes a unit of one instance out of the template ovms@.service."""

from pathlib import PurePosixPath

from ovms_scaler.core.cpulist import format_cpu_list, parse_cpu_list
from ovms_scaler.core.engine import Command
from ovms_scaler.core.instance import Instance, unit_name
from ovms_scaler.core.spec import Memory
from ovms_scaler.errors import InputError

UNIT_DIRECTORY = PurePosixPath("/run/systemd/system")
DROP_IN = "50-placement.conf"


def drop_in_path(instance_id: str) -> str:
    """Where the template asserts that its placement stands."""
    return str(UNIT_DIRECTORY / f"{unit_name(instance_id)}.d" / DROP_IN)


def parse_cpus(text: str) -> frozenset[int] | None:
    """The CPUs in a drop-in of ours; None for one that binds to none, and for nonsense."""
    values = [line.partition("=")[2] for line in text.splitlines() if line.startswith("CPUAffinity=")]
    try:
        return parse_cpu_list(values[-1]) or None if values else None
    except InputError:
        return None


def render_drop_in(instance: Instance, command: Command, *, model: str) -> str:
    """The placement and the command of one instance in the syntax of systemd.unit(5) and systemd.exec(5)."""
    where = _where(instance)
    lines = [
        f"# Written by ovms-scaler for instance {instance.id}; it is replaced whenever the plan changes.",
        f"# Add your own settings with: systemctl edit {instance.unit}",
        "",
        "[Unit]",
        f"Description={_value(f'OpenVINO Model Server, {instance.id}: {model} {where}')}",
        *_bindings(instance),
        "",
        "[Service]",
        *_placement(instance),
        *_devices(instance),
        f"LimitNOFILE={command.open_files}",
        *(f"Environment={_quote(f'{name}={text}')}" for name, text in command.environment.items()),
        "ExecStart=",
        "ExecStart=" + " \\\n    ".join(_options(_command_line(*command.argv))),
    ]
    return "\n".join(lines) + "\n"


def _where(instance: Instance) -> str:
    if instance.gpus:
        return f"on GPU {', '.join(instance.gpus)}"
    return "unbound" if instance.node is None else f"on NUMA node {instance.node}"


def _bindings(instance: Instance) -> list[str]:
    """When a card goes, systemd itself stops the unit, which takes the instance out of rotation.

    systemd has a unit for each device with udev's tag "systemd", which the package gives to render nodes
    (systemd.device(5)). BindsTo= would also have a start wait for a device that is not there, for 90 s.
    """
    units = [f"{node.strip('/').replace('/', '-')}.device" for node in instance.render_nodes]
    bindings = [f"{key}={' '.join(units)}" for key in ("StopPropagatedFrom", "After") if units]
    return [*bindings, *(f"AssertPathExists={node}" for node in instance.render_nodes)]


def _devices(instance: Instance) -> list[str]:
    """Its own render nodes, and no other: the template has PrivateDevices=, which opens and shows none.

    "-": when a card was pulled out, ExecStopPost= of the template must still run, in the same namespace.
    """
    if not instance.render_nodes:
        return []
    return [
        "SupplementaryGroups=render",
        *(f"DeviceAllow={node} rw" for node in instance.render_nodes),
        *(f"BindPaths=-{node}" for node in instance.render_nodes),
    ]


def _placement(instance: Instance) -> list[str]:
    cpus = format_cpu_list(instance.cpus)
    nodes = format_cpu_list(instance.memory_nodes)
    lines = [f"CPUAffinity={cpus}", f"AllowedCPUs={cpus}"] if instance.cpus else []
    if instance.memory is not None:
        lines += [f"NUMAPolicy={instance.memory}", f"NUMAMask={nodes}"]
        if instance.memory is Memory.bind:
            # With "preferred" this would turn the preference into a hard limit.
            lines.append(f"AllowedMemoryNodes={nodes}")
    return lines


def _options(words: list[str]) -> list[str]:
    """One line for the program, then one for each option with its value."""
    lines: list[str] = []
    for word in words:
        if word.startswith("--") or not lines:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return lines


def _command_line(program: str, *arguments: str) -> list[str]:
    """Words of ExecStart=: in all but the program's path, systemd.service(5) also expands ``$``."""
    return [_quote(program), *(_quote(word.replace("$", "$$")) for word in arguments)]


def _quote(text: str) -> str:
    """A word as systemd.syntax(7) reads it: specifiers and backslashes doubled, quoted when it has to be."""
    text = text.replace("\\", "\\\\").replace("%", "%%")
    if text and not any(char in text for char in " \t\"'\\;"):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def _value(text: str) -> str:
    """A whole value: only specifiers mean something in it."""
    return text.replace("%", "%%")
