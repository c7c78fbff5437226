# SPDX-License-Identifier: Apache-2.0
"""The machine and the software that figures are of."""

import hashlib
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ROOT = Path("/")
# What changes figures most and is forgotten first.
_SWITCHES = {
    "governor": "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    "smt": "sys/devices/system/cpu/smt/control",
    "turbo_off": "sys/devices/system/cpu/intel_pstate/no_turbo",
    "transparent_hugepage": "sys/kernel/mm/transparent_hugepage/enabled",
    "numa_balancing": "proc/sys/kernel/numa_balancing",
}


def read_machine_facts(root: Path = _ROOT) -> dict[str, Any]:
    """CPU model, kernel and settings; None for what is not known."""
    cpuinfo = _read(root / "proc/cpuinfo") or ""
    model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    release = re.search(r'^PRETTY_NAME="?(.*?)"?$', _read(root / "etc/os-release") or "", re.MULTILINE)
    return {
        "hostname": platform.node(),
        "cpu_model": model[1] if model else None,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "system": release[1] if release else None,
        "python": platform.python_version(),
        **{name: _chosen(_read(root / path)) for name, path in _SWITCHES.items()},
    }


def hash_files(paths: Sequence[Path]) -> str | None:
    """What tells one configuration from another: SHA-256 of it; None when any of it cannot be read."""
    digest = hashlib.sha256()
    try:
        for path in paths:
            digest.update(path.read_bytes())
    except OSError:
        return None
    return digest.hexdigest()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _chosen(text: str | None) -> str | None:
    """Of "always [madvise] never" the one in brackets."""
    found = re.search(r"\[(\w+)\]", text or "")
    return found[1] if found else text
