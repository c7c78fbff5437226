# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from ovms_scaler.host.cgroups import read_cpu_sec

UNIT = "ovms@chat-numa0.service"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n", 2.5, id="used"),
        pytest.param("user_usec 1\n", None, id="another kernel"),
        pytest.param("usage_usec much\n", None, id="no number"),
        pytest.param(None, None, id="does not run"),
    ],
)
def test_cpu_time_of_a_unit(tmp_path: Path, text: str | None, expected: float | None) -> None:
    if text is not None:
        directory = tmp_path / "sys/fs/cgroup/ovms.slice" / UNIT
        directory.mkdir(parents=True)
        (directory / "cpu.stat").write_text(text)
    assert read_cpu_sec(UNIT, tmp_path) == expected
