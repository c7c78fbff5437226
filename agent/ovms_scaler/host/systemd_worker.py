# SPDX-License-Identifier: Apache-2.0
"""The process that talks D-Bus to systemd: one JSON request per line in, answers and unit events out.

It runs as a program of its own and imports nothing of this package, because a pystemd call holds the GIL
until PID 1 answers and cannot be given a deadline: only another process can give up on it. It does one
call at a time and keeps no state but the subscription. It ends when its standard input does (the agent is
gone) or when the bus is lost (the agent starts another).
"""

import contextlib
import fnmatch
import json
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable

from pystemd.dbusexc import DBusBaseError, DBusFileNotFoundError, DBusNoSuchUnitError
from pystemd.dbuslib import DBus, DbusMessage

BUS = b"org.freedesktop.DBus"
BUS_PATH = b"/org/freedesktop/DBus"
SYSTEMD = b"org.freedesktop.systemd1"
MANAGER_PATH = b"/org/freedesktop/systemd1"
UNIT_PREFIX = "/org/freedesktop/systemd1/unit/"
MANAGER = b"org.freedesktop.systemd1.Manager"
PROPERTIES = b"org.freedesktop.DBus.Properties"

SIGNAL = 4  # the message type, D-Bus specification, "Message Format"
STRING = ord("s")
ARRAY = ord("a")
CLOSE = (-1, None)  # pystemd's mark for the end of a container
WITHOUT_HEADERS = False  # for process_reply(), which takes no keyword

# What is kept of a unit's properties, org.freedesktop.systemd1(5).
WANTED = frozenset(
    {
        b"LoadState", b"ActiveState", b"SubState", b"InvocationID", b"NeedDaemonReload", b"Result",
        b"ActiveEnterTimestampMonotonic", b"StateChangeTimestampMonotonic", b"MainPID", b"NRestarts",
        b"ExecMainCode", b"ExecMainStatus", b"ExecStart", b"DropInPaths",
        b"CPUAffinity", b"NUMAPolicy", b"NUMAMask", b"AllowedCPUs", b"AllowedMemoryNodes",
    }
)  # fmt: skip
# A request for many units is answered for some of them after this time, so that who has something more
# urgent to ask need not wait until a slow systemd has answered for all.
LONGEST_READ_SEC = 0.2


