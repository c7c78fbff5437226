# SPDX-License-Identifier: Apache-2.0
"""The proxy's worker processes that stay only for requests begun before a change of its configuration."""

from pathlib import Path

# nginx tells in its process title what a worker does (ngx_worker_process_cycle).
_LEAVING = b"nginx: worker process is shutting down"


def read_leaving_workers(unit: str, root: Path = Path("/")) -> frozenset[int]:
    """Process ids of workers of ``unit``, in system.slice, that are leaving; none where nothing is known."""
    group = root / "sys/fs/cgroup/system.slice" / unit / "cgroup.procs"
    try:
        pids = [int(line) for line in group.read_text().split()]
    except (OSError, ValueError):
        return frozenset()
    return frozenset(pid for pid in pids if _read_title(pid, root).startswith(_LEAVING))


def _read_title(pid: int, root: Path) -> bytes:
    try:
        return (root / "proc" / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""  # it has gone meanwhile
