# SPDX-License-Identifier: Apache-2.0
"""Shows on a terminal how far a measurement is; in a pipe or a log nothing at all."""

import contextlib
import sys
import time
from collections.abc import Iterator
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ovms_scaler.bench.outcome import Outcome
from ovms_scaler.ctl import output, tables


class BenchProgress:
    """Implements ovms_scaler.bench.session.Reporter, on standard error; a context manager."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._began_at = 0.0
        self._tokens = 0
        self._failed = 0

    def __enter__(self) -> "BenchProgress":
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(compact=True),
            )
            self._bar = Progress(*columns, console=tables.console(err=True), transient=True)
            with self._lost_with_terminal():
                self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with self._lost_with_terminal():
                self._bar.stop()

    def begin(self, what: str, total: int) -> None:
        self._began_at, self._tokens, self._failed = time.monotonic(), 0, 0
        self._show(what, total)

    def note(self, outcome: Outcome) -> None:
        if self._bar is None or self._task is None:
            return
        self._tokens += outcome.generated_tokens or 0 if outcome.is_good else 0
        self._failed += not outcome.is_good
        rate = self._tokens / max(time.monotonic() - self._began_at, 0.1)
        failed = f", {self._failed} failed" if self._failed else ""
        with self._lost_with_terminal():
            self._bar.update(self._task, advance=1, figures=f"{rate:,.0f} tok/s{failed}")

    def tell(self, what: str) -> None:
        self._show(what, None)

    def _show(self, what: str, total: int | None) -> None:
        if self._bar is None:
            return
        # What a bar stands beside must leave room for it.
        words = output.printable(what).splitlines() or [""]
        with self._lost_with_terminal():
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(words[0][:48], total=total, figures="")

    @contextlib.contextmanager
    def _lost_with_terminal(self) -> Iterator[None]:
        """A measurement, and what it has to put back, goes on when nobody can look any more."""
        try:
            yield
        except OSError:
            self._bar = None
