# SPDX-License-Identifier: Apache-2.0
"""A process that is slowed is stopped, answers all the same, and is itself again afterwards."""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO

from faults import slow

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


def ask(to: IO[str] | None, answers: IO[str] | None) -> str:
    assert to is not None
    assert answers is not None
    to.write("hello\n")
    to.flush()
    return answers.readline()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)  # that a process was stopped shows in /proc only


def test_a_slow_process_is_stopped_again_and_again_and_answers_in_between() -> None:
    command = [sys.executable, "-c", ECHO]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert ask(process.stdin, process.stdout) == "hello\n"
        with slow.slowed(process.pid, call_sec=0.05):
            for _ in range(3):
                wait_for(lambda: slow.read_state(process.pid) == "T")
                assert ask(process.stdin, process.stdout) == "hello\n"
        wait_for(lambda: slow.read_state(process.pid) == "S")
        assert ask(process.stdin, process.stdout) == "hello\n"
