# SPDX-License-Identifier: Apache-2.0
"""What is remembered for good, so that whatever comes or goes moves nothing else."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ovms_scaler.core.cpulist import format_cpu_list, parse_cpu_list
from ovms_scaler.core.values import ADDRESS
from ovms_scaler.errors import InputError

_ADDRESS = re.compile(ADDRESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU that a pool uses: what must be known of it while it is away. Fields as those of topology.Gpu.

    ``host_cpus`` are the CPUs set aside for its host threads; empty until the next planned change.
    """

    address: str
    vendor_id: str | None = None
    device_id: str | None = None
    numa_node: int | None = None
    integrated: bool | None = None
    physical_function: str | None = None
    host_cpus: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """``ports``: instance id -> port. ``cards`` by PCI address.

    ``groups``: id of an instance that spans several GPUs -> their addresses in order.
    """

    ports: Mapping[str, int] = field(default_factory=dict)
    cards: Mapping[str, Card] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def gpu_book_document(books: Books) -> dict[str, object]:
    """Cards and groups as JSON; CPUs in the kernel's list form."""
    cards = {
        address: asdict(card) | {"host_cpus": format_cpu_list(card.host_cpus)}
        for address, card in books.cards.items()
    }
    return {"cards": cards, "groups": {name: list(members) for name, members in books.groups.items()}}


def parse_ports(document: object) -> dict[str, int]:
    """The ports of a book. Raises InputError for one that cannot be trusted."""
    if not isinstance(document, dict) or not all(
        type(port) is int and 0 < port < 65536 for port in document.values()
    ):
        raise InputError("it must map instance ids to ports")
    if len(set(document.values())) != len(document):
        raise InputError("two instances have the same port")
    return document


def parse_gpu_book(document: object) -> tuple[dict[str, Card], dict[str, tuple[str, ...]]]:
    """Cards and groups of ``gpu_book_document``. Raises InputError for one that cannot be trusted."""
    if not isinstance(document, dict) or document.keys() != {"cards", "groups"}:
        raise InputError("it must hold cards and groups")
    if not isinstance(document["cards"], dict) or not isinstance(document["groups"], dict):
        raise InputError("cards and groups must be objects")
    cards = {address: _parse_card(address, card) for address, card in document["cards"].items()}
    groups = {name: _parse_group(name, members) for name, members in document["groups"].items()}
    cpus = Counter(cpu for card in cards.values() for cpu in card.host_cpus)
    if cpus and max(cpus.values()) > 1:
        raise InputError(f"two cards have CPU {format_cpu_list(cpu for cpu in cpus if cpus[cpu] > 1)}")
    grouped = Counter(address for members in groups.values() for address in members)
    if grouped and max(grouped.values()) > 1:
        raise InputError(f"GPU {min(one for one in grouped if grouped[one] > 1)} is in a group twice")
    return cards, groups


def _parse_group(name: str, members: object) -> tuple[str, ...]:
    if not isinstance(members, list) or not all(_is_address(one) for one in members):
        raise InputError(f"group {name!r} must be a list of PCI addresses")
    return tuple(members)


def _is_address(text: object) -> bool:
    return isinstance(text, str) and _ADDRESS.fullmatch(text) is not None


def _parse_card(address: str, document: Any) -> Card:
    known = {
        "address": str,
        "vendor_id": str | None,
        "device_id": str | None,
        "numa_node": int | None,
        "integrated": bool | None,
        "physical_function": str | None,
        "host_cpus": str,
    }
    if (
        not isinstance(document, dict)
        or document.keys() != known.keys()
        or not all(isinstance(document[name], kind) for name, kind in known.items())
        or document["address"] != address
        or not _is_address(address)
    ):
        raise InputError(f"card {address!r} must be a PCI address and have {', '.join(known)}")
    return Card(**{**document, "host_cpus": parse_cpu_list(document["host_cpus"])})
