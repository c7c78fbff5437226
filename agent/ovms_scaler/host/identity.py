# SPDX-License-Identifier: Apache-2.0
"""What tells one version of a program or a model from another that takes its place under the same path."""

import os
import stat
from hashlib import md5
from pathlib import Path


def read_identity(path: str, root: Path = Path("/")) -> str:
    """An opaque text that changes with a file, or with the files right in a directory; "" when unreadable.

    Name, inode, size and time of modification of each file count, of a link those of its target. Packages
    and archives keep old times, so that none of these would do alone.
    """
    place = root / path.lstrip("/")
    try:
        found = os.stat(place)
        if not stat.S_ISDIR(found.st_mode):
            return _digest([("", found)])
        with os.scandir(place) as entries:
            files = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    except OSError:
        return ""
    return _digest(sorted(files, key=lambda one: one[0]))


def _digest(files: list[tuple[str, os.stat_result]]) -> str:
    lines = "".join(f"{name} {one.st_ino} {one.st_size} {one.st_mtime_ns}\n" for name, one in files)
    return md5(lines.encode(errors="surrogateescape"), usedforsecurity=False).hexdigest()
