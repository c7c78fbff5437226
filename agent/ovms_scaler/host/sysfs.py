# SPDX-License-Identifier: Apache-2.0
"""Reads the topology of a host from its sysfs and procfs, or from a copy of them.

What the files mean: ABI/stable/sysfs-devices-node, admin-guide/cputopology.rst and admin-guide/cgroup-v2.rst
of the kernel's documentation, and proc(5).
"""

import re
from pathlib import Path

from ovms_scaler.core.cpulist import format_cpu_list, parse_cpu_list
from ovms_scaler.core.topology import CoreType, Node, Topology, group_cores
from ovms_scaler.errors import HostError, InputError
from ovms_scaler.host.accel import read_accelerators
from ovms_scaler.host.drm import group_may_open, read_gpus
from ovms_scaler.host.numa import read_nodes, read_whole
from ovms_scaler.host.pci import Nodes
from ovms_scaler.host.sysroot import Survey

_CPUS = "sys/devices/system/cpu"
_CPU = re.compile(r"cpu([0-9]{1,5})")
_CGROUPS = ("sys/fs/cgroup/ovms.slice", "sys/fs/cgroup")
_STATUS = "proc/1/status"
# Enough for the first processor: all are described alike, and printing 384 of them takes the kernel long.
_CPUINFO_BYTES = 1 << 14
_FEATURES = re.compile(r"^(?:flags|Features)[ \t]*:(.*)$", re.MULTILINE)


def read_topology(root: Path = Path("/")) -> Topology:
    """Read ``root``/sys and ``root``/proc; what is missing or makes no sense there becomes a warning.

    Raises HostError when there is no CPU to be found below ``root``.
    """
    survey = Survey(root)
    online, offline = _read_presence(survey, root=root)
    found = read_nodes(survey, online=online)
    nodes = found or (read_whole(survey, online=online),)
    isolated = survey.numbers(f"{_CPUS}/isolated")
    if isolated is None:
        survey.warn(f"{_CPUS}/isolated is missing: no CPU is taken as isolated")
    flags = _read_flags(survey)
    homes = Nodes(ids=[node.id for node in nodes], numa=bool(found))
    # The device nodes of this machine say nothing of a copied one.
    may_open = group_may_open if root == Path("/") else None
    return Topology(
        nodes=nodes,
        cores=_read_cores(survey, online=online, nodes=nodes),
        packages=_read_packages(survey, online=online),
        online=online,
        offline=offline,
        isolated=isolated or frozenset(),
        allowed=_read_allowed(survey, online=online),
        allowed_memory_nodes=_read_allowed_memory(survey, nodes=nodes),
        cpu_flags=flags,
        core_types=_read_core_types(survey, online=online),
        numa=bool(found),
        gpus=read_gpus(survey, nodes=homes, virtual="hypervisor" in flags, may_open=may_open),
        accelerators=read_accelerators(survey, nodes=homes),
        # Last, because every reading above may add to them.
        warnings=survey.warnings,
    )


def _read_presence(survey: Survey, *, root: Path) -> tuple[frozenset[int], frozenset[int]]:
    """The online CPUs, and those that are present beside them."""
    found = (_CPU.fullmatch(name) for name in survey.tree.names(_CPUS))
    directories = frozenset(int(match[1]) for match in found if match)
    present = (survey.numbers(f"{_CPUS}/present") or frozenset()) | directories
    switched_off = survey.numbers(f"{_CPUS}/offline") or frozenset()
    online = survey.numbers(f"{_CPUS}/online")
    if not online:
        # A CPU that cannot be switched off has no such file.
        states = {cpu: survey.number(f"{_CPUS}/cpu{cpu}/online") for cpu in present}
        online = frozenset(cpu for cpu in present if states[cpu] != 0 and cpu not in switched_off)
        if online:
            survey.warn(f"{_CPUS}/online is missing: CPUs {format_cpu_list(online)} are taken as online")
    elif contradiction := online & switched_off:
        survey.warn(f"CPUs {format_cpu_list(contradiction)} are listed online and offline, taken as online")
    if not online:
        raise HostError(
            f"cannot read the topology below {str(root)!r}: no CPU is listed in {_CPUS}",
            hint="--sysroot wants a directory that contains sys/ and proc/",
        )
    return online, (present or switched_off) - online


def _read_cores(
    survey: Survey, *, online: frozenset[int], nodes: tuple[Node, ...]
) -> tuple[frozenset[int], ...]:
    siblings: dict[int, frozenset[int]] = {}
    silent: set[int] = set()
    for cpu in online:
        named = _read_siblings(survey, cpu)
        if named is None:
            silent.add(cpu)
        else:
            siblings[cpu] = named & online
    silent.difference_update(*siblings.values())
    by_ids: dict[tuple[int, int, int], set[int]] = {}
    for cpu in sorted(silent):
        if (ids := _read_core_ids(survey, cpu)) is not None:
            by_ids.setdefault(ids, set()).add(cpu)
            silent.discard(cpu)
    siblings.update((cpu, frozenset(core)) for core in by_ids.values() for cpu in core)
    if silent:
        survey.warn(f"CPUs {format_cpu_list(silent)} name no siblings: each is taken as a core of its own")
    cores, contradicting = group_cores(online, siblings)
    if contradicting:
        survey.warn(f"CPUs {format_cpu_list(contradicting)} contradict siblings, the lowest is believed")
    home = {cpu: node.id for node in nodes for cpu in node.cpus}
    for core in cores:
        if len(homes := {home[cpu] for cpu in core if cpu in home}) > 1:
            survey.warn(f"CPUs {format_cpu_list(core)} are one core on nodes {format_cpu_list(homes)}")
    return cores


