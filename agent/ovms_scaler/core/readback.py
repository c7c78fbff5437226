# SPDX-License-Identifier: Apache-2.0
"""Whether an instance runs where it was planned: what systemd and the kernel made of its files."""

from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.facts import InstanceFacts
from ovms_scaler.core.spec import Memory
from ovms_scaler.core.target import Wanted
from ovms_scaler.core.unit import DROP_IN

ADMINISTRATORS = (
    "/etc/systemd/system/ovms@",
    "/run/systemd/system/ovms@",
    "/etc/systemd/system.control/ovms@",
)


def override(facts: InstanceFacts) -> str | None:
    """A drop-in of the administrator's for this unit or its template: whatever it says is meant."""
    paths = facts.exec.drop_in_paths if facts.exec is not None else ()
    own = (path for path in paths if path.startswith(ADMINISTRATORS) and not path.endswith(f"/{DROP_IN}"))
    return next(own, None)


def misplacement(wanted: Wanted, facts: InstanceFacts) -> str | None:
    """What systemd or the kernel made of the placement other than planned; None also when not asked."""
    instance, understood, process = wanted.instance, facts.exec, facts.process
    if understood is not None:
        if instance.cpus and understood.cpu_affinity != instance.cpus:
            return _differs("CPUAffinity", understood.cpu_affinity, instance.cpus)
        if instance.memory is not None:
            if understood.numa_policy != instance.memory.value:
                return f"systemd reads NUMAPolicy={understood.numa_policy}, planned was {instance.memory}"
            if understood.numa_mask != instance.memory_nodes:
                return _differs("NUMAMask", understood.numa_mask, instance.memory_nodes)
        if wanted.argv and executed(understood.argv) != wanted.argv:
            return "systemd reads another command line than planned"
    if process is not None:
        if instance.cpus and process.cpus_allowed != instance.cpus:
            return (
                f"the kernel runs it on CPUs {format_cpu_list(process.cpus_allowed)}, planned were "
                f"{format_cpu_list(instance.cpus)}"
            )
        if instance.memory is Memory.bind and not instance.memory_nodes <= process.memory_nodes_allowed:
            return (
                f"the kernel allows it memory of nodes {format_cpu_list(process.memory_nodes_allowed)}, "
                f"planned was {format_cpu_list(instance.memory_nodes)}"
            )
    return None


def executed(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The words as the program gets them: systemd keeps "$$" in arguments as written until it runs them."""
    return (*argv[:1], *(word.replace("$$", "$") for word in argv[1:]))


def _differs(name: str, read: frozenset[int], planned: frozenset[int]) -> str:
    return f"systemd reads {name}={format_cpu_list(read)}, planned was {format_cpu_list(planned)}"
