# SPDX-License-Identifier: Apache-2.0
"""Reads what a GPU's driver tells of one open file: gpu/drm-usage-stats.rst of the kernel's documentation.

i915 tells for each kind of engine for how many nanoseconds it worked (drm-engine-render), xe how many of the
card's cycles that were (drm-cycles-ccs, drm-total-cycles-ccs). The card's own memory is in regions named
vram0 (xe), local0 (i915) and vram (amdgpu).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ovms_scaler.core.use import CardUse

_LINE = re.compile(r"^(drm-[^:\s]+):[ \t]*([^\n]*?)[ \t]*$", re.MULTILINE)
_NUMBER = re.compile(r"([0-9]{1,20})(?: (ns|KiB|MiB))?")
_UNITS = {"": 1, "ns": 1, "KiB": 1 << 10, "MiB": 1 << 20}
_OWN_MEMORY = re.compile(r"(?:vram|local)[0-9]*")
# What holds memory of the card now; older kernels have the same under the last name.
_HELD = ("drm-resident-", "drm-memory-")


@dataclass(frozen=True, slots=True, kw_only=True)
class DrmClient:
    """An open file of a GPU, which several descriptors may share: they have one ``id`` on one card.

    ``busy`` as in core.use.CardUse.
    """

    address: str
    id: str
    busy: Mapping[str, tuple[float, float]]
    memory_bytes: int | None


def parse_client(text: str, *, at_sec: float) -> DrmClient | None:
    """One file of /proc/PID/fdinfo, as read at ``at_sec``; None for what is no GPU on the PCI bus."""
    fields = dict(_LINE.findall(text))
    address, client = fields.get("drm-pdev"), fields.get("drm-client-id")
    if not address or not client:
        return None
    numbers = {key: number for key, value in fields.items() if (number := _parse_number(value)) is not None}
    busy: dict[str, tuple[float, float]] = {}
    for key, value in numbers.items():
        _, what, kind = (*key.split("-", 2), "")[:3]
        capacity = numbers.get(f"drm-engine-capacity-{kind}") or 1
        if what == "cycles" and (passed := numbers.get(f"drm-total-cycles-{kind}")) is not None:
            busy[kind] = (value / capacity, float(passed))
        elif what == "engine" and not kind.startswith("capacity-"):
            busy.setdefault(kind, (value / 1e9 / capacity, at_sec))
    return DrmClient(address=address, id=client, busy=busy, memory_bytes=_memory(numbers))


def add_clients(clients: Iterable[DrmClient]) -> dict[str, CardUse]:
    """What the files of one process come to, by the card's address; each client counts once."""
    cards: dict[str, CardUse] = {}
    for client in {(one.address, one.id): one for one in clients}.values():
        card = cards.get(client.address, CardUse(busy={}))
        busy = dict(card.busy or {})
        for kind, (worked, passed) in client.busy.items():
            before = busy.get(kind, (0.0, 0.0))
            busy[kind] = (before[0] + worked, max(before[1], passed))
        known = [size for size in (card.memory_bytes, client.memory_bytes) if size is not None]
        cards[client.address] = CardUse(busy=busy, memory_bytes=sum(known) if known else None)
    return cards


def _parse_number(text: str) -> int | None:
    found = _NUMBER.fullmatch(text)
    return int(found[1]) * _UNITS[found[2] or ""] if found else None


def _memory(numbers: Mapping[str, int]) -> int | None:
    """None for an integrated GPU, too, which has none of its own."""
    for prefix in _HELD:
        own = [
            value
            for key, value in numbers.items()
            if key.startswith(prefix) and _OWN_MEMORY.fullmatch(key.removeprefix(prefix))
        ]
        if own:
            return sum(own)
    return None
