# SPDX-License-Identifier: Apache-2.0
"""Follows an order until it has been carried out: a bar on a terminal, a line for each change elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ovms_scaler.ctl import output, tables
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.verdict import Row, parse_rows, table

INTERVAL_SEC = 0.2
_BROKEN = ("failed", "quarantined")

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """How far an order is: who has done it, a sentence on each of the others, and why it cannot go on."""

    done: tuple[str, ...]
    others: Mapping[str, str]
    trouble: str = ""


def wait_until_done(verb: str, answer: Document, read: Callable[[], Document], *, as_json: bool) -> Exit:
    """Follow the order that ``answer`` is about. Raises UnreachableError when the agent goes away."""
    names = tuple(map(str, answer["instances"]))
    with _reporter(verb, len(names), as_json=as_json) as report:
        while True:
            document = read()
            if document.get("observed_sec", 0.0) >= answer["ordered_sec"]:
                progress = judge(verb, names, document)
                report(progress)
                if progress.trouble or not progress.others:
                    break
            time.sleep(INTERVAL_SEC)  # the control socket answers questions, and sends no events
    if as_json:
        output.show_json(
            {"done": list(progress.done), "others": dict(progress.others), "trouble": progress.trouble}
        )
    elif progress.trouble:
        output.complain(f"{verb}: {progress.trouble}")
    return Exit.bad_news if progress.trouble else Exit.good


def judge(verb: str, names: tuple[str, ...], document: Document) -> Progressed:
    """What a status document says of an order."""
    rows = {row.id: row for row in parse_rows(document)}
    pending = table(document, "orders").get("restarts") or ()
    done = tuple(name for name in names if name in rows and _is_done(verb, rows[name], pending))
    others = {name: _describe(rows.get(name)) for name in names if name not in done}
    return Progressed(done=done, others=others, trouble=_find_trouble(verb, others, rows, document))


def _is_done(verb: str, row: Row, pending: object) -> bool:
    if verb == "drain":
        return row.state == "drained"
    if verb != "undrain" and row.state == "drained":
        return True
    return row.in_rotation and not (isinstance(pending, list | tuple) and row.id in pending)


def _find_trouble(verb: str, others: Mapping[str, str], rows: Mapping[str, Row], document: Document) -> str:
    if not others:
        return ""
    if table(document, "orders").get("paused_since") is not None:
        return "the agent is paused, and carries the order out after\n  hint: ovms-scalerctl resume"
    about = [rows[name] for name in others if name in rows]
    ended = [row for row in about if row.state in (*_BROKEN, "stopped")]
    if verb == "restart":  # it is not done to the next after one of them failed
        pools = {row.pool for row in about}
        ended = [row for row in rows.values() if row.pool in pools and row.state in _BROKEN]
    if verb == "drain" or not ended:
        return ""
    first = ended[0]
    hint = f"\n  hint: {first.hint}" if first.hint else ""
    return f"{first.id} is {first.state}: {first.reason}{hint}"


def _describe(row: Row | None) -> str:
    if row is None:
        return "not known to the agent"
    return f"{row.state} ({row.reason})" if row.reason else row.state


@contextmanager
def _reporter(verb: str, total: int, *, as_json: bool) -> Iterator[Callable[[Progressed], None]]:
    if as_json:
        yield lambda _: None
    elif output.is_terminal():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=tables.console(), auto_refresh=False) as bar:
            task = bar.add_task(verb, total=total)

            def draw(progress: Progressed) -> None:
                what = "; ".join(f"{name} {text}" for name, text in progress.others.items())
                description = output.printable(f"{verb}: {what}" if what else verb)
                bar.update(task, completed=len(progress.done), description=description, refresh=True)

            yield draw
    else:
        shown: dict[str, str] = {}

        def tell(progress: Progressed) -> None:
            now = dict(progress.others) | dict.fromkeys(progress.done, "done")
            for name, text in now.items():
                if shown.get(name) != text:
                    output.show(f"{name}: {text}")
            shown.update(now)

        yield tell
