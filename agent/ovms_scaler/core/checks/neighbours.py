# SPDX-License-Identifier: Apache-2.0
"""Other programs on the cores that are to be an instance's own."""

from collections.abc import Iterable
from dataclasses import dataclass

from ovms_scaler.core.checks.finding import Finding, or_good, warning
from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.instance import Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of user space; ``unit`` is its unit, or its control group where it is in none."""

    pid: int
    name: str
    unit: str
    cpus: frozenset[int]
    arguments: tuple[str, ...] = ()


def judge_cores(
    processes: Iterable[Process], instances: Iterable[Instance], everywhere: frozenset[int]
) -> tuple[Finding, ...]:
    """Who is bound to fewer CPUs than ``everywhere`` and shares some with an instance."""
    check = "shared-cores"
    owned = [(one.id, one.cpus) for one in instances if one.cpus]
    bound: dict[str, tuple[Process, frozenset[int]]] = {}
    for process in processes:
        if everywhere and process.cpus < everywhere:
            key = process.unit or f"process {process.pid}"
            known = bound.get(key)
            bound[key] = (
                known[0] if known else process,
                process.cpus | (known[1] if known else frozenset()),
            )
    found = []
    for key, (process, cpus) in sorted(bound.items()):
        if shared := {name: own & cpus for name, own in owned if own & cpus}:
            common = format_cpu_list(cpu for part in shared.values() for cpu in part)
            reason = (
                f"{process.name} (process {process.pid}) is bound to CPUs {format_cpu_list(cpus)}, of which "
                f"{common} are for {', '.join(shared)}: each slows the other down"
            )
            found.append(warning(check, key, reason, _remedy(key, process, common)))
    return or_good(found, check, "CPUs", "nobody else is bound to those of an instance")


def _remedy(key: str, process: Process, common: str) -> str:
    mine = f'reserve_cpus = "{common}" in the pool'
    if key.endswith((".service", ".scope", ".slice")):
        return f"systemctl edit {key} (CPUAffinity=, AllowedCPUs=) or stop it; or {mine}"
    return f"taskset -p {process.pid} shows it; bind it elsewhere; or {mine}"


def judge_engines(processes: Iterable[Process], engine: str) -> tuple[Finding, ...]:
    """Engines that somebody else started, but for those that only tell their version, as to this program.

    The kernel cuts names to 15 characters.
    """
    check = "other-engines"
    found = [
        warning(
            check,
            one.unit or f"process {one.pid}",
            f"{one.name} (process {one.pid}) runs on CPUs {format_cpu_list(one.cpus)}, and the agent did "
            "not start it",
            f"systemctl disable --now {one.unit}" if one.unit.endswith(".service") else f"kill {one.pid}",
        )
        for one in processes
        if one.name == engine[:15] and "--version" not in one.arguments
    ]
    return or_good(found, check, "engines", "none runs beside those of the agent")
