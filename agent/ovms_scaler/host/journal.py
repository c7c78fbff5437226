# SPDX-License-Identifier: Apache-2.0
"""Log entries as fields of the journal, or as lines on standard error where no journal listens.

The wire format is systemd's "Native Journal Protocol" (systemd.io/JOURNAL_NATIVE_PROTOCOL).
"""

import array
import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import struct
import sys
from collections import deque
from collections.abc import Mapping
from typing import TextIO

JOURNAL_SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "ovms-scaler"
SEND_BUFFER_BYTES = 8 << 20  # what sd_journal_send(3) asks for
BACKLOG_ENTRIES = 1000
FIELD_CHARACTERS = 64  # journald drops fields with longer names

# syslog(3)'s priorities for structlog's level names.
PRIORITIES = {"critical": 2, "exception": 3, "error": 3, "warning": 4, "warn": 4, "info": 6, "debug": 7}

# An event key -> the field that the rest of the system knows the thing by, beside OVMS_SCALER_<KEY>.
# journalctl -u and systemctl status show entries of root with OBJECT_SYSTEMD_UNIT= together with the unit's
# own (systemd.journal-fields(7), "messages from authorized daemons"); UNIT= is believed from PID 1 alone.
KNOWN_FIELDS = {"unit": "OBJECT_SYSTEMD_UNIT"}


class StderrSink:
    """One readable line for each event."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, **fields: object) -> None:
        """Write an event. A stream that has gone away loses it: there is nobody left to tell."""
        level = str(fields.get("level", "info"))
        with contextlib.suppress(OSError, ValueError):
            print(f"{level}: {render_line(fields)}", file=self._stream, flush=True)

    debug = info = warning = error = critical = exception = write


class JournalSink:
    """Sends events to journald and never waits for it.

    An entry too large for a datagram travels as a sealed memfd, whole. When journald does not keep up,
    entries wait here and go out with a later one or flush(); beyond ``BACKLOG_ENTRIES`` the oldest are
    dropped, and their number is logged. Where there is no journal at all an entry goes to ``fallback``.
    """

    def __init__(self, fallback: StderrSink, *, path: str = JOURNAL_SOCKET) -> None:
        self._fallback = fallback
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._backlog: deque[bytes] = deque()
        self._dropped = 0

    def close(self) -> None:
        """Send what can be sent at once, and release the socket."""
        self.flush()
        self._socket.close()

    def write(self, **fields: object) -> None:
        """Send an event, after those that wait."""
        entry = render_entry(fields)
        self.flush()
        if self._backlog:
            self._keep(entry)
            return
        try:
            if not self._send(entry):
                self._keep(entry)
        except OSError:
            self._fallback.write(**fields)

    debug = info = warning = error = critical = exception = write

    def flush(self) -> None:
        """Send what waits, as far as journald takes it."""
        with contextlib.suppress(OSError):
            while self._backlog and self._send(self._backlog[0]):
                self._backlog.popleft()
            if self._dropped and not self._backlog:
                event = "the journal did not keep up, entries were dropped"
                if self._send(render_entry({"level": "warning", "event": event, "dropped": self._dropped})):
                    self._dropped = 0

    def _keep(self, entry: bytes) -> None:
        self._backlog.append(entry)
        if len(self._backlog) > BACKLOG_ENTRIES:
            self._backlog.popleft()
            self._dropped += 1

    def _send(self, entry: bytes) -> bool:
        """False when journald's queue is full. Raises OSError when there is no journald."""
        try:
            self._socket.sendto(entry, self._path)
        except BlockingIOError:
            return False
        except OSError as error:
            # ENOBUFS: larger than the send buffer that the kernel allowed.
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            return self._send_memfd(entry)
        return True

    def _send_memfd(self, entry: bytes) -> bool:
        memfd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(memfd, "wb") as file:
            file.write(entry)
            file.flush()
            # journald maps the file only when nobody can change it any more.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, seals)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))
            try:
                self._socket.sendmsg([], [rights], 0, self._path)
            except BlockingIOError:
                return False
        return True


def open_sink(
    environment: Mapping[str, str] = os.environ, *, stream: TextIO | None = None, path: str = JOURNAL_SOCKET
) -> JournalSink | StderrSink:
    """The journal when standard error is connected to it (JOURNAL_STREAM, systemd.exec(5)), else lines."""
    lines = StderrSink(stream or sys.stderr)
    if is_journal_stream(environment.get("JOURNAL_STREAM", ""), (stream or sys.stderr).fileno()):
        return JournalSink(lines, path=path)
    return lines


def is_journal_stream(value: str, descriptor: int) -> bool:
    """True when ``value``, "device:inode", is what ``descriptor`` is connected to now.

    A process whose output was redirected inherits the variable all the same.
    """
    status = os.fstat(descriptor)
    return value == f"{status.st_dev}:{status.st_ino}"


def render_entry(fields: Mapping[str, object]) -> bytes:
    """An event as a journal entry: MESSAGE is the readable line, each key a field OVMS_SCALER_<KEY>."""
    level = str(fields.get("level", "info"))
    entry = [
        ("MESSAGE", render_line(fields)),
        ("PRIORITY", str(PRIORITIES.get(level, 6))),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
    ]
    for key, value in fields.items():
        if key in ("level", "timestamp"):
            continue
        entry.append((render_field_name(key), render_value(value)))
        if key in KNOWN_FIELDS:
            entry.append((KNOWN_FIELDS[key], render_value(value)))
    return b"".join(render_field(name, value) for name, value in entry)


def render_field(name: str, value: str) -> bytes:
    """``NAME=value``, or with the length in 64 bits, little-endian, where the value has line ends."""
    data = value.encode(errors="replace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(data)), data)


def render_field_name(key: str) -> str:
    """Upper-case letters, digits and underscores, as journald requires."""
    return ("OVMS_SCALER_" + re.sub("[^A-Z0-9]", "_", key.upper()))[:FIELD_CHARACTERS]


def render_value(value: object) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)


def render_line(fields: Mapping[str, object]) -> str:
    """The event and its keys on one line; a traceback (``exception``) follows on lines of its own."""
    words = [str(fields.get("event", ""))]
    for key, value in fields.items():
        if key not in ("level", "event", "timestamp", "exception"):
            text = render_value(value)
            words.append(f"{key}={text if text and text.isprintable() and ' ' not in text else repr(text)}")
    trace = fields.get("exception")
    return " ".join(words) + (f"\n{trace}" if trace else "")
