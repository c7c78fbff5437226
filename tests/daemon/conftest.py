# SPDX-License-Identifier: Apache-2.0
"""The host on which the daemon's parts are tested."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from daemon_host import DaemonHost, daemon_host


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[DaemonHost]:
    async with daemon_host(tmp_path) as made:
        yield made
