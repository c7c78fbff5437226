# SPDX-License-Identifier: Apache-2.0
"""Reads the journal through journalctl(1), which knows every format of its files, and their order."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

from ovms_scaler.core.journal_entry import parse_entry
from ovms_scaler.errors import HostError, InputError
from ovms_scaler.host.journal import IDENTIFIER

# What the agent logged, and nobody else can have: SYSLOG_IDENTIFIER= is the sender's own word, and _UID= is
# the kernel's (systemd.journal-fields(7)).
AGENT = (f"SYSLOG_IDENTIFIER={IDENTIFIER}", "_UID=0")
# Where journald keeps the system's journal (systemd-journald.service(8)).
DIRECTORIES = ("/var/log/journal", "/run/log/journal")
HINT = "join the group systemd-journal, or run this as root"


def can_read(root: Path = Path("/")) -> bool:
    """Whether this user may read the system's journal; others get their own entries only, and no error."""
    found = (
        path
        for directory in DIRECTORIES
        for path in root.joinpath(directory.lstrip("/")).glob("*/system*.journal")
    )
    return any(os.access(path, os.R_OK) for path in found)


def read_entries(*arguments: str) -> Generator[dict[str, str], None, None]:
    """The entries that journalctl finds with these arguments, until it ends or the iterator is closed.

    Raises HostError.
    """
    with tempfile.TemporaryFile() as complaints:
        # A session of its own: Ctrl-C is for the caller, who then ends it.
        process = _open(*_command(*arguments), stderr=complaints.fileno())
        with process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if (fields := parse_entry(line)) is not None:
                        yield fields
                status = process.wait()
            finally:
                process.kill()
        if status != 0:
            complaints.seek(0)
            raise _failure(status, complaints.read())


def list_values(field: str) -> list[str]:
    """Every value that the journal has of a field. Raises HostError."""
    found = _run("journalctl", "--quiet", f"--field={field}")
    return found.splitlines()


def read_time(text: str) -> float:
    """A time as journalctl(1) takes it, in seconds since the epoch. Raises InputError, HostError."""
    try:
        found = _run("systemd-analyze", "timestamp", "--", text)
    except _EndedError as error:
        raise InputError(
            f"{text!r} is no time", hint='as "2026-01-31 17:00", "yesterday", "10 min ago"; systemd.time(7)'
        ) from error
    for line in found.splitlines():
        name, _, value = line.partition(": @")
        if name.strip() == "UNIX seconds":
            with suppress(ValueError):
                return float(value)
    raise HostError(f"cannot understand what systemd-analyze says of {text!r}")


async def read_latest(count: int, *matches: str, deadline_sec: float) -> list[dict[str, str]]:
    """The latest entries of all boots, oldest first; without fields that are large. Raises HostError."""
    # Not --boot: in a container the id of the boot is another one within a unit's sandbox.
    command = _command(f"--lines={count}", *matches)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        raise _missing(command[0], error) from error
    try:
        async with asyncio.timeout(deadline_sec):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise HostError(f"journalctl gave no answer within {deadline_sec:g} seconds") from error
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return [fields for line in output.splitlines() if (fields := parse_entry(line)) is not None]


class _EndedError(HostError):
    """A program ended with a status that is not 0."""


def _command(*arguments: str) -> tuple[str, ...]:
    return ("journalctl", "--quiet", "--no-pager", "--output=json", *arguments)


def _open(*command: str, stderr: int) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    except OSError as error:
        raise _missing(command[0], error) from error


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise _missing(command[0], error) from error
    if done.returncode != 0:
        raise _failure(done.returncode, done.stderr, command[0])
    return done.stdout.decode(errors="replace")


def _failure(status: int, said: bytes, program: str = "journalctl") -> HostError:
    lines = said.decode(errors="replace").strip().splitlines()
    return _EndedError(f"{program} failed: {lines[-1] if lines else f'exit status {status}'}")


def _missing(program: str, error: OSError) -> HostError:
    return HostError(f"cannot run {program}: {error.strerror}", hint="it is in the package systemd")
