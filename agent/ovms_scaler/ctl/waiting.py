# SPDX-License-Identifier: Apache-2.0
"""Follows an order until it has been carried out: a bar on a terminal, a line for each change elsewhere."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from ovms_scaler.core.news import Row, parse_rows, table
from ovms_scaler.ctl import output, tables
from ovms_scaler.ctl.exits import Exit

INTERVAL_SEC = 0.2
_BAR = 20  # columns
_BROKEN = ("failed", "quarantined")
# What a configuration is about beside instances, whose names have a hyphen.
_PROXY, _AGENT = _REST = ("proxy", "agent")

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """How far an order is: who has done it, a sentence on each of the others, and why it cannot go on."""

    done: tuple[str, ...]
    others: Mapping[str, str]
    trouble: str = ""


def wait_until_done(verb: str, answer: Document, read: Callable[[], Document], *, as_json: bool) -> Exit:
    """Follow the order that ``answer`` is about, and say how it ended. Raises as ``follow``."""
    progress = follow(verb, answer, read, as_json=as_json)
    if as_json:
        output.show_json(progress_document(progress))
    elif progress.trouble:
        output.complain(f"{verb}: {progress.trouble}")
    return Exit.bad_news if progress.trouble else Exit.good


def follow(verb: str, answer: Document, read: Callable[[], Document], *, as_json: bool) -> Progressed:
    """Show how far the order is until its end. Raises UnreachableError when the agent goes away."""
    instances = answer["instances"]
    names = tuple(map(str, instances)) if isinstance(instances, list) else ()
    with _reporter(verb, as_json=as_json) as report:
        while True:
            document = read()
            if document.get("observed_sec", 0.0) >= answer["ordered_sec"]:
                progress = judge(verb, names, document)
                report(progress)
                if progress.trouble or not progress.others:
                    return progress
            time.sleep(INTERVAL_SEC)  # the control socket answers questions, and sends no events


def progress_document(progress: Progressed) -> dict[str, Any]:
    """What --wait prints with --json."""
    return {"done": list(progress.done), "others": dict(progress.others), "trouble": progress.trouble}


def judge(verb: str, names: tuple[str, ...], document: Document) -> Progressed:
    """What a status document says of an order about ``names``; a reload is about everything."""
    rows = {row.id: row for row in parse_rows(document)}
    orders = table(document, "orders")
    pending = frozenset(orders.get("restarts") or ())
    if verb == "reload":
        names = tuple(rows)
    done = tuple(name for name in names if name in rows and _is_done(verb, rows[name], pending))
    others = {name: _describe(rows.get(name)) for name in names if name not in done}
    blockers = {name: _find_blocker(verb, rows.get(name), rows.values()) for name in others}
    if verb == "reload":
        rest, error = _find_rest(document, none_left=not others)
        others |= rest
        blockers |= dict.fromkeys(rest, error)
    trouble = ""
    if others and orders.get("paused_since") is not None:
        trouble = "the agent is paused, and carries the order out after\n  hint: ovms-scalerctl resume"
    elif all(blockers.values()):  # what is halted in one place goes on in another
        trouble = "\n".join(dict.fromkeys(blockers.values()))
    return Progressed(done=done, others=others, trouble=trouble)


def _is_done(verb: str, row: Row, pending: Collection[str]) -> bool:
    if verb == "drain":
        return row.state == "drained"
    if verb == "reload" and (not row.wanted or row.outdated):
        return False
    if verb == "reload" and row.state == "stopped":  # by the administrator, who starts it as configured
        return True
    if verb != "undrain" and row.state == "drained":
        return True
    return row.in_rotation and row.id not in pending


def _find_blocker(verb: str, row: Row | None, rows: Iterable[Row]) -> str:
    """Why it does not go on with one that is not done, "" while it does."""
    if row is None or verb == "drain":
        return ""
    if row.state in (*_BROKEN, "waiting" if verb == "reload" else "stopped"):
        return _explain(row)
    if verb not in ("restart", "reload") or row.state != "ready" or not row.reason:
        return ""
    if row.hint:
        return _explain(row)  # its turn does not come by itself
    # It waits for its turn, which does not come after one that failed.
    broken = [
        other
        for other in rows
        if other.upstream == row.upstream and other.state in _BROKEN and not other.outdated
    ]
    return _explain(broken[0]) if broken else ""


def _find_rest(document: Document, *, none_left: bool) -> tuple[dict[str, str], str]:
    """What is yet to be done beside the instances, and why it cannot be, "" if it can."""
    proxy = table(document, "proxy")
    if error := str(proxy.get("error") or ""):
        return {_PROXY: error}, f"proxy: {error}"
    if waits := str(proxy.get("waits") or ""):
        return {_PROXY: waits}, ""
    actions = document.get("actions") or document.get("deferred")
    if none_left and isinstance(actions, list) and actions:
        return {_AGENT: f"is to {actions[0]}"}, ""
    return {}, ""


def _explain(row: Row) -> str:
    hint = f"\n  hint: {row.hint}" if row.hint else ""
    return f"{row.id} is {row.state}: {row.reason}{hint}"


def _describe(row: Row | None) -> str:
    if row is None:
        return "not known to the agent"
    return f"{row.state} ({row.reason})" if row.reason else row.state


@contextmanager
def _reporter(verb: str, *, as_json: bool) -> Iterator[Callable[[Progressed], None]]:
    if as_json:
        yield lambda _: None
    elif output.is_terminal():
        rest = TextColumn("{task.fields[rest]}", markup=False, table_column=Column(ratio=1, no_wrap=True))
        columns = (TextColumn("{task.description}"), BarColumn(_BAR), MofNCompleteColumn(), rest)
        with Progress(*columns, console=tables.console(), auto_refresh=False, expand=True) as bar:
            task = bar.add_task(verb, total=None, rest="")

            def draw(progress: Progressed) -> None:
                # What does not fit is cut off, the bar never.
                text = "; ".join(f"{name} {state}" for name, state in progress.others.items())
                done, total = len(progress.done), len(progress.done) + len(progress.others)
                bar.update(task, completed=done, total=total, rest=output.printable(text), refresh=True)

            yield draw
    else:
        shown: dict[str, str] = {}

        def tell(progress: Progressed) -> None:
            now = dict(progress.others) | dict.fromkeys(progress.done, "done")
            now |= {name: "done" if name in _REST else "gone" for name in shown.keys() - now.keys()}
            for name, text in now.items():
                if shown.get(name) != text:
                    output.show(f"{name}: {text}")
            shown.update(now)

        yield tell
