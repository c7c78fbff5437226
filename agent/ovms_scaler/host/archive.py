# SPDX-License-Identifier: Apache-2.0
"""Unpacks an archive that nobody vouches for: what it holds is judged, and nothing but its files comes out.

tarfile's own filters are no help: Debian 12's Python 3.11.2 has none. Links are made last, so that nothing
is ever written through one.
"""

import contextlib
import hashlib
import os
import posixpath
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ovms_scaler.errors import HostError, InputError

# Releases of OVMS unpack to 1 to 2 GB in some thousand files.
MAX_BYTES = 16 << 30
MAX_MEMBERS = 200_000
_BLOCK = 1 << 20
_NO_FOLLOW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Report = Callable[[int, int], None]
"""Called with the bytes of the archive read so far, and with its size."""


class Archive:
    """One opened file: what is hashed is what is unpacked, whoever replaces its name meanwhile."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self.path = path
        self._stream = stream
        self.size_bytes = os.fstat(stream.fileno()).st_size

    def read_sha256(self, report: Report) -> str:
        """The checksum of the whole file. Raises HostError."""
        digest = hashlib.sha256()
        try:
            self._stream.seek(0)
            while block := self._stream.read(_BLOCK):
                digest.update(block)
                report(self._stream.tell(), self.size_bytes)
        except OSError as error:
            raise HostError(f"cannot read {self.path}: {error.strerror}") from error
        return digest.hexdigest()

    def unpack(self, into: Path, report: Report) -> None:
        """Unpack the one directory that it holds; its content lies in ``into`` then, on the disk for good.

        Raises InputError for what does not belong into a release, HostError when it cannot be written.
        """
        try:
            self._stream.seek(0)
            with tarfile.open(fileobj=self._stream, mode="r:*", errorlevel=2) as tar:
                _Unpacking(into, lambda: report(self._stream.tell(), self.size_bytes)).take(tar)
        except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
            raise InputError(
                f"cannot unpack {self.path}: {error}", hint="is it a .tar.gz, and downloaded to its end?"
            ) from error
        except OSError as error:
            raise HostError(f"cannot unpack {self.path}: {error.strerror or error}") from error


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The file, opened. Raises HostError."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    with stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise HostError(f"cannot read {path}: it is not a file", hint="download the archive first")
        yield Archive(path, stream)


class _Unpacking:
    def __init__(self, into: Path, report: Callable[[], None]) -> None:
        self._into = into
        self._report = report
        self._top = ""
        self._bytes = 0
        self._links: dict[str, str] = {}
        self._directories: set[str] = {""}

    def take(self, tar: tarfile.TarFile) -> None:
        for count, member in enumerate(tar):
            if count >= MAX_MEMBERS:
                raise InputError(f"cannot unpack: there are more than {MAX_MEMBERS} files in it")
            self._bytes += member.size if member.isreg() else 0
            if self._bytes > MAX_BYTES:
                raise InputError(f"cannot unpack: there are more than {MAX_BYTES >> 30} GiB in it")
            if (name := self._judge(member)) is not None:
                self._write(tar, member, name)
            self._report()
        for name, target in self._links.items():
            self._make_directory(posixpath.dirname(name))
            os.symlink(target, self._into / name)
        self._check_links()
        for name in sorted(self._directories, reverse=True):
            _sync(self._into / name)

    def _judge(self, member: tarfile.TarInfo) -> str | None:
        """The member's path below the one directory, None for that itself. Raises InputError."""
        path = posixpath.normpath(member.name)
        if posixpath.isabs(path) or ".." in path.split("/") or "\0" in path:
            raise _refuse(member, "its path leaves the archive")
        if member.mode & (stat.S_ISUID | stat.S_ISGID) and not member.isdir():
            raise _refuse(member, "it would run with the rights of its owner")
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            raise _refuse(member, "it is a device or a pipe")
        top, _, inside = path.partition("/")
        if top == ".":
            return None
        self._top = self._top or top
        if top != self._top:
            raise InputError(
                f"cannot unpack: beside {self._top!r} it holds {top!r}; a release is one directory"
            )
        if any(parent in self._links for parent in _parents(inside)):
            raise _refuse(member, "it lies behind a link")
        return inside or None

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        if member.isdir():
            self._make_directory(name)
            return
        self._make_directory(posixpath.dirname(name))
        if os.path.lexists(self._into / name) or name in self._links:
            raise _refuse(member, "it is there twice")
        if member.issym():
            self._links[name] = member.linkname
        elif member.islnk():
            self._link(member, name)
        else:
            self._copy(tar, member, name)

    def _link(self, member: tarfile.TarInfo, name: str) -> None:
        """A second name of a file that came before."""
        top, _, inside = posixpath.normpath(member.linkname).partition("/")
        source = self._into / inside
        is_inside = top == self._top and inside and not any(one in self._links for one in _parents(inside))
        if (
            not is_inside
            or ".." in inside.split("/")
            or not os.path.isfile(source)
            or os.path.islink(source)
        ):
            raise _refuse(member, f"it is a link to {member.linkname!r}, which is no file in it")
        os.link(source, self._into / name, follow_symlinks=False)

    def _copy(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        source = tar.extractfile(member)
        assert source is not None
        mode = 0o755 if member.mode & 0o111 else 0o644
        with source, os.fdopen(os.open(self._into / name, _NO_FOLLOW, mode), "wb") as stream:
            while block := source.read(_BLOCK):
                stream.write(block)
                self._report()
            stream.flush()
            os.fchmod(stream.fileno(), mode)  # whatever the umask
            os.fsync(stream.fileno())

    def _make_directory(self, name: str) -> None:
        for path in [*reversed(_parents(name)), name]:
            if path in self._directories:
                continue
            os.mkdir(self._into / path, 0o755)
            os.chmod(self._into / path, 0o755)
            self._directories.add(path)

    def _check_links(self) -> None:
        root = os.path.realpath(self._into)
        for name, target in self._links.items():
            real = os.path.realpath(self._into / name)
            if posixpath.isabs(target) or not real.startswith(f"{root}/"):
                raise InputError(f"cannot unpack: {name!r} is a link to {target!r}, which is outside of it")


def _parents(name: str) -> list[str]:
    """The directories above it, nearest first, without the top."""
    parents = []
    while name := posixpath.dirname(name):
        parents.append(name)
    return parents


def _refuse(member: tarfile.TarInfo, why: str) -> InputError:
    return InputError(
        f"cannot unpack: {member.name!r} does not belong into a release, as {why}",
        hint="compare the checksum of the archive with the published one",
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
