# SPDX-License-Identifier: Apache-2.0
"""The kernel's OOM killer, let loose on one engine and on nobody else.

Where the machine's memory controller is in the hierarchy of version 2, the engine's own group is made too
small. Where it is in that of version 1, which the systemd of a host does not use, the engine is moved to a
group of its own there, in which another process asks for ever more memory; the killer takes the engine
first, which is larger and has the OOMScoreAdjust= of its unit, and then that process. The host's systemd
sees a SIGKILL then, not an OOM kill, since it reads of those in memory.events of version 2.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from lab import keeper
from lab.commands import LabError

from faults import slow
from faults.rig import Engine, Rig
from faults.run import Run

LIMIT_BYTES = 8 << 20
TIMEOUT_SEC = 20.0
# tail keeps the last line, which has no end here.
HOG = 'echo 0 > "$1/cgroup.procs" && exec tail /dev/zero'


def exhaust(run: Run) -> None:
    """An OOM kill of the victim; the fault begins when it is dead."""
    rig, engine = run.rig, run.victim
    group = read_group(rig, engine)
    pids = [int(line) for line in (group / "cgroup.procs").read_text().split()]
    before = rig.read_pid(engine)
    if (group / "memory.max").exists():
        # Written below what is in use, it kills before the write returns (cgroup-v2.rst).
        (group / "memory.max").write_text(f"{LIMIT_BYTES}\n")
    else:
        with boxed(rig, pids) as box:
            squeeze(box, pids)
    run.begin_fault()
    rig.host.wait_for(lambda: rig.read_pid(engine) != before, TIMEOUT_SEC, "the engine to be dead")
    result = rig.host.properties(engine.unit, "ExecMainStatus")["ExecMainStatus"]
    run.notes.append(f"ended by signal {result}")


def read_group(rig: Rig, engine: Engine) -> Path:
    """The control group of an engine in the machine's hierarchy of version 2."""
    path = rig.host.properties(engine.unit, "ControlGroup")["ControlGroup"]
    return rig.host.init_group.parent / path.lstrip("/")


@contextlib.contextmanager
def boxed(rig: Rig, pids: list[int]) -> Iterator[Path]:
    """These processes in a small memory group of version 1. Raises LabError where there is none."""
    assert rig.host.keeping is not None
    groups = [mount / rig.host.keeping.group for mount, is_unified in keeper.read_hierarchies()]
    found = [group for group in groups if (group / "memory.limit_in_bytes").exists()]
    if not found:
        raise LabError(
            "cannot have an engine killed for want of memory: no memory controller on this machine"
        )
    box = found[0] / "oom"
    box.mkdir()
    try:
        (box / "memory.limit_in_bytes").write_text(f"{LIMIT_BYTES}")
        for pid in pids:
            (box / "cgroup.procs").write_text(f"{pid}")
        yield box
    finally:
        with contextlib.suppress(OSError):  # left to the host's end
            box.rmdir()


def squeeze(box: Path, pids: list[int]) -> None:
    """Use up the memory of the group; return when the processes are dead."""
    hog = subprocess.Popen(["sh", "-c", HOG, "sh", str(box)])
    try:
        deadline = time.monotonic() + TIMEOUT_SEC
        while not all(map(is_dead, pids)):
            if time.monotonic() > deadline:
                raise LabError(
                    f"cannot have an engine killed for want of memory: alive after {TIMEOUT_SEC} s"
                )
            time.sleep(0.001)  # the death of somebody else's child has no event in cgroup v1
    finally:
        hog.kill()
        hog.wait()


def is_dead(pid: int) -> bool:
    """Gone, or waiting to be noticed."""
    try:
        return slow.read_state(pid) in "ZX"
    except OSError:
        return True
