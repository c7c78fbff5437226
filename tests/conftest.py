# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: no test may leave a task, a thread or a child process behind."""

import asyncio
import inspect
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
from journalctl_lab import Journalctl

# The same examples each time: what was tried does not depend on chance. `make fuzz` and HYPOTHESIS_RANDOM=1
# look for others.
hypothesis.settings.register_profile("fixed", derandomize=True)
hypothesis.settings.load_profile("default" if os.environ.get("HYPOTHESIS_RANDOM") else "fixed")

# A thread that was told to end is given this long to do so; one that was not told fails the test after it.
THREAD_GRACE_SEC = 2.0


def read_children() -> dict[int, str]:
    """The direct children of this process, zombies included, with their command lines (proc_pid_task(5))."""
    children: dict[int, str] = {}
    for task in os.listdir("/proc/self/task"):
        try:
            pids = Path("/proc/self/task", task, "children").read_text().split()
        except FileNotFoundError:  # the thread has ended since
            continue
        for pid in pids:
            command = (
                Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
            children[int(pid)] = command or "a zombie"
    return children


@pytest.fixture(autouse=True)
def no_process_or_thread_left() -> Iterator[None]:
    """Fails a test that leaves a thread running or a child process not waited for."""
    threads = set(threading.enumerate())
    children = read_children()
    yield
    new_threads = [thread for thread in threading.enumerate() if thread not in threads]
    for thread in new_threads:
        thread.join(THREAD_GRACE_SEC)
    left = [f"thread {thread.name!r}" for thread in new_threads if thread.is_alive()]
    left += [f"process {pid} ({name})" for pid, name in read_children().items() if pid not in children]
    if left:
        pytest.fail(f"left behind: {', '.join(left)}")


@pytest.fixture
def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journalctl:
    """A journalctl in place of the real one, with an empty journal."""
    program = Journalctl(directory=tmp_path / "journalctl")
    program.directory.mkdir()
    program.install()
    monkeypatch.setenv("PATH", str(program.directory), prepend=os.pathsep)
    return program


@pytest.fixture
async def no_task_left_in_loop() -> AsyncIterator[None]:
    """Fails a test whose event loop has unfinished tasks after all its fixtures are torn down."""
    tasks = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)  # one turn, in which tasks that were cancelled come to their end
    left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
    if left:
        pytest.fail(f"left behind: {', '.join(sorted(repr(task) for task in left))}")


@pytest.fixture(autouse=True)
def no_task_left(request: pytest.FixtureRequest, no_process_or_thread_left: None) -> None:
    """Applies no_task_left_in_loop to coroutine tests; the others need no event loop."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("no_task_left_in_loop")
