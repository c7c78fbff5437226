# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from ovms_scaler.host.gpu_idle import read_gpu_idle_sec

ONE, TWO = "0000:03:00.0", "0000:04:00.0"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {
                f"{ONE}/drm/card1/gt/gt0/rc6_residency_ms": "1500\n",
                f"{TWO}/drm/card2/gt/gt0/rc6_residency_ms": "7\n",
            },
            (1.5, 0.007),
            id="i915",
        ),
        pytest.param(
            {
                f"{ONE}/tile0/gt0/gtidle/idle_residency_ms": "1000\n",
                f"{ONE}/tile0/gt1/gtidle/idle_residency_ms": "2000\n",
                f"{TWO}/tile0/gt0/gtidle/idle_residency_ms": "3000\n",
            },
            (1.0, 2.0, 3.0),
            id="xe, with a part for media",
        ),
        pytest.param({f"{ONE}/tile0/gt0/gtidle/idle_residency_ms": "1\n"}, None, id="one does not tell"),
        pytest.param(
            {
                f"{ONE}/tile0/gt0/gtidle/idle_residency_ms": "long\n",
                f"{TWO}/tile0/gt0/gtidle/idle_residency_ms": "1\n",
            },
            None,
            id="no number",
        ),
        pytest.param({}, None, id="gone"),
    ],
)
def test_how_long_cards_were_idle(
    tmp_path: Path, files: dict[str, str], expected: tuple[float, ...] | None
) -> None:
    for name, text in files.items():
        path = tmp_path / "sys/bus/pci/devices" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert read_gpu_idle_sec((ONE, TWO), tmp_path) == expected
