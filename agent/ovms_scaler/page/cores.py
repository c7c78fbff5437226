# SPDX-License-Identifier: Apache-2.0
"""The physical cores as they are drawn, and whose each of them is."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.page.marks import Mark
from ovms_scaler.page.reading import Document, parse_cpus, read_cpus, read_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """``mark`` is whose it is; if nobody's, ``kind`` is "free", "isolated" or "closed"."""

    cpus: str
    mark: Mark | None
    kind: str


def read_cores(topology: Document, marks: Sequence[Mark]) -> Mapping[int, Core]:
    """The core of each CPU that is online; a CPU without a known core is one by itself."""
    isolated, allowed = read_cpus(topology, "isolated"), read_cpus(topology, "allowed")
    holders = _holders(allowed, marks)
    known = _parse_siblings(read_texts(topology, "cores"))
    left = read_cpus(topology, "online").difference(*known)
    found: dict[int, Core] = {}
    for siblings in (*known, *(frozenset({cpu}) for cpu in left)):
        mark = next((holders[cpu] for cpu in sorted(siblings) if cpu in holders), None)
        kind = (
            "isolated" if siblings <= isolated else "free" if siblings & allowed or not allowed else "closed"
        )
        core = Core(cpus=format_cpu_list(siblings), mark=mark, kind="" if mark else kind)
        found.update(dict.fromkeys(siblings, core))
    return found


def cores_of(cpus: Collection[int], cores: Mapping[int, Core]) -> tuple[Core, ...]:
    """Those that the CPUs are of, each once, by their lowest CPU."""
    found = (cores[cpu] for cpu in sorted(cpus) if cpu in cores)
    return tuple({core.cpus: core for core in found}.values())


def _holders(allowed: frozenset[int], marks: Sequence[Mark]) -> Mapping[int, Mark]:
    """Whose each CPU is. One that is bound to none has what nobody else has."""
    unbound = next((mark for mark in marks if mark.is_unbound), None)
    holders = dict.fromkeys(allowed, unbound) if unbound is not None else {}
    for mark in marks:
        holders.update(dict.fromkeys(mark.cpus, mark))
    return {cpu: mark for cpu, mark in holders.items() if mark is not None}


@lru_cache(maxsize=2)
def _parse_siblings(texts: tuple[str, ...]) -> tuple[frozenset[int], ...]:
    """Kept, as a page that is looked at asks for the same machine every two seconds."""
    return tuple(filter(None, map(parse_cpus, texts)))
