# SPDX-License-Identifier: Apache-2.0
"""Calls in processes of their own."""

import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from ovms_scaler.errors import HostError
from ovms_scaler.host.accounts import Account
from ovms_scaler.host.apart import Outcome, Task, run_apart

PATIENT_SEC = 20.0


def task(name: str, call: object, *, deadline_sec: float = PATIENT_SEC, user: Account | None = None) -> Task:
    assert callable(call)
    return Task(name=name, call=call, deadline_sec=deadline_sec, user=user)


def run_one(call: object, *, deadline_sec: float = PATIENT_SEC, user: Account | None = None) -> Outcome:
    return run_apart([task("one", call, deadline_sec=deadline_sec, user=user)])["one"]


def fail() -> None:
    raise HostError("the disk is away")


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_values_come_back_however_large() -> None:
    large = "x" * (1 << 22)
    assert run_one(lambda: (large, 1)) == Outcome(value=(large, 1))


@pytest.mark.parametrize(
    ("call", "trouble"),
    [
        pytest.param(fail, "the disk is away", id="error of ours"),
        pytest.param(
            lambda: 1 // 0, "ZeroDivisionError: integer division or modulo by zero", id="any error"
        ),
        pytest.param(crash, "it ended with SIGKILL", id="crash"),
        pytest.param(lambda: os._exit(3), "it ended with exit status 3", id="exit"),
    ],
)
def test_what_goes_wrong_is_told_and_hurts_nobody_else(call: object, trouble: str) -> None:
    outcomes = run_apart([task("bad", call), task("good", lambda: "here")])
    assert outcomes["bad"].trouble == trouble
    assert outcomes["good"].value == "here"


def test_one_that_hangs_is_given_up_and_the_others_are_not_held_up() -> None:
    outcomes = run_apart(
        [task("hung", signal.pause, deadline_sec=0.2), *(task(str(n), lambda: "here") for n in range(3))],
        at_once=2,
    )
    assert outcomes["hung"].is_late
    assert outcomes["hung"].trouble == "no answer within 0.2 seconds"
    assert [outcomes[str(n)].value for n in range(3)] == ["here"] * 3


def test_what_it_started_ends_with_it() -> None:
    reader, writer = os.pipe()

    def hang() -> None:
        subprocess.run(["sleep", "60"], pass_fds=[writer], check=False)

    assert run_one(hang, deadline_sec=0.5).is_late
    os.close(writer)
    with os.fdopen(reader) as end:
        # It ends when nobody holds the other end any more.
        assert select.select([end], [], [], PATIENT_SEC)[0]
        assert end.read() == ""


def test_whoever_waits_hears_of_each_end() -> None:
    ended: list[str] = []
    run_apart([task("a", fail), task("b", lambda: None)], ended=ended.append)
    assert sorted(ended) == ["a", "b"]


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    run_apart([task("a", lambda: None), task("b", signal.pause, deadline_sec=0.1)])
    assert os.listdir("/proc/self/fd") == before


def test_another_user_can_be_asked_by_root_only() -> None:
    nobody = Account(name="nobody", uid=65534, gid=65534, groups=(65534,))
    outcome = run_one(lambda: (os.getuid(), os.geteuid(), os.getgroups()), user=nobody)
    if os.geteuid() == 0:
        assert outcome.value == (65534, 65534, [65534])
    else:
        assert outcome.trouble == "cannot act as the user 'nobody': this is not root"
