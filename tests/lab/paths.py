# SPDX-License-Identifier: Apache-2.0
"""Where the lab keeps what it builds, and how two runs in the same clone keep out of each other's way."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

LAB = Path(__file__).resolve().parent
ROOT = LAB.parent.parent
CACHE = Path(os.environ.get("OVMS_SCALER_CACHE") or ROOT / ".cache").absolute()

# Debian releases that the package supports, by code name, oldest first.
RELEASES = ("bookworm", "trixie")


def read_package_list(name: str) -> list[str]:
    """The Debian packages that `packages-<name>.txt` lists, one per line with # comments."""
    lines = (LAB / f"packages-{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the clone-wide lock `name`; waits for whoever has it, and is free again when the process ends."""
    directory = CACHE / "locks"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
