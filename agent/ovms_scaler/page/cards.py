# SPDX-License-Identifier: Apache-2.0
"""GPUs as they are drawn: those that are there, and those that an instance waits for."""

from collections.abc import Sequence
from dataclasses import dataclass

from ovms_scaler.core.quantities import format_bytes, format_share, format_used
from ovms_scaler.page.marks import Mark
from ovms_scaler.page.reading import (
    Document,
    parse_cpus,
    read_id,
    read_list,
    read_number,
    read_table,
    read_text,
    read_texts,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU; ``note`` says what is unusual about it. Figures that are None are unknown."""

    address: str
    node: int | None
    is_there: bool
    kind: str
    note: str
    mark: Mark | None
    busy: str | None
    busy_percent: float | None
    memory: str | None
    memory_percent: float | None
    host_cores: int


def read_cards(topology: Document, measures: Document, marks: Sequence[Mark]) -> tuple[Card, ...]:
    """Every GPU of the machine by address, and after them those that are remembered and away."""
    measured = {read_text(one, "address"): one for one in read_list(measures, "gpus")}
    owners = {address: mark for mark in marks for address in mark.gpus}
    entries = [(entry, True) for entry in read_list(topology, "gpus")]
    entries += [(entry, False) for entry in read_list(topology, "gpus_without_render_node")]
    cards = []
    for entry, usable in sorted(entries, key=lambda one: read_text(one[0], "address")):
        address = read_text(entry, "address")
        own = measured.get(address, {})
        size = read_number(read_table(topology, "gpu_details", address), "memory_bytes")
        cards.append(_card(entry, own, size, owners.get(address), topology, usable=usable))
    there = {card.address for card in cards}
    away = [(address, mark) for address, mark in owners.items() if address not in there]
    return (*cards, *(_away(address, mark, topology) for address, mark in away))


def _card(
    entry: Document,
    own: Document,
    size: float | None,
    mark: Mark | None,
    topology: Document,
    *,
    usable: bool,
) -> Card:
    busy, used = read_number(own, "busy_share"), read_number(own, "memory_used_bytes")
    driver = read_text(entry, "driver")
    return Card(
        address=read_text(entry, "address"),
        node=read_id(entry, "numa_node"),
        is_there=True,
        kind=" ".join(filter(None, (driver, read_text(entry, "device_id").removeprefix("0x")))),
        note="" if usable else "no render node" if driver else "no driver",
        mark=mark,
        busy=None if busy is None else format_share(busy),
        busy_percent=None if busy is None else to_percent(busy),
        memory=_memory(used, size),
        memory_percent=None if used is None or not size else to_percent(used / size),
        host_cores=_count_cores(mark, topology),
    )


def _away(address: str, mark: Mark, topology: Document) -> Card:
    """One that its instance waits for; it is drawn where that instance has its cores."""
    return Card(
        address=address, node=mark.node, is_there=False, kind="", note="away", mark=mark, busy=None,
        busy_percent=None, memory=None, memory_percent=None, host_cores=_count_cores(mark, topology),
    )  # fmt: skip


def to_percent(share: float) -> float:
    """For the width of a bar: it never gets out of its frame."""
    return round(min(max(share, 0.0), 1.0) * 100, 1)


def _memory(used: float | None, size: float | None) -> str | None:
    if used is None:
        return None if size is None else f"\N{EN DASH} of {format_bytes(size)}"
    return f"{format_bytes(used)} used" if size is None else format_used(used, size)


def _count_cores(mark: Mark | None, topology: Document) -> int:
    if mark is None:
        return 0
    return sum(bool(parse_cpus(text) & mark.cpus) for text in read_texts(topology, "cores"))
