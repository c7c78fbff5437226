# SPDX-License-Identifier: Apache-2.0
"""A systemd that is slow, and what dies meanwhile."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from faults.run import Run

CALL_SEC = 2.0
_LONGEST_ANSWER_SEC = 1.0


def kill_while_slow(run: Run) -> None:
    harm_while_slow(run, "KILL")


def hang_while_slow(run: Run) -> None:
    harm_while_slow(run, "STOP")


def harm_while_slow(run: Run, signal_name: str) -> None:
    """A signal to the victim while each call to PID 1 takes two seconds."""
    host = run.rig.host
    agent = run.rig.read_agent_pid()
    # Without systemd, which is to be slow: whoever listens at its port.
    found = host.script(f"ss -Hltnp sport = :{run.victim.port}")
    pid = int(found.partition("pid=")[2].partition(",")[0])
    with slowed(host.pid1):
        run.kill_pids(pid, name=signal_name)
        run.pause(run.options.slow_sec)
    if run.rig.is_ours:
        run.notes.append(
            "the agent ran on" if run.rig.read_agent_pid() == agent else "the agent was restarted"
        )


@contextlib.contextmanager
def slowed(pid: int, *, call_sec: float = CALL_SEC) -> Iterator[None]:
    """Within the block a process of the machine is stopped but for a moment each ``call_sec``.

    Then it answers what has come, so that who calls, waits for the answer and calls again waits about so
    long for each.
    """
    ends = threading.Event()

    def stop_and_go() -> None:
        while not ends.is_set():
            os.kill(pid, signal.SIGSTOP)
            try:
                ends.wait(call_sec)
            finally:
                os.kill(pid, signal.SIGCONT)
            wait_until_idle(pid)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def wait_until_idle(pid: int) -> None:
    """Until the process sleeps, but not for long: PID 1 may have much to do."""
    deadline = time.monotonic() + _LONGEST_ANSWER_SEC
    while read_state(pid) != "S" and time.monotonic() < deadline:
        pass  # who was answered calls again within a millisecond


def read_state(pid: int) -> str:
    """The letter of proc_pid_stat(5): S sleeps, R runs, T is stopped, Z is dead."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
