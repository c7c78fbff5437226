# SPDX-License-Identifier: Apache-2.0
"""Hosts to look at."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor_host import DoctorHost, write_healthy


@pytest.fixture
def host() -> Iterator[DoctorHost]:
    """A healthy host, below a directory that every user may enter, unlike those of tmp_path."""
    with tempfile.TemporaryDirectory(prefix="ovms-scaler-test-") as directory:
        Path(directory).chmod(0o755)
        yield write_healthy(Path(directory))