class Worker:
    """Serves requests read from ``source`` over ``bus``; answers and events go to ``sink`` (descriptors)."""

    def __init__(self, bus: DBus, *, source: int, sink: int, patterns: list[str]) -> None:
        self._bus = bus
        self._source = source
        self._sink = sink
        self._ours = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))
        self._owner = b""
        self._jobs: set[int] = set()
        self._changed: dict[str, None] = {}
        self._unread = b""

    def serve(self) -> None:
        """Subscribe, then answer until standard input ends. Raises DBusBaseError when the bus is lost."""
        self._subscribe()
        write_line(self._sink, {"event": "ready"})
        poll = select.poll()
        poll.register(self._bus.get_fd(), select.POLLIN)
        poll.register(self._source, select.POLLIN)
        while True:
            # A call leaves signals that came before its answer in sd-bus's own queue, where poll() does not
            # see them: look there before sleeping, each time.
            self._drain()
            ready = dict(poll.poll())
            if self._source in ready and not self._answer_requests():
                return

    def _subscribe(self) -> None:
        for rule in (
            f"type='signal',sender='{SYSTEMD.decode()}',interface='org.freedesktop.DBus.Properties',"
            f"path_namespace='{UNIT_PREFIX.rstrip('/')}'",
            f"type='signal',sender='{SYSTEMD.decode()}',interface='{MANAGER.decode()}'",
            f"type='signal',sender='{BUS.decode()}',member='NameOwnerChanged',arg0='{SYSTEMD.decode()}'",
        ):
            self._bus.call_method(BUS, BUS_PATH, BUS, b"AddMatch", [(STRING, rule.encode())])
        self._greet()

    def _greet(self) -> None:
        """Ask the manager that owns the name now to send signals."""
        try:
            self._manager(b"Subscribe")
        except DBusBaseError as error:
            if error_name(error) != "org.freedesktop.systemd1.AlreadySubscribed":
                raise
        owner = self._bus.call_method(BUS, BUS_PATH, BUS, b"GetNameOwner", [(STRING, SYSTEMD)]).body
        self._owner = owner if isinstance(owner, bytes) else b""

    def _manager(self, method: bytes, *args: tuple[int, object]) -> object:
        return self._bus.call_method(SYSTEMD, MANAGER_PATH, MANAGER, method, args).body

    def _answer_requests(self) -> bool:
        """Answer what has arrived; False at the end of the input."""
        block = os.read(self._source, 1 << 16)
        *lines, self._unread = (self._unread + block).split(b"\n")
        for line in lines:
            request = json.loads(line)
            reply: dict[str, object] = {"id": request["id"]}
            try:
                reply["result"] = CALLS[request["call"]](self, *request["args"])
            except DBusBaseError as error:
                reply["error"] = {"name": error_name(error), "message": text(error.err_message)}
            write_line(self._sink, reply)
        return bool(block)

    def _drain(self) -> None:
        """Take everything out of sd-bus's queue and report the units of ours that it speaks of."""
        idle = 0
        # sd_bus_process(3) gives no message both when nothing is left and when it did something internal,
        # and pystemd does not tell the two apart: only twice in a row means empty.
        while idle < 2:
            message = self._bus.process()
            if message.is_signal(MANAGER, b"UnitFilesChanged"):
                self._changed[""] = None
            elif message.is_empty():
                idle += 1
                continue
            elif message.get_type() == SIGNAL:
                self._note(message)
            idle = 0
        for unit in self._changed:
            write_line(self._sink, {"event": "changed", "unit": unit})
        self._changed.clear()

    def _note(self, message: DbusMessage) -> None:
        # Anybody may send a signal to a connection it knows the name of: only these two are believed.
        sender, member = message.get_sender(), message.get_member()
        if sender == BUS and member == b"NameOwnerChanged":
            message.process_reply(WITHOUT_HEADERS)
            if isinstance(message.body, list) and message.body[2]:
                self._greet()
                self._changed[""] = None
        elif sender == self._owner and member == b"PropertiesChanged":
            self._mark(parse_unit_path(text(message.get_path())))
        elif sender == self._owner and member in (b"JobRemoved", b"UnitNew", b"UnitRemoved", b"Reloading"):
            message.process_reply(WITHOUT_HEADERS)
            self._note_manager(member, message.body)

    def _note_manager(self, member: bytes, body: object) -> None:
        if member == b"Reloading":
            if not body:  # True when a reload begins, False when it is over
                self._changed[""] = None
        elif member == b"JobRemoved" and isinstance(body, list):
            job, _, unit, result = body
            self._mark(text(unit))
            if job in self._jobs:
                self._jobs.remove(job)
                write_line(self._sink, {"event": "job", "job": job, "result": text(result)})
        elif isinstance(body, list):
            self._mark(text(body[0]))

    def _mark(self, unit: str) -> None:
        if self._ours.fullmatch(unit):
            self._changed[unit] = None

    def read_units(self, units: dict[str, str]) -> dict[str, object]:
        """The properties of the first of them, by unit; ``units`` are paths by name, "" where not known."""
        found: dict[str, object] = {}
        began = time.monotonic()
        for unit, path in units.items():
            found[unit] = self._read_unit(unit, path)
            if time.monotonic() - began > LONGEST_READ_SEC:
                break
        return found

    def _read_unit(self, unit: str, path: str) -> dict[str, object]:
        """The properties of a unit, or "UnitFileState" alone when it is not loaded.

        GetUnit and not LoadUnit: loading a unit only to have it collected again sends UnitNew and
        UnitRemoved, which would wake the agent, which would read again.
        """
        try:
            path = path or text(self._manager(b"GetUnit", (STRING, unit.encode())))
        except DBusNoSuchUnitError:
            return {"UnitFileState": self._read_unit_file_state(unit)}
        return self._read_properties(path)

    def _read_unit_file_state(self, unit: str) -> str:
        try:
            return text(self._manager(b"GetUnitFileState", (STRING, unit.encode())))
        except (DBusFileNotFoundError, DBusNoSuchUnitError):
            return "not-found"

    def _read_properties(self, path: str) -> dict[str, object]:
        """Of all interfaces ("") in one answer, as systemctl-show.c does: it is about one instant.

        One by one they cost PID 1 as much, and each waits for it anew. Measured per service: 0.4 ms of PID 1
        for all, 0.6 ms for fourteen single ones on Debian 12; 1.2 and 0.9 ms on Debian 13.
        """
        found = self._bus.call_method(SYSTEMD, path.encode(), PROPERTIES, b"GetAll", [(STRING, b"")]).body
        known = found if isinstance(found, dict) else {}
        return {name.decode(): plain(known[name]) for name in WANTED & known.keys()}

    def read_exec(self, unit: str) -> dict[str, object]:
        return self._read_properties(text(self._manager(b"LoadUnit", (STRING, unit.encode()))))

    def list_units(self, patterns: list[str]) -> object:
        """Name, load state, active state, sub state and path of each loaded unit that matches."""
        rows = self._manager(
            b"ListUnitsByPatterns",
            (ARRAY, b"s"), CLOSE,
            (ARRAY, b"s"), *((STRING, pattern.encode()) for pattern in patterns), CLOSE,
        )  # fmt: skip
        return [plain((row[0], *row[2:5], row[6])) for row in rows] if isinstance(rows, list) else []

    def queue_job(self, method: str, unit: str) -> int:
        # JobRemoved cannot be missed: signals that arrive during a call are looked at after its answer.
        path = self._manager(method.encode(), (STRING, unit.encode()), (STRING, b"replace"))
        job = int(text(path).rpartition("/")[2])
        self._jobs.add(job)
        return job

    def has_job(self, job: int) -> bool:
        """Whether the job goes on; if so its end will be reported, though another worker queued it."""
        try:
            self._manager(b"GetJob", (ord("u"), job))
        except DBusBaseError as error:
            if error_name(error) != "org.freedesktop.systemd1.NoSuchJob":
                raise
            # Its result may already be in sd-bus's queue, and must be known before this answer is.
            self._drain()
            return False
        self._jobs.add(job)
        return True

    def reset_failed(self, unit: str) -> None:
        self._manager(b"ResetFailedUnit", (STRING, unit.encode()))

    def kill(self, unit: str) -> None:
        self._manager(b"KillUnit", (STRING, unit.encode()), (STRING, b"main"), (ord("i"), 9))  # SIGKILL

    def reload(self) -> None:
        self._manager(b"Reload")


