# SPDX-License-Identifier: Apache-2.0
"""Has the agent run other configurations for a while, and puts the administrator's back whatever happens."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovms_scaler.bench.host import Host
from ovms_scaler.bench.rotation import wait_until_done
from ovms_scaler.errors import HostError, RefusedError

COPY_SUFFIX = ".before-bench"


class Swap:
    """The configuration file of the agent, of which a copy lies beside it as long as it is another one."""

    def __init__(self, host: Host, file: Path, stop: asyncio.Event, tell: Callable[[str], None]) -> None:
        self._host = host
        self._file = file
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
            original = self._file.read_bytes()
            with self._copy.open("xb") as stream:
                os.fchmod(stream.fileno(), self._file.stat().st_mode & 0o777)
                stream.write(original)
                stream.flush()
                os.fsync(stream.fileno())
        except FileExistsError:
            raise RefusedError(
                f"cannot begin: {self._copy} is there, left over from a comparison that was killed",
                hint=f"compare it with {self._file}; then mv {self._copy} {self._file} "
                "&& ovms-scalerctl reload --allow-outage, or rm it",
            ) from None
        except OSError as error:
            raise HostError(
                f"cannot keep a copy of {self._file}: {error.strerror}", hint="run this as root"
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
        order: Any = await asyncio.to_thread(self._host.reload)
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
                    hint=f"what was there before is in {self._copy}",
                )
            state = self._file.stat()
            beside = self._file.with_name(f".{self._file.name}.bench")
            with beside.open("wb") as stream:
                os.fchmod(stream.fileno(), state.st_mode & 0o777)
                os.fchown(stream.fileno(), state.st_uid, state.st_gid)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(self._file)
        except OSError as error:
            raise HostError(
                f"cannot write {self._file}: {error.strerror}", hint="run this as root"
            ) from error
        self._written = content
