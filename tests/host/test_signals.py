# SPDX-License-Identifier: Apache-2.0
"""Signals reach processes of the unit that is named, and nobody else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovms_scaler.host.signals import send_signal

UNIT = "ovms@chat-numa0.service"
V2 = "0::/ovms.slice/{unit}\n"
V1 = "9:memory:/elsewhere\n1:name=systemd:/ovms.slice/{unit}\n0::/\n"


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


def put_into(root: Path, pid: int, text: str) -> None:
    file = root / "proc" / str(pid) / "cgroup"
    file.parent.mkdir(parents=True)
    file.write_text(text)


@pytest.mark.parametrize("text", [V2, V1], ids=["version 2", "version 1"])
def test_one_of_the_unit_gets_it(text: str, tmp_path: Path, process: "subprocess.Popen[bytes]") -> None:
    put_into(tmp_path, process.pid, text.format(unit=UNIT))
    assert send_signal(process.pid, signal.SIGKILL, unit=UNIT, root=tmp_path)
    assert process.wait(timeout=10) == -signal.SIGKILL


@pytest.mark.parametrize(
    "text",
    [
        V2.format(unit="ovms@chat-numa1.service"),
        V2.format(unit=f"not-{UNIT}"),
        V2.format(unit=f"{UNIT}/below"),
        f"9:memory:/ovms.slice/{UNIT}\n0::/user.slice\n",
        "",
        "nonsense\n",
    ],
)
def test_nobody_else_gets_it(text: str, tmp_path: Path, process: "subprocess.Popen[bytes]") -> None:
    put_into(tmp_path, process.pid, text)
    assert not send_signal(process.pid, signal.SIGKILL, unit=UNIT, root=tmp_path)
    assert process.poll() is None


def test_one_that_has_ended_gets_none(tmp_path: Path, process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    put_into(tmp_path, process.pid, V2.format(unit=UNIT))
    assert not send_signal(process.pid, signal.SIGKILL, unit=UNIT, root=tmp_path)


@pytest.mark.parametrize("pid", [0, 1, -1, 2**31])
def test_no_number_of_a_process_is_none(pid: int, tmp_path: Path) -> None:
    assert not send_signal(pid, signal.SIGKILL, unit=UNIT, root=tmp_path)


def test_the_kernel_is_asked_whose_it_is(process: "subprocess.Popen[bytes]") -> None:
    assert not send_signal(os.getpid(), signal.SIGKILL, unit=UNIT)
    assert not send_signal(process.pid, signal.SIGKILL, unit=UNIT)
