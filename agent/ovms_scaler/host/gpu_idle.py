# SPDX-License-Identifier: Apache-2.0
"""For how long GPUs have been idle."""

from collections.abc import Iterable
from pathlib import Path

# Of each GT, a part of a card with engines of its own: RC6 under i915 (intel_gt_sysfs_pm.c in Linux), and
# the same under another name with xe (xe_gt_idle.c). A GT that computes is in neither.
_FILES = ("drm/card*/gt/gt*/rc6_residency_ms", "tile*/gt*/gtidle/idle_residency_ms")


def read_gpu_idle_sec(addresses: Iterable[str], root: Path = Path("/")) -> tuple[float, ...] | None:
    """Seconds that each GT of these cards (PCI addresses) has been idle; None where a card does not tell.

    Reading wakes a card that is asleep.
    """
    found: list[float] = []
    for address in addresses:
        device = root / "sys/bus/pci/devices" / address
        try:
            paths = sorted(path for pattern in _FILES for path in device.glob(pattern))
            if not paths:
                return None
            found += [int(path.read_text()) / 1000 for path in paths]
        except (OSError, ValueError):
            return None
    return tuple(found)
