# SPDX-License-Identifier: Apache-2.0
"""Tells whether a render node is still the same device."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath


def read_identities(render_nodes: Iterable[str], root: Path = Path("/")) -> str:
    """A word that changes when one of the devices is taken away, also if another gets its name at once.

    kernfs gives every directory of sysfs a number of its own and uses none again for a long time
    (fs/kernfs/dir.c, __kernfs_new_node: idr_alloc_cyclic).
    """
    return ",".join(f"{node}={_read_identity(root, node)}" for node in render_nodes)


def _read_identity(root: Path, render_node: str) -> int:
    try:
        return (root / "sys/class/drm" / PurePosixPath(render_node).name).stat().st_ino
    except OSError:
        return 0
