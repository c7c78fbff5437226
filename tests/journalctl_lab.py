# SPDX-License-Identifier: Apache-2.0
"""A journalctl that plays back what a test recorded: a program, put in front of the real one on PATH.

It knows matches and the options below, as the real one does; another option is an error.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

Fields = dict[str, object]

# 2026-11-21 19:00:00 UTC, and a second later for each entry.
BEGAN_USEC = 1_795_287_600_000_000

PROGRAM = """\
#!{python} -IS
import json, os, signal, sys
here = {here!r}
with open(here + "/calls", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
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
known = {{"--quiet", "--no-pager", "--output", "--all", "--boot", "--reverse", "--lines", "--since",
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
        self.holds()
        self.then_comes()

    def holds(self, *entries: Fields) -> None:
        """Add entries, each with a cursor and a second later than the one before it."""
        self._add("entries", entries)

    def then_comes(self, *entries: Fields, and_waits: bool = False) -> None:
        """What is found by --follow after that; it ends then, unless it waits as the real one does."""
        self._add("later", entries)
        if and_waits:
            (self.directory / "stays").touch()

    def _add(self, name: str, entries: Iterable[Fields]) -> None:
        path = self.directory / name
        number = len((self.directory / "entries").read_text().splitlines()) if path.exists() else 0
        with path.open("a") as stream:
            for count, one in enumerate(entries, number):
                at = BEGAN_USEC + count * 1_000_000
                known = {"__CURSOR": f"s={count}", "__REALTIME_TIMESTAMP": str(at)}
                stream.write(json.dumps(known | one) + "\n")

    def fails(self, words: str) -> None:
        (self.directory / "fail").write_text(words)

    def hangs(self) -> None:
        os.mkfifo(self.directory / "hang")

    async def until_it_hangs(self) -> None:
        """Return when it was called, and does not answer."""
        await asyncio.to_thread((self.directory / "hang").read_bytes)

    def calls(self) -> list[list[str]]:
        """The arguments of each call so far."""
        path = self.directory / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


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
