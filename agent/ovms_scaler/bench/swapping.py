# SPDX-License-Identifier: Apache-2.0
"""Has the agent run other configurations for a while, and puts the administrator's back whatever happens."""

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ovms_scaler.bench.host import Host
from ovms_scaler.bench.patience import Patience
from ovms_scaler.bench.rotation import wait_until_done
from ovms_scaler.errors import HostError, RefusedError, ScalerError

COPY_SUFFIX = ".before-bench"


class Swap:
    """The configuration file of the agent, of which a copy lies beside it as long as it is another one."""

    def __init__(self, host: Host, file: Path, stop: asyncio.Event, tell: Callable[[str], None]) -> None:
        self._host = host
        # A link stays one: what it leads to is replaced.
        self._file = file = file.resolve()
        self._stop = stop
        self._tell = tell
        self._copy = file.with_name(file.name + COPY_SUFFIX)
        self._original: bytes | None = None
        self._written: bytes | None = None

    def open(self) -> None:
        """Keep a copy.

        Raises RefusedError when one is there already, and HostError when it cannot be kept.
        """
        try:
            original, mode = self._file.read_bytes(), self._file.stat().st_mode & 0o777
            with self._copy.open("xb") as stream, _removed_on_failure(self._copy):
                os.fchmod(stream.fileno(), mode)
                _write_through(stream, original)
        except FileExistsError:
            raise RefusedError(
                f"cannot begin: {self._copy} is there, left over from a comparison that was killed",
                hint=f"compare it with {self._file}; then mv {self._copy} {self._file} "
                "&& ovms-scalerctl reload --allow-outage, or rm it",
            ) from None
        except OSError as error:
            raise HostError(
                f"cannot keep a copy of {self._file}: {error.strerror}", hint=_find_way_out(error)
            ) from error
        self._original = self._written = original

    async def put(self, content: bytes) -> None:
        """Have the agent run this one. Raises StoppedError, RefusedError and HostError."""
        if content != self._written:
            self._write(content)
        order = await asyncio.to_thread(self._host.reload)
        await wait_until_done(self._host, "reload", order, self._stop, self._tell)

    async def restore(self, *, wait: bool) -> None:
        """Put the original back and have the agent take it. Raises ScalerError, and then the copy stays."""
        if self._original is None:
            return
        if self._written != self._original:
            self._write(self._original)
        try:
            order: Any = await Patience().insist(self._host.reload)
        except ScalerError as error:
            raise HostError(
                f"{self._file} is as it was, but the agent has not taken it: {error.message}",
                hint=f"ovms-scalerctl reload --allow-outage && rm {self._copy}",
            ) from error
        self._copy.unlink(missing_ok=True)
        self._original = None
        if wait:
            await wait_until_done(self._host, "reload", order, self._stop, self._tell)

    def _write(self, content: bytes) -> None:
        """Replace the file at once, unless somebody else has changed it."""
        try:
            if self._file.read_bytes() != self._written:
                raise RefusedError(
                    f"cannot replace {self._file}: somebody else has changed it since",
                    hint=f"what was there before is in {self._copy}; keep what you need of both, and rm it",
                )
            state = self._file.stat()
            beside = self._file.with_name(f".{self._file.name}.bench")
            with beside.open("wb") as stream, _removed_on_failure(beside):
                os.fchmod(stream.fileno(), state.st_mode & 0o777)
                os.fchown(stream.fileno(), state.st_uid, state.st_gid)
                _write_through(stream, content)
            beside.replace(self._file)
        except OSError as error:
            raise HostError(
                f"cannot write {self._file}: {error.strerror}",
                hint=f"{_find_way_out(error)}; what was there at first is in {self._copy}",
            ) from error
        self._written = content


def _write_through(stream: BinaryIO, content: bytes) -> None:
    stream.write(content)
    stream.flush()
    os.fsync(stream.fileno())


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    """Half a configuration must not be taken for a whole one."""
    try:
        yield
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _find_way_out(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on that file system"
    return "run this as root"
