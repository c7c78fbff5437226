# SPDX-License-Identifier: Apache-2.0
"""Calls in processes of their own."""

import os
import pickle
import select
import signal
import subprocess
from pathlib import Path

import pytest

from ovms_scaler.errors import HostError, InputError
from ovms_scaler.host import apart
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


ME = Account(name="me", uid=os.geteuid(), gid=os.getegid())


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self._file, "sprung"))


@pytest.mark.parametrize("kind", ["pickle", "no JSON", "another document", "deep"])
def test_what_another_user_writes_is_never_more_than_data(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {
        "pickle": pickle.dumps(Trap(tmp_path / "trap")),
        "no JSON": b"{",
        "another document": b'{"value": 1, "trouble": 7}',
        "deep": b"[" * 100_000,
    }[kind]
    monkeypatch.setattr(apart, "_render", lambda *_: written)
    assert run_one(lambda: None, user=ME) == Outcome(trouble="its answer makes no sense")
    assert list(tmp_path.iterdir()) == []


def test_answer_of_another_user_is_read_by_who_knows_what_it_must_be() -> None:
    def parse(document: object) -> Account:
        match document:
            case {"name": str(name), "uid": int(uid), "gid": int(gid), "groups": []}:
                return Account(name=name, uid=uid, gid=gid)
        raise InputError("no account")

    def ask(value: object) -> Outcome:
        one = Task(name="one", call=lambda: value, deadline_sec=PATIENT_SEC, user=ME, parse=parse)
        return run_apart([one])["one"]

    assert ask(ME) == Outcome(value=ME)
    assert ask("root") == Outcome(trouble="its answer makes no sense")
    assert run_one(fail, user=ME) == Outcome(trouble="the disk is away")


def test_another_user_can_be_asked_by_root_only() -> None:
    nobody = Account(name="nobody", uid=65534, gid=65534, groups=(65534,))
    outcome = run_one(lambda: (os.getuid(), os.geteuid(), os.getgroups()), user=nobody)
    if os.geteuid() == 0:
        assert outcome.value == [65534, 65534, [65534]]
    else:
        assert outcome.trouble == "cannot act as the user 'nobody': this is not root"