def _read_siblings(survey: Survey, cpu: int) -> frozenset[int] | None:
    """The threads of a CPU's core, itself included, from the first file that makes sense."""
    directory = f"{_CPUS}/cpu{cpu}/topology"
    for name in ("core_cpus_list", "thread_siblings_list"):
        named = survey.numbers(f"{directory}/{name}")
        if named is not None and cpu in named:
            return named
    if survey.tree.is_directory(directory):
        for name in ("core_cpus", "thread_siblings"):
            named = survey.mask(f"{directory}/{name}")
            if named is not None and cpu in named:
                return named
    return None


def _read_core_ids(survey: Survey, cpu: int) -> tuple[int, int, int] | None:
    """Socket, die and core: the last is unique within a die only. Linux before 5.2 knows no dies."""
    directory = f"{_CPUS}/cpu{cpu}/topology"
    package = survey.number(f"{directory}/physical_package_id")
    core = survey.number(f"{directory}/core_id")
    if package is None or core is None or package < 0 or core < 0:
        return None
    return package, survey.number(f"{directory}/die_id") or 0, core


def _read_packages(survey: Survey, *, online: frozenset[int]) -> tuple[tuple[int, frozenset[int]], ...]:
    packages: dict[int, set[int]] = {}
    for cpu in online:
        package = survey.number(f"{_CPUS}/cpu{cpu}/topology/physical_package_id")
        # The kernel says -1 where the firmware does not tell.
        if package is not None and package >= 0:
            packages.setdefault(package, set()).add(cpu)
    return tuple((package, frozenset(packages[package])) for package in sorted(packages))


def _read_core_types(survey: Survey, *, online: frozenset[int]) -> tuple[tuple[int, CoreType], ...]:
    """From the performance counters, of which a hybrid processor has a set for each type of core."""
    performance = survey.numbers("sys/devices/cpu_core/cpus") or frozenset()
    efficiency = survey.numbers("sys/devices/cpu_atom/cpus") or frozenset()
    efficiency |= survey.numbers("sys/devices/cpu_lowpower/cpus") or frozenset()
    if both := performance & efficiency:
        survey.warn(f"CPUs {format_cpu_list(both)} are listed as both types of core, ignoring both lists")
    if not performance or not efficiency or both:
        return ()
    types = dict.fromkeys(performance & online, CoreType.PERFORMANCE)
    types |= dict.fromkeys(efficiency & online, CoreType.EFFICIENCY)
    return tuple(sorted(types.items()))


def _read_flags(survey: Survey) -> frozenset[str]:
    text = survey.tree.read("proc/cpuinfo", max_bytes=_CPUINFO_BYTES)
    if text is None:
        survey.warn("proc/cpuinfo is missing: what the CPUs can do is unknown")
    match = _FEATURES.search(text or "")
    return frozenset(match[1].split()) if match else frozenset()


def _read_allowed(survey: Survey, *, online: frozenset[int]) -> frozenset[int]:
    """What a unit may run on: PID 1's mask, which every service inherits, and the cpuset of its slice."""
    mask = _read_status(survey, "Cpus_allowed_list")
    if mask is None:
        survey.warn(f"{_STATUS} says no Cpus_allowed_list: PID 1 is taken to be allowed every online CPU")
        mask = online
    cpuset = _read_cpuset(survey, "cpuset.cpus.effective")
    allowed = online & mask & (online if cpuset is None else cpuset)
    if not allowed:
        survey.warn("PID 1's mask and the cpuset leave none of the online CPUs to be used")
    return allowed


def _read_allowed_memory(survey: Survey, *, nodes: tuple[Node, ...]) -> frozenset[int]:
    usable = frozenset(node.id for node in nodes if node.has_memory)
    mems = _read_status(survey, "Mems_allowed_list")
    if mems is None:
        survey.warn(f"{_STATUS} says no Mems_allowed_list: PID 1 is taken to be allowed every node's memory")
        mems = usable
    cpuset = _read_cpuset(survey, "cpuset.mems.effective")
    return usable & mems & (usable if cpuset is None else cpuset)


def _read_status(survey: Survey, field: str) -> frozenset[int] | None:
    for line in (survey.tree.read(_STATUS) or "").splitlines():
        key, _, value = line.partition(":")
        if key == field:
            try:
                return parse_cpu_list(value)
            except InputError as error:
                survey.warn(f"{_STATUS}: {error.message}, ignoring the line")
    return None


def _read_cpuset(survey: Survey, name: str) -> frozenset[int] | None:
    """An empty cpuset restricts nothing: the kernel lets such a group use its parent's."""
    for cgroup in _CGROUPS:
        if numbers := survey.numbers(f"{cgroup}/{name}"):
            return numbers
    return None
