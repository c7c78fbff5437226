# SPDX-License-Identifier: Apache-2.0
"""The same source gives the same package, wherever, whenever and by whomever it is built."""

import hashlib
from pathlib import Path

from lab import deb


def test_built_again_in_other_surroundings_it_is_the_same(release: str, debs: list[Path]) -> None:
    built = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in debs}
    assert deb.rebuild(release) == built
