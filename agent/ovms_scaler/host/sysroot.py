# SPDX-License-Identifier: Apache-2.0
"""Reads small files, and the numbers they list, below a directory that stands for / and is never left."""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ovms_scaler.core.cpulist import parse_cpu_list, parse_cpu_mask
from ovms_scaler.errors import InputError

MAX_BYTES = 1 << 18
"""A sysfs attribute is a page; CPU lists may be longer, and nothing that is read here comes near this."""

_MAX_WARNINGS = 50
_MAX_LINKS = 40  # As the kernel itself, see path_resolution(7).
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_T = TypeVar("_T")


class Sysroot:
    """A tree read as chroot(2) would show it: absolute links start at its root and ``..`` stops there.

    Whatever is missing, vanishes meanwhile or cannot be read is None; nothing here raises. Paths are
    relative to the root ("sys/devices/system/cpu"). Directories are looked up once: make a new one for
    every survey.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root).rstrip("/")
        self._directories: dict[str, str | None] = {"": ""}

    def read(self, path: str, *, max_bytes: int = MAX_BYTES) -> str | None:
        """A regular file's text, stripped of white space and of the NULs tar pads sysfs files with."""
        parent, _, name = path.rpartition("/")
        if (directory := self._directory(parent)) is None:
            return None
        data = _read_bytes(f"{self._root}/{directory}/{name}", max_bytes=max_bytes)
        if data is None and self.link(path) is not None and (target := self.resolve(path)) is not None:
            data = _read_bytes(f"{self._root}/{target}", max_bytes=max_bytes)
        return None if data is None else data.decode("ascii", "replace").strip("\0 \t\r\n")

    def names(self, path: str) -> tuple[str, ...]:
        """What a directory holds, none when it cannot be listed."""
        if (directory := self._directory(path)) is None:
            return ()
        try:
            return tuple(sorted(os.listdir(f"{self._root}/{directory}")))
        except OSError:
            return ()

    def link(self, path: str) -> str | None:
        """The text of a symbolic link."""
        parent, _, name = path.rpartition("/")
        if (directory := self._directory(parent)) is None:
            return None
        try:
            return os.readlink(f"{self._root}/{directory}/{name}")
        except OSError:
            return None

    def is_directory(self, path: str) -> bool:
        directory = self._directory(path)
        return directory is not None and os.path.isdir(f"{self._root}/{directory}")

    def resolve(self, path: str) -> str | None:
        """The path with every link replaced by what it names, be it there or not; None for a loop."""
        parent, _, name = path.rpartition("/")
        if (start := self._directory(parent)) is None:
            return None
        done = start.split("/") if start else []
        pending = [name]
        links = 0
        while pending:
            part = pending.pop()
            if part in {"", "."}:
                continue
            if part == "..":
                del done[-1:]
                continue
            try:
                target = os.readlink("/".join((self._root, *done, part)))
            except OSError:
                done.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                return None
            if target.startswith("/"):
                done.clear()
            pending.extend(reversed(target.split("/")))
        return "/".join(done)

    def _directory(self, path: str) -> str | None:
        if path not in self._directories:
            self._directories[path] = self.resolve(path)
        return self._directories[path]


def _read_bytes(path: str, *, max_bytes: int) -> bytes | None:
    """The first bytes of a regular file that is not a link; no fifo is waited for and no device read."""
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        chunks: list[bytes] = []
        while max_bytes > 0 and (chunk := os.read(descriptor, max_bytes)):
            chunks.append(chunk)
            max_bytes -= len(chunk)
        return b"".join(chunks)
    except OSError:
        return None
    finally:
        os.close(descriptor)


class Survey:
    """One reading of a host: its tree, and what was found missing or contradictory on the way."""

    def __init__(self, root: Path) -> None:
        self.tree = Sysroot(root)
        self._warnings: list[str] = []

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence each; a tree of nothing but nonsense does not flood the screen."""
        shown = self._warnings[:_MAX_WARNINGS]
        if hidden := len(self._warnings) - len(shown):
            shown.append(f"{hidden} more warnings like these are not shown")
        return tuple(shown)

    def warn(self, sentence: str) -> None:
        self._warnings.append(sentence)

    def numbers(self, path: str) -> frozenset[int] | None:
        """A list of CPUs or nodes; None when the file is missing, and with a warning when it is nonsense."""
        return self._parsed(path, parse_cpu_list)

    def mask(self, path: str) -> frozenset[int] | None:
        """The same in the notation of masks."""
        return self._parsed(path, parse_cpu_mask)

    def number(self, path: str) -> int | None:
        """One decimal number."""
        return self._parsed(path, _parse_number)

    def _parsed(self, path: str, parse: Callable[[str], _T]) -> _T | None:
        if (text := self.tree.read(path)) is None:
            return None
        try:
            return parse(text)
        except InputError as error:
            self.warn(f"{path}: {error.message}, ignoring the file")
            return None


def _parse_number(text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise InputError(f"cannot read number {text[:80]!r}: must be a decimal number")
    return int(text)
