# SPDX-License-Identifier: Apache-2.0
"""Each fuzzer briefly, always with the same inputs; `python -m fuzz` runs them as long as one likes."""

import pytest

from fuzz.driver import run
from fuzz.targets import TARGETS

INPUTS = 60


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_does_harm(name: str) -> None:
    assert run(TARGETS[name], inputs=INPUTS, start=0) >= INPUTS // 2
