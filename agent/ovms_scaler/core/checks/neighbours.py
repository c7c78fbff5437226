# SPDX-License-Identifier: Apache-2.0
"""Other programs on the cores that are to be an instance's own."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from shlex import quote

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    """A unit, or a process in none, that is bound to some CPUs; ``process`` is one of its processes."""

    name: str
    process: Process
    cpus: frozenset[int]


def judge_cores(
    processes: Iterable[Process], instances: Iterable[Instance], everywhere: frozenset[int]
) -> tuple[Finding, ...]:
    """Who is bound to fewer CPUs than ``everywhere`` and shares some with an instance.

    Units that are bound alike, as all of a slice, are one finding.
    """
    check = "shared-cores"
    owned = [(one.id, one.cpus) for one in instances if one.cpus]
    alike: dict[frozenset[int], list[_Bound]] = {}
    for one in _find_bound(processes, everywhere):
        alike.setdefault(one.cpus, []).append(one)
    found = []
    for cpus, units in alike.items():
        shared = {name: own & cpus for name, own in owned if own & cpus}
        if not shared:
            continue
        common = format_cpu_list(cpu for part in shared.values() for cpu in part)
        first = units[0]
        reason = (
            f"{first.process.name} (process {first.process.pid}) is bound to CPUs {format_cpu_list(cpus)}, "
            f"of which {common} are for {', '.join(shared)}: each slows the other down"
        )
        more = f" and {len(units) - 1} more" if len(units) > 1 else ""
        remedy, note = _remedy(first, common)
        found.append(warning(check, f"{first.name}{more}", reason, remedy, note))
    return or_good(found, check, "CPUs", "nobody else is bound to those of an instance")


def _find_bound(processes: Iterable[Process], everywhere: frozenset[int]) -> list[_Bound]:
    bound: dict[str, _Bound] = {}
    for process in processes:
        if everywhere and process.cpus < everywhere:
            name = process.unit or f"process {process.pid}"
            known = bound.get(name, _Bound(name=name, process=process, cpus=frozenset()))
            bound[name] = replace(known, cpus=known.cpus | process.cpus)
    return list(bound.values())


def _remedy(one: _Bound, common: str) -> tuple[str, str]:
    mine = f'reserve_cpus = "{common}" in the pool'
    if one.name.endswith((".service", ".scope", ".slice")):
        return f"systemctl edit {quote(one.name)}", f"set CPUAffinity= or AllowedCPUs= there; or {mine}"
    return f"taskset -cp {one.process.pid}", f"bind it elsewhere; or {mine}"


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
            f"systemctl disable --now {quote(one.unit)}"
            if one.unit.endswith(".service")
            else f"kill {one.pid}",
        )
        for one in processes
        if one.name == engine[:15] and "--version" not in one.arguments
    ]
    return or_good(found, check, "engines", "none runs beside those of the agent")
