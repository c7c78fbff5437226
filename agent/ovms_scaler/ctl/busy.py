# SPDX-License-Identifier: Apache-2.0
"""Shows somebody at a terminal that a verb is at work, when it takes longer than a moment."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Nothing flickers, and nothing is imported for it, when a verb is as quick as it mostly is.
DELAY_SEC = 0.7


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show ``what`` on standard error while the block runs; in a pipe or a log nothing at all."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(what, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show(what: str, done: threading.Event) -> None:
    if done.wait(DELAY_SEC):
        return
    from ovms_scaler.ctl import tables

    # Of ASCII, which every terminal shows.
    with tables.console(err=True).status(tables.cell(f"{what} ..."), spinner="line"):
        done.wait()
