# SPDX-License-Identifier: Apache-2.0
"""Why nginx did not take a configuration: lines marked [emerg] in logs that its own user may write."""

import os
import stat
from pathlib import Path

_LOG_BYTES = 4096


def read_size(path: Path) -> int:
    """In bytes; 0 when there is no file."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def read_tail(path: Path, *, since: int = 0) -> str:
    """The lines marked [emerg], from ``since`` on. The proxy's user owns the file: follow no link."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            return ""
        start = since if since <= found.st_size else 0
        text = os.pread(file, _LOG_BYTES, max(start, found.st_size - _LOG_BYTES)).decode(errors="replace")
    finally:
        os.close(file)
    return "\n".join(line.strip() for line in text.splitlines() if "[emerg]" in line)
