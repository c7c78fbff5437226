# SPDX-License-Identifier: Apache-2.0
"""Figures as people read them, at the edges where a unit or a digit ends."""

import pytest

from ovms_scaler.core.quantities import (
    GIB,
    MIB,
    format_bytes,
    format_latency,
    format_number,
    format_share,
    format_used,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"), (0.0081, "8 ms"), (0.18, "180 ms"), (0.9994, "999 ms"), (0.9996, "1.0 s"),
        (1.44, "1.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (75.2, "75 s"), (3600.0, "3,600 s"),
    ],
)  # fmt: skip
def test_latency(seconds: float, text: str) -> None:
    assert format_latency(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 MiB"), (512 * MIB, "512 MiB"), (GIB, "1.0 GiB"), (12 * GIB - 72 * MIB, "11.9 GiB"),
        (99.94 * GIB, "99.9 GiB"), (99.96 * GIB, "100 GiB"), (256 * GIB, "256 GiB"),
        (2048 * GIB, "2,048 GiB"),
    ],
)  # fmt: skip
def test_bytes(size: float, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.004, "<0.1"), (0.3, "0.3"), (48.23, "48.2"), (99.94, "99.9"), (99.96, "100"),
        (1204, "1,204"),
    ],
)  # fmt: skip
def test_number(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(("share", "text"), [(0.0, "0 %"), (0.634, "63 %"), (1.0, "100 %")])
def test_share(share: float, text: str) -> None:
    assert format_share(share) == text


def test_used() -> None:
    assert format_used(181 * GIB, 256 * GIB) == "181 of 256 GiB"
    assert format_used(512 * MIB, 12 * GIB) == "512 MiB of 12.0 GiB"
