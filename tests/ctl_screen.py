# SPDX-License-Identifier: Apache-2.0
"""A verb on a terminal of 80 columns and 24 lines, as a test sees and types at it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ctl_lab import CTL

# console_codes(4)
PAINT = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Screen:
    """A verb that runs on a terminal."""

    process: subprocess.Popen[bytes]
    terminal: int
    text: str = ""
    read: int = 0

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self.terminal, text.encode())

    def read_until(self, wanted: str) -> str:
        """What was printed since the last call, up to and with ``wanted``, as soon as that is there."""
        while (found := self.text.find(wanted, self.read)) < 0:
            self.text += os.read(self.terminal, 65536).decode()
        start, self.read = self.read, found + len(wanted)
        return self.text[start : self.read]

    @property
    def lines(self) -> list[str]:
        """Everything printed so far, without colours and movements."""
        return PAINT.sub("", self.text).splitlines()

    def read_rest(self) -> str:
        """What is printed until the last process on the terminal has ended."""
        try:
            while data := os.read(self.terminal, 65536):
                self.text += data.decode()
        except OSError:  # EIO
            pass
        return self.text


@contextmanager
def screen(
    *arguments: object,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] = CTL,
    pass_fds: Sequence[int] = (),
) -> Iterator[Screen]:
    """Run a verb, or another ``command`` with these arguments, on a terminal of its own."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {
        name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")
    }
    with subprocess.Popen(
        # With a session of its own, whose keys Ctrl-C and Ctrl-Z are signals.
        ["setsid", "--ctty", *command, *map(str, arguments)],
        stdin=end,
        stdout=end,
        stderr=end,
        pass_fds=pass_fds,
        env=environment | {"TERM": "xterm-256color"} | dict(env or {}),
    ) as process:
        os.close(end)
        try:
            yield Screen(process=process, terminal=terminal)
        finally:
            process.kill()
            os.close(terminal)
