# SPDX-License-Identifier: Apache-2.0
"""Only one agent runs, however the one before it ended."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ovms_scaler.daemon.main import only_one
from ovms_scaler.errors import HostError

HOLD = """\
import sys
from pathlib import Path
from ovms_scaler.daemon.main import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock; returns when it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_agent_is_refused_and_told_where_to_look(tmp_path: Path) -> None:
    with hold(tmp_path / "lock") as other:
        with (
            pytest.raises(HostError, match=r"cannot lock .*/lock: another agent runs") as caught,
            only_one(tmp_path / "lock"),
        ):
            pytest.fail("two agents hold the lock")
        assert caught.value.hint == "systemctl status ovms-scaler"
        other.send_signal(signal.SIGKILL)
        other.wait()
    # The kernel has freed it.
    with only_one(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()


def test_a_missing_directory_is_told_with_the_way_out(tmp_path: Path) -> None:
    with (
        pytest.raises(HostError, match=r"cannot open .*/no/lock: No such file or directory") as caught,
        only_one(tmp_path / "no" / "lock"),
    ):
        pytest.fail("there is no lock to hold")
    assert caught.value.hint is not None
    assert "systemd-tmpfiles --create" in caught.value.hint
