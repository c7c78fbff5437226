# SPDX-License-Identifier: Apache-2.0
"""A screen that is drawn again and again until somebody presses q, and is left as it was found."""

import contextlib
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable
from enum import StrEnum
from types import FrameType

from rich.console import Console, RenderableType
from rich.live import Live


class Key(StrEnum):
    """What somebody wants."""

    quit = "quit"
    forward = "forward"
    back = "back"
    redraw = "redraw"  # the screen has another size, or was away


# As terminals send them, with the sequences of Page Down and Up and of the arrows (console_codes(4)).
_KEYS = {
    b"q": Key.quit,
    b"Q": Key.quit,
    b" ": Key.forward,
    b"\x1b[6~": Key.forward,
    b"\x1b[B": Key.forward,
    b"b": Key.back,
    b"\x1b[5~": Key.back,
    b"\x1b[A": Key.back,
}
# One key of several that arrive together: a whole sequence of ECMA-48, or one byte. An Escape whose rest may
# be on its way is none yet.
_SENT = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO[ -~]|\x1b(?!(?:\[[0-?]*[ -/]*|O)?\Z)|[^\x1b]", re.DOTALL)


class Screen:
    """The terminal while a ``with`` block draws on it; what was there before comes back at its end.

    Ctrl-C raises KeyboardInterrupt, as ever, and SIGTERM ends the program. Ctrl-Z gives the terminal back
    until the program goes on.
    """

    def __init__(self, make_console: Callable[[], Console]) -> None:
        self._typed = b""
        self._make_console = make_console
        self._stack = contextlib.ExitStack()
        self._live: Live | None = None
        self._is_stopped = False

    def __enter__(self) -> "Screen":
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stack.callback(os.close, self._reader)
        self._stack.callback(os.close, self._writer)
        handlers = {
            signal.SIGWINCH: lambda _number, _frame: None,
            signal.SIGTSTP: self._note_stop,
            signal.SIGTERM: _end,
        }
        for number, handler in handlers.items():
            self._stack.callback(signal.signal, number, signal.signal(number, handler))
        # So that a signal ends a wait for keys.
        self._stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self._writer))
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        self._stack.close()

    @property
    def console(self) -> Console:
        assert self._live is not None
        return self._live.console

    def draw(self, shown: RenderableType) -> None:
        if self._live is not None:
            self._live.update(shown, refresh=True)

    def wait(self, seconds: float) -> Key | None:
        """What somebody wants, as soon as it is known; None when that is nothing, for so long."""
        until = time.monotonic() + seconds
        if (key := self._take_key()) is not None:
            return key  # keys may arrive together
        while (left := until - time.monotonic()) > 0:
            keyboard = [sys.stdin] if sys.stdin.isatty() else []
            ready, _, _ = select.select([self._reader, *keyboard], [], [], left)
            if self._reader in ready:
                os.read(self._reader, 512)
                if self._is_stopped:
                    self._stop()
                return Key.redraw
            if ready:
                typed = os.read(sys.stdin.fileno(), 64)
                if not typed:
                    return Key.quit  # the terminal has gone
                self._typed += typed
                if (key := self._take_key()) is not None:
                    return key
        return None

    def _take_key(self) -> Key | None:
        """The first of what was typed that means something; what is before it is nothing to us."""
        while self._typed:
            found = _SENT.match(self._typed)
            if found is None:
                return None  # the beginning of a sequence, whose rest is on its way
            self._typed = self._typed[found.end() :]
            if (key := _KEYS.get(found[0])) is not None:
                return key
        return None

    def _take(self) -> None:
        if sys.stdin.isatty():
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin, termios.TCSANOW)
        self._live = Live(console=self._make_console(), screen=True, auto_refresh=False)
        self._live.start()

    def _give_back(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if sys.stdin.isatty():
            termios.tcsetattr(sys.stdin, termios.TCSANOW, self._before)

    def _note_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._is_stopped = True

    def _stop(self) -> None:
        """As if nobody had asked to be told of SIGTSTP; returns with SIGCONT."""
        self._is_stopped = False
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
