# SPDX-License-Identifier: Apache-2.0
"""Journals for tests: one that is played back by a journalctl of our own, and one for the real journalctl.

Ours knows matches and some options, as the real one does (tests/test_history.py asks both); another is an
error. Either is a program in front of the one on PATH.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ovms_scaler.host.journal import render_field

Fields = dict[str, object]

# 2026-11-21 19:00:00 UTC, and a second later for each entry.
BEGAN_USEC = 1_795_287_600_000_000

PROGRAM = """\
#!{python} -IS
import json, os, signal, sys, time
here = {here!r}
with open(here + "/calls", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
with open(here + "/pid", "w") as pid:
    pid.write(str(os.getpid()))
if os.path.exists(here + "/hang"):
    open(here + "/hang", "w")  # as soon as somebody reads
    signal.pause()
if os.path.exists(here + "/fail"):
    sys.exit(open(here + "/fail").read())
options, groups = {{}}, [{{}}]
for word in sys.argv[1:]:
    if word == "+":
        groups.append({{}})
    elif word.startswith("--"):
        name, _, value = word.partition("=")
        options[name] = value
    else:
        name, _, value = word.partition("=")
        groups[-1].setdefault(name, set()).add(value)
known = {{"--quiet", "--no-pager", "--output", "--all", "--reverse", "--lines", "--since",
    "--priority", "--after-cursor", "--follow", "--no-tail", "--field"}}
if options.keys() - known:
    sys.exit(f"unrecognized option {{sorted(options.keys() - known)}}")
if "--since" in options and "--after-cursor" in options:
    sys.exit("Please specify only one of --since=, --cursor=, and --after-cursor=.")
def wanted(entry):
    value = lambda name: str(entry.get(name))
    if not any(all(value(name) in values for name, values in group.items()) for group in groups):
        return False
    if "--priority" in options:
        levels = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"]
        if int(entry.get("PRIORITY", 6)) > levels.index(options["--priority"]):
            return False
    return int(entry["__REALTIME_TIMESTAMP"]) >= float(options.get("--since", "@0")[1:]) * 1e6
def read(stream):
    for line in stream:
        entry = json.loads(line)
        if wanted(entry):
            yield entry
stream = open(here + "/entries")
entries = list(read(stream))
if "--field" in options:
    field = options["--field"]
    for value in sorted({{str(one[field]) for one in entries if field in one}}):
        print(value)
    sys.exit()
if "--after-cursor" in options:
    at = [one["__CURSOR"] for one in entries].index(options["--after-cursor"])
    entries = entries[at + 1:]
if "--lines" in options:
    entries = entries[max(0, len(entries) - int(options["--lines"])):]
if "--reverse" in options:
    entries.reverse()
for entry in entries:
    print(json.dumps(entry), flush="--follow" in options)
if "--follow" in options:
    while not os.path.exists(here + "/later"):
        time.sleep(0.01)  # inotify is not in the standard library; the real journalctl has it
    for entry in read(open(here + "/later")):
        print(json.dumps(entry), flush=True)
    if os.path.exists(here + "/stays"):
        signal.pause()
"""


@dataclass(frozen=True, kw_only=True)
class Journalctl:
    """The program in its directory, which belongs in front of PATH."""

    directory: Path

    def install(self) -> None:
        program = self.directory / "journalctl"
        program.write_text(PROGRAM.format(python=sys.executable, here=str(self.directory)))
        program.chmod(0o755)
        (self.directory / "entries").touch()

    def holds(self, *entries: Fields) -> None:
        """Add entries, each with a cursor and a second later than the one before it."""
        with (self.directory / "entries").open("a") as stream:
            stream.write(self._render(entries))

    def then_comes(self, *entries: Fields, and_waits: bool = False) -> None:
        """What --follow waits for; it ends then, unless it waits for more as the real one does."""
        if and_waits:
            (self.directory / "stays").touch()
        written = self.directory / "written"
        written.write_text(self._render(entries))
        written.rename(self.directory / "later")

    def _render(self, entries: Iterable[Fields]) -> str:
        number = len((self.directory / "entries").read_text().splitlines())
        lines: list[str] = []
        for count, one in enumerate(entries, number):
            at = BEGAN_USEC + count * 1_000_000
            known = {"__CURSOR": f"s={count}", "__REALTIME_TIMESTAMP": str(at)}
            lines.append(json.dumps(known | one) + "\n")
        return "".join(lines)

    def fails(self, words: str) -> None:
        (self.directory / "fail").write_text(words)

    def hangs(self) -> None:
        os.mkfifo(self.directory / "hang")

    async def until_it_hangs(self) -> None:
        """Return when it was called, and does not answer."""
        await asyncio.to_thread((self.directory / "hang").read_bytes)

    def is_running(self) -> bool:
        """Whether the one that was called last has not ended."""
        return Path("/proc", (self.directory / "pid").read_text()).exists()

    def calls(self) -> list[list[str]]:
        """The arguments of each call so far."""
        path = self.directory / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass(frozen=True, kw_only=True)
class RealJournal:
    """The real journalctl, on a journal file in a directory, which systemd-journal-remote(8) writes."""

    directory: Path

    def install(self) -> None:
        program = self.directory / "journalctl"
        # Taken apart from the directory of the journal, as journalctl follows what changes there.
        program.write_text(f'#!/bin/sh\nexec /usr/bin/journalctl --directory={self._journal} "$@"\n')
        program.chmod(0o755)
        self._journal.mkdir()

    def holds(self, *entries: Fields) -> None:
        """Add entries, each a second later than the one before it."""
        counted = self.directory / "count"
        number = int(counted.read_text()) if counted.exists() else 0
        counted.write_text(str(number + len(entries)))
        exported = b"".join(self._export(count, one) for count, one in enumerate(entries, number))
        subprocess.run(
            ["/lib/systemd/systemd-journal-remote", f"--output={self._journal}/system.journal", "-"],
            input=exported,
            check=True,
            capture_output=True,
        )

    then_comes = holds

    def _export(self, count: int, fields: Fields) -> bytes:
        """An entry in systemd's "Journal Export Format"."""
        known: Fields = {
            "__REALTIME_TIMESTAMP": str(BEGAN_USEC + count * 1_000_000),
            "__MONOTONIC_TIMESTAMP": str(1 + count),
            "_BOOT_ID": "0123456789abcdef0123456789abcdef",
        }
        return b"".join(render_field(name, str(value)) for name, value in (known | fields).items()) + b"\n"

    @property
    def _journal(self) -> Path:
        return self.directory / "journal"


def entry(phrase: str, *, priority: int = 6, **keys: object) -> Fields:
    """What the journal has of a log entry of the agent; names in capitals are fields as they are."""
    fields: Fields = {
        "SYSLOG_IDENTIFIER": "ovms-scaler",
        "_SYSTEMD_UNIT": "ovms-scaler.service",
        "_UID": "0",
        "_PID": "4711",
        "PRIORITY": str(priority),
        "MESSAGE": phrase,
        "OVMS_SCALER_EVENT": phrase,
    }
    for key, value in keys.items():
        if key.isupper():
            fields[key] = value
        else:
            fields[f"OVMS_SCALER_{key.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    return fields


def engine(text: str, instance: str = "chat-numa0", *, priority: int = 6) -> Fields:
    """A line of an engine."""
    return {
        "SYSLOG_IDENTIFIER": f"ovms@{instance}",
        "_SYSTEMD_UNIT": f"ovms@{instance}.service",
        "_UID": "990",
        "PRIORITY": str(priority),
        "MESSAGE": text,
    }


def manager(text: str, instance: str = "chat-numa0") -> Fields:
    """What systemd says of a unit."""
    return {
        "SYSLOG_IDENTIFIER": "systemd",
        "_SYSTEMD_UNIT": "init.scope",
        "_UID": "0",
        "_PID": "1",
        "UNIT": f"ovms@{instance}.service",
        "PRIORITY": "6",
        "MESSAGE": text,
    }


def proxy(text: str) -> Fields:
    """A line of nginx, which does not know the journal's levels."""
    return {
        "SYSLOG_IDENTIFIER": "nginx",
        "_SYSTEMD_UNIT": "ovms-scaler-proxy.service",
        "_UID": "991",
        "PRIORITY": "6",
        "MESSAGE": text,
    }