CALLS: dict[str, Callable[..., object]] = {
    call.__name__: call
    for call in (Worker.read_units, Worker.read_exec, Worker.list_units, Worker.queue_job, Worker.has_job,
                 Worker.reset_failed, Worker.kill, Worker.reload)
}  # fmt: skip


def text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def plain(value: object) -> object:
    """What pystemd returns, with text for bytes, so that JSON can carry it."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return text(value) if isinstance(value, bytes) else value


def error_name(error: DBusBaseError) -> str:
    """The D-Bus name of an error, or the name of pystemd's class where pystemd dropped it."""
    return text(error.err_name) or type(error).__name__


def parse_unit_path(path: str) -> str:
    """Undo sd_bus_path_encode(3): every byte but letters and digits stands as _xx."""
    name = path.removeprefix(UNIT_PREFIX)
    return re.sub("_([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), name)


def write_line(sink: int, value: dict[str, object]) -> None:
    rest = json.dumps(value).encode() + b"\n"
    while rest:
        rest = rest[os.write(sink, rest) :]


def main(patterns: list[str]) -> int:
    # systemd signals the whole cgroup when it stops the agent, and a terminal its foreground group. The
    # agent may still have something to ask: the end of the input says when it has not.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        with DBus() as bus, contextlib.suppress(BrokenPipeError):
            Worker(bus, source=0, sink=1, patterns=patterns).serve()
    except DBusBaseError as error:
        write_line(1, {"event": "lost", "why": text(error.err_message) or os.strerror(abs(error.errno))})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
