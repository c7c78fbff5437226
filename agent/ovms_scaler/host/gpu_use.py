# SPDX-License-Identifier: Apache-2.0
"""How much GPUs work, and how much of their memory a process holds."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ovms_scaler.core.drm_use import DrmClient, add_clients, parse_client
from ovms_scaler.core.use import CardsUse, CardUse
from ovms_scaler.host.gpu_idle import read_gpu_idle_sec

_RENDER_NODE = "/dev/dri/"


def read_cards(addresses: Iterable[str], pid: int | None, root: Path = Path("/")) -> CardsUse:
    """Cards by PCI address, as the process ``pid`` uses them where that may be seen.

    A driver may make the reader wait for a card that hangs. One that is asleep is not woken.
    """
    at_sec = time.monotonic()
    cards: dict[str, CardUse] = {}
    for address in addresses:
        if _is_asleep(address, root):
            cards[address] = CardUse(is_asleep=True)
        else:
            cards[address] = CardUse(idle_sec=read_gpu_idle_sec((address,), root))
    if pid and not all(card.is_asleep for card in cards.values()):
        for address, own in add_clients(_read_clients(pid, root)).items():
            if address in cards:
                cards[address] = replace(cards[address], busy=own.busy, memory_bytes=own.memory_bytes)
    return CardsUse(at_sec=at_sec, cards=cards)


def _is_asleep(address: str, root: Path) -> bool:
    """From power/runtime_status (ABI/testing/sysfs-devices-power), which wakes nothing."""
    try:
        text = (root / "sys/bus/pci/devices" / address / "power/runtime_status").read_text()
    except OSError:
        return False
    return text.strip() == "suspended"


def _read_clients(pid: int, root: Path) -> Iterator[DrmClient]:
    """Open GPUs of a process.

    Root without CAP_SYS_PTRACE may not look at them in another user's process (proc_fdinfo_access_allowed
    in Linux), so that the agent sees none unless the administrator gives it that capability.
    """
    process = root / "proc" / str(pid)
    try:
        names = [path.name for path in (process / "fd").iterdir() if _is_gpu(path)]
    except OSError:
        return
    for name in names:
        try:
            text = (process / "fdinfo" / name).read_text()
        except OSError:
            continue  # closed meanwhile
        if (client := parse_client(text, at_sec=time.monotonic())) is not None:
            yield client


def _is_gpu(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()).startswith(_RENDER_NODE)
    except OSError:
        return False
