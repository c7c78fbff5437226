# SPDX-License-Identifier: Apache-2.0
"""How much CPU time a unit has used."""

from pathlib import Path


def read_cpu_sec(unit: str, root: Path = Path("/")) -> float | None:
    """Seconds of CPU time of a unit in ovms.slice, all its threads; None where that cannot be read.

    From usage_usec in cpu.stat of its control group (cgroup v2 in the kernel's admin guide), which
    is there without the cpu controller.
    """
    try:
        text = (root / "sys/fs/cgroup/ovms.slice" / unit / "cpu.stat").read_text()
        return int(dict(line.split() for line in text.splitlines())["usage_usec"]) / 1e6
    except (OSError, ValueError, KeyError):
        return None
