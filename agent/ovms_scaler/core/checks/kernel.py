# SPDX-License-Identifier: Apache-2.0
"""Settings of the kernel that cost engines speed, memory or connections.

What each setting does is from the kernel's documentation: admin-guide/sysctl, admin-guide/pm, networking/
ip-sysctl.rst.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ovms_scaler.core.checks.finding import Finding, bad, good, or_good, warning
from ovms_scaler.core.checks.remedies import keep_in_sysfs, keep_sysctl
from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.topology import Topology

_MIB = 1 << 20
# What nginx asks for, NGX_LISTEN_BACKLOG in src/os/unix/ngx_linux_config.h.
_BACKLOG = 511
_SWAPPED_BYTES = 64 * _MIB
# Reserved and unused, of a node's memory.
_IDLE_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How the frequency of some CPUs is chosen; ``preference`` is energy_performance_preference, if any."""

    driver: str
    governor: str
    preference: str
    cpus: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """Settings; None where the kernel has no such thing. ``sysctls`` are by name.

    ``idle_huge_bytes`` is by node what is reserved as huge pages and free, ``swapped_bytes`` what of the
    instances is in swap, ``smt`` the state in cpu/smt/control.
    """

    sysctls: Mapping[str, int | None]
    policies: tuple[Policy, ...] = ()
    idle_huge_bytes: Mapping[int, int] | None = None
    swapped_bytes: int | None = None
    smt: str | None = None


def judge_balancing(facts: KernelFacts, topology: Topology, *, is_bound: bool) -> Finding:
    """Of nodes with memory one is nothing to balance between."""
    check, name = "numa-balancing", "kernel.numa_balancing"
    value = facts.sysctls.get(name)
    if not value or len([node for node in topology.nodes if node.has_memory]) < 2 or not is_bound:
        return good(check, name, "it is off, or there is nothing that is bound to one of several nodes")
    return warning(
        check,
        name,
        f"it is {value}: the kernel unmaps pages again and again to see who uses them. Where programs are "
        "bound to nodes, as instances are, its documentation says to switch it off",
        keep_sysctl(name, 0),
    )


def judge_reclaim(facts: KernelFacts) -> Finding:
    check, name = "zone-reclaim", "vm.zone_reclaim_mode"
    if not (value := facts.sysctls.get(name)):
        return good(check, name, "it is off")
    reason = (
        f"it is {value}: a node that fills up drops its page cache, models included, before it asks others"
    )
    return warning(check, name, reason, keep_sysctl(name, 0))


def judge_overcommit(facts: KernelFacts) -> Finding:
    check, name = "overcommit", "vm.overcommit_memory"
    if facts.sysctls.get(name) != 2:
        return good(check, name, "more may be reserved than there is")
    reason = (
        "it is 2: programs may not reserve more than vm.overcommit_ratio allows, and engines reserve far "
        "more than they use"
    )
    return warning(check, name, reason, keep_sysctl(name, 0))


def judge_queue(facts: KernelFacts) -> Finding:
    check, name = "listen-queue", "net.core.somaxconn"
    value = facts.sysctls.get(name)
    if value is None or value >= _BACKLOG:
        return good(check, name, f"{value if value is not None else 'not limited'}")
    reason = (
        f"it is {value}: the proxy asks for a queue of {_BACKLOG}, and of more connections at once the rest "
        "is dropped and tried again a second later"
    )
    return warning(check, name, reason, keep_sysctl(name, 4096))


def judge_files(facts: KernelFacts, limits: Mapping[str, int]) -> tuple[Finding, ...]:
    """``limits`` has LimitNOFILE= by unit; the kernel refuses one above fs.nr_open, and the unit fails."""
    check, name = "open-files", "fs.nr_open"
    most = facts.sysctls.get(name)
    unit, needed = max(limits.items(), key=lambda one: one[1], default=("", 0))
    if most is None or most >= needed:
        return (good(check, name, "the limits of the units are below it"),)
    reason = f"it is {most}, and {unit} needs a limit of {needed}: it could not start"
    return (bad(check, name, reason, keep_sysctl(name, 1048576)),)


