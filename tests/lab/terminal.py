# SPDX-License-Identifier: Apache-2.0
"""A shell of root's at a terminal of a host, to type at as a person does."""

import os
import re
import selectors
import signal
import subprocess
import time
from typing import Self

from lab.commands import LabError
from lab.host import Host

INTERRUPT = "\x03"
# Nothing else prints these. The first one tells the exit status of the command before.
PROMPT = re.compile(r"<<status (\d+)>> ")
MORE = re.compile(r"<<more>> ")
PROMPTS = {"PS1": r"<<status $?>> ", "PS2": "<<more>> "}
# How programs paint and move about (console_codes(4)), and the beginning of such a sequence.
PAINT = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
CUT_PAINT = re.compile(r"\x1b(?:\[[0-9;?]*)?\Z")
# Commands of the lab are told to ask nothing and to paint nothing; a person's are not.
SHELL = ("env", "--unset=DEBIAN_FRONTEND", "--unset=SYSTEMD_COLORS", "TERM=linux")
# script(1), which every Debian has, makes the terminal inside the host: here are pipes.
SCRIPT = "cd && exec script --quiet --flush --command 'bash --norc --noprofile --noediting -i' /dev/null"


class Terminal:
    """At the shell's prompt in a ``with`` block; what still runs there ends with it."""

    def __init__(self, host: Host) -> None:
        self._argv = host.command(*SHELL, "sh", "-c", SCRIPT, env=PROMPTS)
        self._cut = ""
        self._unread = ""
        self.shown = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self.read_until(PROMPT, timeout_sec=30)
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def type(self, text: str) -> None:
        """Press these keys; the end of a line is "\\n"."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def read_until(self, *patterns: "re.Pattern[str]", timeout_sec: float) -> "re.Match[str]":
        """Wait until something new, colours left out, matches one of the patterns; the first that does.

        What comes after the match is read again by the next call. Raises LabError with the screen otherwise.
        """
        deadline = time.monotonic() + timeout_sec
        while True:
            found = [match for pattern in patterns if (match := pattern.search(self._unread))]
            if found:
                first = min(found, key=lambda match: match.start())
                self._unread = self._unread[first.end() :]
                return first
            self._read(deadline, [pattern.pattern for pattern in patterns])

    def _read(self, deadline: float, wanted: list[str]) -> None:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            ready = selector.select(max(0.0, deadline - time.monotonic()))
        data = os.read(self._process.stdout.fileno(), 65536) if ready else b""
        if not data:
            raise LabError(f"waited in vain for one of {wanted} on the terminal:\n{self.shown[-8000:]}")
        # A character may be cut in two; no pattern has one that can be.
        text = self._cut + data.decode(errors="replace")
        found = CUT_PAINT.search(text)
        self._cut = found[0] if found else ""
        text = PAINT.sub("", text.removesuffix(self._cut))
        self.shown += text
        self._unread += text
