# SPDX-License-Identifier: Apache-2.0
"""Files that are read whole and replaced whole, under a root that is / except in tests."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ovms_scaler.errors import HostError

_WAYS_OUT = {
    errno.ENOSPC: "free some space; `df` shows which file system is full",
    errno.EROFS: "the file system is mounted read-only; mount and dmesg say why",
}


def read_text(path: Path) -> str | None:
    """The file's text, or None when there is no such file. Raises HostError when it cannot be read."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"cannot read {path}: {_why(error)}") from error


def write_text(path: Path, text: str, *, durable: bool = False) -> bool:
    """Replace the file in one step; False when it says that already. Parent directories are made.

    A reader sees the old text or the new one, never a part: the text goes to a file beside it, which is then
    renamed (rename(2)). ``durable`` also waits until text and name are on the disk: without the directory a
    power failure may bring the old file back (fsync(2)). Raises HostError; then the old text stands, unless
    it was that wait that failed.
    """
    try:
        if path.read_bytes() == text.encode():
            return False
    except OSError:
        pass  # it is missing or unreadable: to be replaced
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            if durable:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
        temporary = None
        if durable:
            _sync_directory(path.parent)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise HostError(f"cannot write {path}: {_why(error)}", hint=way_out(error)) from error
    return True


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(root: Path, files: Mapping[str, str]) -> tuple[str, ...]:
    """Write files given by absolute path below ``root``; the paths that changed. Raises HostError."""
    return tuple(path for path, text in files.items() if write_text(below(root, path), text))


def read_all(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """The files that exist, by absolute path. Raises HostError."""
    found = ((path, read_text(below(root, path))) for path in paths)
    return {path: text for path, text in found if text is not None}


def remove_empty(directory: Path) -> None:
    """Remove a directory if nothing is in it; an administrator's own drop-in beside ours keeps it."""
    with contextlib.suppress(OSError):
        directory.rmdir()


def below(root: Path, path: str) -> Path:
    """An absolute path of the host as it lies below ``root``."""
    return root / path.lstrip("/")


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def way_out(error: OSError) -> str | None:
    """What to do about a failure to write, where anything is known."""
    return _WAYS_OUT.get(error.errno or 0)