def judge_governors(facts: KernelFacts) -> tuple[Finding, ...]:
    """With intel_pstate and amd-pstate in active mode "powersave" means that the CPU chooses by itself.

    Of all other drivers it means the lowest frequency, whatever the load (admin-guide/pm/cpufreq.rst).
    """
    check = "governor"
    found = []
    for policy in facts.policies:
        cpus = f"CPUs {format_cpu_list(policy.cpus)}"
        if policy.driver in ("intel_pstate", "amd-pstate-epp"):
            if policy.governor != "performance" and policy.preference in ("power", "balance_power"):
                reason = f"{policy.driver} is told to prefer {policy.preference!r} to performance"
                found.append(warning(check, cpus, reason, _perform("energy_performance_preference")))
        elif policy.governor == "powersave":
            reason = f"the governor powersave of {policy.driver} holds them at their lowest frequency"
            found.append(warning(check, cpus, reason, _perform("scaling_governor")))
    return or_good(found, check, "CPUs", "none is held at a low frequency")


def _perform(name: str) -> str:
    return keep_in_sysfs(f"/sys/devices/system/cpu/cpufreq/policy*/{name}", "performance")


def judge_huge(facts: KernelFacts, topology: Topology) -> tuple[Finding, ...]:
    check = "huge-pages"
    found = []
    for node in topology.nodes:
        idle = (facts.idle_huge_bytes or {}).get(node.id, 0)
        if idle and node.memory_bytes and idle > node.memory_bytes * _IDLE_SHARE:
            reason = (
                f"{idle // _MIB} MiB of it are reserved as huge pages that nobody uses, and engines cannot "
                "have them"
            )
            files = f"/sys/devices/system/node/node{node.id}/hugepages/*/nr_hugepages"
            note = (
                "until the next boot, where vm.nr_hugepages in /etc/sysctl.d or hugepages= on the kernel's "
                "command line reserves them"
            )
            found.append(warning(check, f"node {node.id}", reason, f"echo 0 | tee {files}", note))
    return or_good(found, check, "nodes", "no memory lies idle as huge pages")


def judge_swap(facts: KernelFacts) -> Finding:
    swapped = facts.swapped_bytes or 0
    if swapped <= _SWAPPED_BYTES:
        return good("swap", "ovms.slice", "engines are in memory")
    reason = f"{swapped // _MIB} MiB of the engines are in swap: answers wait for the disk"
    note = "before that make room in memory: see memory-free"
    return warning("swap", "ovms.slice", reason, "ovms-scalerctl restart --rolling", note)


def judge_offline(facts: KernelFacts, topology: Topology) -> Finding:
    """Switched-off second threads are somebody's choice, and of the whole machine."""
    check = "offline-cpus"
    if not topology.offline or facts.smt in ("off", "forceoff"):
        return good(check, "CPUs", "all are online, but for second threads that are switched off")
    cpus = format_cpu_list(topology.offline)
    return warning(
        check, f"CPUs {cpus}", "they are switched off: no instance can use them", f"chcpu -e {cpus}"
    )


def judge_isolated(topology: Topology, reserved: Iterable[frozenset[int]]) -> Finding:
    """``reserved`` are the CPUs in reserve_cpus of each pool: with it the administrator says it is meant."""
    check = "isolated-cpus"
    left = topology.isolated & topology.online
    for own in reserved:
        left -= own
    if not left:
        return good(check, "CPUs", "none is isolated, or those are reserved")
    cpus = format_cpu_list(left)
    return warning(
        check,
        f"CPUs {cpus}",
        "they are isolated (isolcpus= on the kernel's command line): no instance is placed on them",
        f'set reserve_cpus = "{cpus}" in the pools, if that is meant',
        "else remove isolcpus= from the kernel's command line, and reboot",
    )
