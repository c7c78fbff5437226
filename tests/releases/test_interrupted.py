# SPDX-License-Identifier: Apache-2.0
"""Killed, or out of space, at any step: what runs is untouched, and the next try succeeds."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from release_lab import Lab, program, unpack_by_hand

from ovms_scaler.errors import ScalerError
from ovms_scaler.host import releases as directory

OLDEST, OLD, NEW = "2026.1.0", "2026.2.0", "2026.3.1"
# Everything that changes a file system on the way.
CALLS = ("mkdir", "rename", "replace", "symlink", "link", "unlink", "fsync", "chmod", "fchmod", "rmdir")

Begin = Callable[[Lab], None]


class _Killed(BaseException):
    """Stands for the end of the process, so that nothing is tidied up."""


def begin_with_installed(lab: Lab) -> None:
    lab.install(OLD)
    lab.releases.use(OLD)
    lab.plan("chat-numa0", OLD)


def begin_with_one_by_hand(lab: Lab) -> None:
    unpack_by_hand(lab.root, OLD)
    lab.plan("chat-numa0", "")


def begin_with_one_by_hand_over_an_installed_one(lab: Lab) -> None:
    lab.install(OLDEST)
    lab.releases.use(OLDEST)
    for part in ("bin", "lib"):
        (lab.root / part).unlink()  # as tar does
    unpack_by_hand(lab.root, OLD)
    lab.plan("chat-numa0", "")


BEGINNINGS = pytest.mark.parametrize(
    "begin",
    [begin_with_installed, begin_with_one_by_hand, begin_with_one_by_hand_over_an_installed_one],
    ids=["installed", "by hand", "by hand later"],
)


@pytest.fixture
def strike(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, BaseException], None]]:
    """Has the numbered change of the file system, and with a _Killed every later one, not happen."""
    left = -1
    failure: BaseException = _Killed()

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0 or (left < 0 and isinstance(failure, _Killed) and armed):
            raise failure

    armed = False

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if armed:
                count()
            return real(*arguments, **options)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))
    monkeypatch.setattr(directory, "_exchange", wrap(directory._exchange))

    def arm(number: int, error: BaseException) -> None:
        nonlocal left, failure, armed
        left, failure, armed = number, error, number > 0

    yield arm
    armed = False


def go_over(lab: Lab) -> None:
    archive = lab.archive(NEW)
    name = lab.releases.install(archive, sha256=None, force=False, report=lambda *_: None).name
    lab.releases.use(name)


def assert_untouched(lab: Lab) -> None:
    """Whoever runs the old release finds all of it where it was started from."""
    planned = directory.read_planned(lab.root, lab.host)["chat-numa0"]
    home = lab.root / planned
    assert (home / "bin/ovms").read_text() == program(OLD)
    assert (home / "lib/libopenvino.so").read_text() == f"the libraries of {OLD}"
    # And whatever would be planned now is whole.
    pinned = directory.read_pinned(lab.root)
    home = lab.root / pinned
    version = NEW if pinned == NEW else OLD
    assert (home / "bin/ovms").read_text() == program(version)
    assert (home / "lib/libopenvino.so").read_text() == f"the libraries of {version}"


def assert_arrived(lab: Lab) -> None:
    lab.plan("chat-numa0", NEW)
    lab.releases.settle()
    assert lab.program() == program(NEW)
    assert (lab.releases.current(), lab.releases.names()[:2]) == (NEW, (NEW, OLD))
    # What lay beside bin and lib is the administrator's.
    usual = {".lock", "bin", "lib", "current", "previous", "LICENSE"}
    assert {path.name for path in lab.root.iterdir()} - usual - {OLDEST} == {OLD, NEW}


@BEGINNINGS
@pytest.mark.parametrize(
    "failure",
    [
        _Killed(),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EIO, os.strerror(errno.EIO)),
    ],
    ids=["killed", "full disk", "broken disk"],
)
def test_end_at_any_step_leaves_what_runs(
    begin: Begin, failure: BaseException, strike: Callable[[int, BaseException], None], tmp_path: Path
) -> None:
    number, was_struck = 0, True
    while was_struck:
        number += 1
        (tmp_path / str(number)).mkdir()
        lab = Lab(tmp_path / str(number))
        begin(lab)
        strike(number, failure)
        try:
            go_over(lab)
            was_struck = False
        except (_Killed, ScalerError):
            pass
        strike(0, failure)
        assert_untouched(lab)
        go_over(lab)
        assert_arrived(lab)
    assert number > 15  # else nothing was struck


@BEGINNINGS
def test_end_at_any_step_of_going_back_leaves_what_runs(
    begin: Begin, strike: Callable[[int, BaseException], None], tmp_path: Path
) -> None:
    number, was_struck = 0, True
    while was_struck:
        number += 1
        (tmp_path / str(number)).mkdir()
        lab = Lab(tmp_path / str(number))
        begin(lab)
        go_over(lab)
        strike(number, _Killed())
        try:
            lab.releases.use(OLD)
            was_struck = False
        except _Killed:
            pass
        strike(0, _Killed())
        assert_untouched(lab)
        lab.releases.use(OLD)
        assert lab.releases.current() == OLD
        assert (lab.root / "bin/ovms").read_text() == program(OLD)
    assert number > 3
