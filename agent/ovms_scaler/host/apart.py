# SPDX-License-Identifier: Apache-2.0
"""Calls functions in processes of their own, so that one that hangs or crashes takes nothing along.

A thread would not do: a process cannot end while a thread of it waits for a dead disk or file server.
"""

import contextlib
import json
import os
import pickle
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import NoReturn

from ovms_scaler.errors import InputError, ScalerError
from ovms_scaler.host.accounts import Account

# How long one that was killed is waited for; what hangs in the kernel ends later, or never.
_GONE_SEC = 0.5
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to call, under which name, and how long to wait for it.

    ``user`` is who is to call it. What another user answers is data, not objects: it comes back as JSON,
    dataclasses as objects of it, and ``parse`` makes the value of that or raises InputError.
    """

    name: str
    call: Callable[[], object]
    deadline_sec: float
    user: Account | None = None
    parse: Callable[[object], object] = lambda document: document


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a task returned, or why it did not: ``trouble`` is "" when it did."""

    value: object = None
    trouble: str = ""
    is_late: bool = False


@dataclass(slots=True, kw_only=True)
class _Running:
    task: Task
    pid: int
    reader: int
    until: float
    received: bytearray = field(default_factory=bytearray)


def run_apart(
    tasks: Sequence[Task], *, at_once: int = 4, ended: Callable[[str], None] = lambda _: None
) -> dict[str, Outcome]:
    """The outcome of each task by name; ``ended`` is called with the name of each that has one.

    What is passed back is pickled, unless it comes from another user. The calling process must not have
    other threads.
    """
    waiting = list(reversed(tasks))
    outcomes: dict[str, Outcome] = {}
    running: dict[int, _Running] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    one = _start(waiting.pop())
                    running[one.reader] = one
                    selector.register(one.reader, selectors.EVENT_READ)
                for one in _turn(selector, running):
                    selector.unregister(one.reader)
                    del running[one.reader]
                    outcomes[one.task.name] = _finish(one)
                    ended(one.task.name)
        finally:
            for one in running.values():
                _kill(one)
                os.close(one.reader)
    return outcomes


def _turn(selector: selectors.BaseSelector, running: dict[int, _Running]) -> list[_Running]:
    """Wait for news; those that have ended, or whose time is over."""
    nearest = min(one.until for one in running.values())
    done = []
    for ready, _ in selector.select(max(0.0, nearest - time.monotonic())):
        one = running[ready.fd]
        block = os.read(one.reader, _BLOCK_BYTES)
        one.received += block
        if not block:
            done.append(one)
    now = time.monotonic()
    return done + [one for one in running.values() if one.until <= now and one not in done]


def _start(task: Task) -> _Running:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _be_the_child(task, writer)
    os.close(writer)
    return _Running(task=task, pid=pid, reader=reader, until=time.monotonic() + task.deadline_sec)


def _be_the_child(task: Task, writer: int) -> NoReturn:
    """Never returns: nothing that the parent has begun is to be finished here, too."""
    status = 1
    try:
        # A group of its own, so that programs it starts end with it.
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            if task.user is not None:
                task.user.become()
            outcome = Outcome(value=task.call())
        except ScalerError as error:
            outcome = Outcome(trouble=error.message)
        except Exception as error:
            outcome = Outcome(trouble=f"{type(error).__name__}: {error}")
        content = memoryview(_render(outcome, task))
        while content:
            content = content[os.write(writer, content) :]
        status = 0
    finally:
        os._exit(status)


def _finish(one: _Running) -> Outcome:
    """What it wrote; without that, how it ended."""
    late = one.until <= time.monotonic()
    os.close(one.reader)
    outcome = _parse(one)
    if outcome is not None:
        os.waitpid(one.pid, 0)
        return outcome
    if late:
        _kill(one)
        return Outcome(trouble=f"no answer within {one.task.deadline_sec:g} seconds", is_late=True)
    _, status = os.waitpid(one.pid, 0)
    if status == 0 and one.received:
        return Outcome(trouble="its answer makes no sense")
    return Outcome(trouble=f"it ended with {_describe(os.waitstatus_to_exitcode(status))}")


def _render(outcome: Outcome, task: Task) -> bytes:
    if task.user is None:
        return pickle.dumps(outcome)
    return json.dumps({"value": outcome.value, "trouble": outcome.trouble}, default=asdict).encode()


def _parse(one: _Running) -> Outcome | None:
    """What it answered, None where that is none. Nothing that another user wrote is ever unpickled."""
    received = bytes(one.received)
    if one.task.user is None:
        with contextlib.suppress(Exception):
            outcome = pickle.loads(received)
            return outcome if isinstance(outcome, Outcome) else None
        return None
    try:
        match json.loads(received):
            case {"value": None, "trouble": str(trouble)} if trouble:
                return Outcome(trouble=trouble)
            case {"value": value, "trouble": ""}:
                return Outcome(value=one.task.parse(value))
    except (ValueError, RecursionError, InputError):
        pass
    return None


def _describe(code: int) -> str:
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


def _kill(one: _Running) -> None:
    """End the process and all it started, without waiting for what cannot be ended."""
    for kill in (os.killpg, os.kill):  # it may not have its group yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(one.pid, signal.SIGKILL)
    descriptor = os.pidfd_open(one.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            if selector.select(_GONE_SEC):
                os.waitpid(one.pid, 0)
    finally:
        os.close(descriptor)
