# SPDX-License-Identifier: Apache-2.0
"""GPUs as they are drawn: those that are there, and those that an instance waits for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ovms_scaler.core.quantities import format_bytes, format_share, format_used
from ovms_scaler.page.cores import Core, cores_of
from ovms_scaler.page.marks import Mark
from ovms_scaler.page.reading import (
    Document,
    read_id,
    read_list,
    read_number,
    read_table,
    read_text,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU; ``note`` says what is unusual about it. Figures that are None are unknown."""

    address: str
    node: int | None
    is_there: bool = True
    kind: str = ""
    note: str = ""
    mark: Mark | None = None
    host_cores: int = 0
    busy: str | None = None
    busy_percent: float | None = None
    memory: str | None = None
    memory_percent: float | None = None


def read_cards(
    topology: Document, measures: Document, marks: Sequence[Mark], cores: Mapping[int, Core]
) -> tuple[Card, ...]:
    """Every GPU of the machine by address, and after them those that are remembered and away.

    None while the machine is not known: then nobody can say which are away.
    """
    if "nodes" not in topology:
        return ()
    measured = {read_text(one, "address"): one for one in read_list(measures, "gpus")}
    owners = {address: mark for mark in marks for address in mark.gpus}
    host_cores = {mark: len(cores_of(mark.cpus, cores)) for mark in owners.values()}
    entries = [(entry, True) for entry in read_list(topology, "gpus")]
    entries += [(entry, False) for entry in read_list(topology, "gpus_without_render_node")]
    cards = []
    for entry, usable in sorted(entries, key=lambda one: read_text(one[0], "address")):
        address = read_text(entry, "address")
        size = read_number(read_table(topology, "gpu_details", address), "memory_bytes")
        card = _card(entry, measured.get(address, {}), size, usable=usable)
        if (mark := owners.pop(address, None)) is not None:
            card = replace(card, mark=mark, host_cores=host_cores[mark])
        cards.append(card)
    away = (replace(_away(address, mark), host_cores=host_cores[mark]) for address, mark in owners.items())
    return (*cards, *away)


def _card(entry: Document, measured: Document, size: float | None, *, usable: bool) -> Card:
    busy, used = read_number(measured, "busy_share"), read_number(measured, "memory_used_bytes")
    driver = read_text(entry, "driver")
    return Card(
        address=read_text(entry, "address"),
        node=read_id(entry, "numa_node"),
        kind=" ".join(filter(None, (driver, read_text(entry, "device_id").removeprefix("0x")))),
        note="" if usable else "no render node" if driver else "no driver",
        busy=None if busy is None else format_share(busy),
        busy_percent=None if busy is None else to_percent(busy),
        memory=_memory(used, size),
        memory_percent=None if used is None or not size else to_percent(used / size),
    )


def _away(address: str, mark: Mark) -> Card:
    """One that its instance waits for; it is drawn where that instance has its cores."""
    return Card(address=address, node=mark.node, is_there=False, note="away", mark=mark)


def to_percent(share: float) -> float:
    """For the width of a bar: it never gets out of its frame."""
    return round(min(max(share, 0.0), 1.0) * 100, 1)


def _memory(used: float | None, size: float | None) -> str | None:
    if used is None:
        return None if size is None else f"\N{EN DASH} of {format_bytes(size)}"
    return f"{format_bytes(used)} used" if size is None else format_used(used, size)
