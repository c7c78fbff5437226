# SPDX-License-Identifier: Apache-2.0
"""Signals to processes of our units without systemd, for when that is slow."""

import contextlib
import os
import signal
from pathlib import Path

# Of the hierarchy that systemd keeps its units in, as /proc/PID/cgroup has it (cgroups(7)): none in version
# 2, a name in version 1.
_CONTROLLERS = ("", "name=systemd")
_PID_MAX = 1 << 22  # PID_MAX_LIMIT, include/linux/threads.h


def send_signal(pid: int, number: signal.Signals, *, unit: str, root: Path = Path("/")) -> bool:
    """Signal a process of ``unit``; False when it has ended, is none of that unit's, or it is not allowed.

    Whatever a pid file says, nobody else is signalled: the process is held (pidfd_open(2)) before its group
    is read, so that what is read is about the one that gets the signal, or that one has ended.
    """
    if not 1 < pid < _PID_MAX:
        return False
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            if _is_in(pid, unit, root):
                signal.pidfd_send_signal(process, number)
                return True
        finally:
            os.close(process)
    return False


def _is_in(pid: int, unit: str, root: Path) -> bool:
    lines = (root / "proc" / str(pid) / "cgroup").read_text().splitlines()
    groups = [line.partition(":")[2].partition(":") for line in lines]
    return any(path.endswith(f"/{unit}") for controllers, _, path in groups if controllers in _CONTROLLERS)
