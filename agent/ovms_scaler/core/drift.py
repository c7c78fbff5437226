# SPDX-License-Identifier: Apache-2.0
"""What systemd and the kernel made of an instance other than planned, each with both words for it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.facts import ExecFacts, InstanceFacts, UnitFacts
from ovms_scaler.core.instance import Cores
from ovms_scaler.core.process_view import ProcessView, Thread
from ovms_scaler.core.readback import executed, override
from ovms_scaler.core.spec import Memory
from ovms_scaler.core.target import Wanted

LOOPBACK = "127.0.0.1"
# What a process has before it is bound, and what the kernel gives it beyond its policy, is little.
ENOUGH = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One thing that is other than planned; ``subject`` is an instance or "proxy", ``hint`` what to type."""

    subject: str
    what: str
    planned: str
    found: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One instance: its unit, how systemd understood its files, those files, and its process."""

    unit: UnitFacts
    exec: ExecFacts | None
    files: Mapping[str, str]
    process: ProcessView | None


def find_drifts(wanted: Wanted, seen: Seen, *, in_rotation: bool) -> tuple[Drift, ...]:
    """Everything about one instance that runs what its files say."""
    parts = (find_file_drifts, _unit, _systemd, _threads, _group, _memory, _program, _sockets)
    found = [drift for part in parts for drift in part(wanted, seen)]
    return (*found, *_devices(wanted, seen, in_rotation=in_rotation))


def find_shared_cores(views: Mapping[str, ProcessView], cores: Cores) -> tuple[Drift, ...]:
    """Pairs of instances with a core that both may run on."""
    core_of = {cpu: number for number, cpus in enumerate(cores) for cpu in cpus}
    used = {
        name: {core_of.get(cpu, -1 - cpu) for thread in view.threads for cpu in thread.cpus}
        for name, view in views.items()
    }
    drifts: list[Drift] = []
    for first, second in combinations(sorted(used), 2):
        if shared := used[first] & used[second]:
            cpus = {
                cpu
                for thread in views[first].threads
                for cpu in thread.cpus
                if core_of.get(cpu, -1 - cpu) in shared
            }
            drifts.append(
                Drift(
                    subject=first,
                    what="cores of its own",
                    planned=f"none with {second}",
                    found=f"CPUs {format_cpu_list(cpus)} with {second}",
                    hint=f"ovms-scalerctl plan --no-diff; ovms-scalerctl restart {first} --wait",
                )
            )
    return tuple(drifts)


def find_file_drifts(wanted: Wanted, seen: Seen) -> Iterator[Drift]:
    """Its files on disk, of which one that runs may have been started from others."""
    for path in sorted({*wanted.files, *seen.files}):
        planned, found = wanted.files.get(path), seen.files.get(path)
        if planned != found:
            yield Drift(
                subject=wanted.instance.id,
                what=path,
                planned="as in the plan" if planned is not None else "no such file",
                found="missing" if found is None else "another text" if planned is not None else "there",
                hint="ovms-scalerctl status",
            )


def _unit(wanted: Wanted, seen: Seen) -> Iterator[Drift]:
    unit = wanted.instance.unit
    if (path := override(InstanceFacts(exec=seen.exec))) is not None:
        yield _drift(wanted, "drop-ins of its unit", "the agent's", path, f"systemctl cat {unit}")
    if seen.unit.need_daemon_reload:
        yield _drift(
            wanted, "unit files", "as systemd read them", "changed since", "systemctl daemon-reload"
        )


def _systemd(wanted: Wanted, seen: Seen) -> Iterator[Drift]:
    """What systemd read in the files: it ignores what it cannot make sense of."""
    instance, understood = wanted.instance, seen.exec
    if understood is None:
        return
    sets = {
        "CPUAffinity=": (instance.cpus, understood.cpu_affinity),
        "AllowedCPUs=": (instance.cpus, understood.allowed_cpus),
    }
    if instance.memory is not None:
        sets["NUMAMask="] = instance.memory_nodes, understood.numa_mask
        bound = instance.memory_nodes if instance.memory is Memory.bind else frozenset[int]()
        sets["AllowedMemoryNodes="] = bound, understood.allowed_memory_nodes
        if understood.numa_policy != instance.memory.value:
            yield _of_unit(wanted, "NUMAPolicy=", instance.memory.value, understood.numa_policy or "none")
    for name, (planned, read) in sets.items():
        if planned != read and (planned or name != "CPUAffinity="):
            yield _of_unit(wanted, name, _set(planned), _set(read))
    if executed(understood.argv) != wanted.argv:
        planned_line, read_line = _first_difference(wanted.argv, executed(understood.argv))
        yield _of_unit(wanted, "ExecStart=", planned_line, read_line)


def _threads(wanted: Wanted, seen: Seen) -> Iterator[Drift]:
    """The engine may pin a thread to a part of what it was given, but to nothing else."""
    instance, process = wanted.instance, seen.process
    if process is None:
        return
    again = f"ovms-scalerctl restart {instance.id} --wait"
    if instance.cpus:
        strays = [thread for thread in process.threads if not thread.cpus <= instance.cpus]
        for cpus, threads in _group_by(strays, lambda thread: thread.cpus):
            found = f"{_name(threads, process)} on {format_cpu_list(cpus)}"
            yield _drift(wanted, "CPUs of its threads", format_cpu_list(instance.cpus), found, again)
        main = process.threads[0]
        if main.tid == process.pid and main.cpus < instance.cpus:
            found = f"its first thread on {format_cpu_list(main.cpus)} only"
            yield _drift(wanted, "CPUs of its threads", format_cpu_list(instance.cpus), found, again)
    if instance.memory is Memory.bind:
        strays = [thread for thread in process.threads if not instance.memory_nodes <= thread.memory_nodes]
        for nodes, threads in _group_by(strays, lambda thread: thread.memory_nodes):
            found = f"{_name(threads, process)} on {_set(nodes)}"
            yield _drift(wanted, "memory nodes of its threads", _set(instance.memory_nodes), found, again)


def _group(wanted: Wanted, seen: Seen) -> Iterator[Drift]:
    instance, process = wanted.instance, seen.process
    if process is None:
        return
    again = f"ovms-scalerctl restart {instance.id} --wait"
    if process.cgroup != (planned := f"/ovms.slice/{instance.unit}"):
        yield _drift(wanted, "control group", planned, process.cgroup or "unknown", "systemd-cgls")
    if instance.cpus and process.cpuset_cpus not in (None, instance.cpus):
        found = _set(process.cpuset_cpus or ())
        yield _drift(wanted, "cpuset.cpus of its group", format_cpu_list(instance.cpus), found, again)
    if instance.memory is Memory.bind and process.cpuset_nodes not in (None, instance.memory_nodes):
        found = _set(process.cpuset_nodes or ())
        yield _drift(wanted, "cpuset.mems of its group", _set(instance.memory_nodes), found, again)


def _memory(wanted: Wanted, seen: Seen) -> Iterator[Drift]:
    instance = wanted.instance
    use = seen.process.memory if seen.process is not None else None
    if use is None or instance.memory is None:
        return
    nodes = format_cpu_list(instance.memory_nodes)
    planned = f"{'bind' if instance.memory is Memory.bind else 'prefer'}:{nodes}"
    if odd := use.policies - {planned}:
        again = f"ovms-scalerctl restart {instance.id} --wait"
        yield _drift(wanted, "memory policy", planned, ", ".join(sorted(odd)), again)
    share = use.share(instance.memory_nodes)
    if share is not None and share < ENOUGH:
        pid = seen.process.pid if seen.process is not None else 0
        places = ", ".join(
            f"{_mib(size)} on node {node}" for node, size in sorted(use.bytes_by_node.items())
        )
        yield _drift(
            wanted, "its memory", f"on node {nodes}", f"{share:.0%} there: {places}", f"numastat -p {pid}"
        )


def _program(wanted: Wanted, seen: Seen) -> Iterator[Drift]:
    process = seen.process
    if process is None:
        return
    again = f"ovms-scalerctl restart {wanted.instance.id} --wait"
    # A program that is a script has its interpreter before it.
    if process.argv and process.argv[-len(wanted.argv) :] != wanted.argv:
        planned, found = _first_difference(wanted.argv, process.argv[-len(wanted.argv) :])
        yield _drift(wanted, "command line", planned, found, again)
    if process.open_files is not None and process.open_files < wanted.open_files:
        yield _drift(wanted, "open files", f"{wanted.open_files}", f"{process.open_files}", again)
    for name, value in sorted(wanted.environment.items() if process.environment is not None else ()):
        own = (process.environment or {}).get(name)
        if own != value:
            # Of what stands in it only that it differs: it may be a secret.
            text = "missing" if own is None else "another value"
            yield _drift(wanted, f"environment: {name}", "as in the plan", text, again)


def _sockets(wanted: Wanted, seen: Seen) -> Iterator[Drift]:
    listening = seen.process.listening if seen.process is not None else None
    if listening is None:
        return
    instance = wanted.instance
    planned = f"{LOOPBACK}:{instance.port}"
    found = {f"{one.address}:{one.port}": one for one in listening}
    look = f"ss -ltnp sport = :{instance.port}"
    if planned not in found:
        yield _drift(wanted, "where it listens", planned, "not there", look)
    for place, one in found.items():
        if place != planned:
            open_to = "itself and others" if one.address != LOOPBACK else "programs of this machine"
            yield _drift(
                wanted,
                "where it listens",
                planned,
                f"also {place}, for {open_to}",
                f"ss -ltnp sport = :{one.port}",
            )


def _devices(wanted: Wanted, seen: Seen, *, in_rotation: bool) -> Iterator[Drift]:
    opened = seen.process.render_nodes if seen.process is not None else None
    if opened is None:
        return
    instance = wanted.instance
    for node in sorted(set(opened) - set(instance.render_nodes)):
        planned = ", ".join(instance.render_nodes) or "no GPU"
        yield _drift(wanted, "open GPUs", planned, f"{node} as well", "ovms-scalerctl topology")
    for node in sorted(set(instance.render_nodes) - set(opened)) if in_rotation else ():
        yield _drift(wanted, "open GPUs", node, "not open", f"journalctl -u {instance.unit}")


def _of_unit(wanted: Wanted, what: str, planned: str, found: str) -> Drift:
    return _drift(
        wanted, f"{what} as systemd read it", planned, found, f"systemctl cat {wanted.instance.unit}"
    )


def _drift(wanted: Wanted, what: str, planned: str, found: str, hint: str) -> Drift:
    return Drift(subject=wanted.instance.id, what=what, planned=planned, found=found, hint=hint)


def _first_difference(planned: Iterable[str], found: Iterable[str]) -> tuple[str, str]:
    first, second = tuple(planned), tuple(found)
    for index in range(max(len(first), len(second))):
        if first[index : index + 1] != second[index : index + 1]:
            return " ".join(first[index : index + 2]) or "its end", " ".join(
                second[index : index + 2]
            ) or "its end"
    return "", ""


def _group_by(
    threads: Iterable[Thread], key: Callable[[Thread], frozenset[int]]
) -> list[tuple[frozenset[int], list[Thread]]]:
    grouped: dict[frozenset[int], list[Thread]] = {}
    for thread in threads:
        grouped.setdefault(key(thread), []).append(thread)
    return sorted(grouped.items(), key=lambda one: one[1][0].tid)


def _name(threads: list[Thread], process: ProcessView) -> str:
    if len(threads) == len(process.threads):
        return "all"
    first = threads[0]
    if len(threads) == 1:
        return f"thread {first.tid} ({first.name})"
    return f"{len(threads)} of {len(process.threads)}, as {first.tid} ({first.name}),"


def _set(numbers: Iterable[int]) -> str:
    return format_cpu_list(numbers) or "none"


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"
