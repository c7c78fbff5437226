# SPDX-License-Identifier: Apache-2.0
"""The verdict on the whole, and what needs somebody: each with what to type."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ovms_scaler.core import news
from ovms_scaler.core.next_steps import EMPTY_POOL, PAUSED, Piece, split_hint
from ovms_scaler.page.marks import Mark
from ovms_scaler.page.reading import Document, read_number, read_table, read_text, read_texts
from ovms_scaler.page.rows import InstanceRow, age_of

# More instances than these are in the table only.
SHOWN = 6
ACTIONS = 4
ON_THE_WAY = frozenset({"starting", "loading", "warming"})
_LEVELS = ("bad", "attention", "good")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One thing to look at: who, what, the lines that explain it, and what to type."""

    key: str
    level: str
    subject: str
    what: str
    lines: tuple[str, ...] = ()
    steps: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """``level`` is "good", "attention", "bad" or "unknown"; ``hidden`` is how many troubles are not told."""

    level: str
    headline: str
    call: str
    troubles: tuple[Trouble, ...]
    hidden: int
    doing: str


def read_outlook(status: Document, rows: Sequence[InstanceRow], *, now: float | None) -> Outlook:
    """The worst first. Whether it is good news is judged as ``ovms-scalerctl status`` judges it."""
    of_instances = sorted(
        (trouble for row in rows if (trouble := _of_instance(row)) is not None),
        key=lambda one: _LEVELS.index(one.level),
    )
    general = tuple(_of_the_whole(status, now))
    troubles = (*general, *of_instances)
    if not status or (not rows and _listen(status) and not general):
        return Outlook(
            level="unknown", headline="The agent has not looked at the instances yet",
            call="It does so within seconds of its start.", troubles=(), hidden=0, doing="",
        )  # fmt: skip
    is_good = news.is_good(status)
    wanted = [row.mark for row in rows if row.is_wanted]
    return Outlook(
        level=_level(troubles, wanted, is_good=is_good),
        headline=_headline(status, wanted),
        call=_call(troubles, wanted, is_good=is_good),
        troubles=(*general, *of_instances[:SHOWN]),
        hidden=len(of_instances[SHOWN:]),
        doing=_doing(read_texts(status, "actions")),
    )


def _doing(actions: Sequence[str]) -> str:
    more = len(actions) - ACTIONS
    return "; ".join([*actions[:ACTIONS], *([f"and {more} more"] if more > 0 else [])])


def _level(troubles: Sequence[Trouble], wanted: Sequence[Mark], *, is_good: bool) -> str:
    """Nobody in rotation is bad, unless somebody is about to be."""
    if _is_dark(wanted) and not any(mark.state in ON_THE_WAY for mark in wanted):
        return "bad"
    worst = min((_LEVELS.index(one.level) for one in troubles), default=_LEVELS.index("good"))
    return _LEVELS[worst] if is_good or _LEVELS[worst] == "bad" else "attention"


def _is_dark(wanted: Sequence[Mark]) -> bool:
    return bool(wanted) and not any(mark.is_in for mark in wanted)


def _headline(status: Document, wanted: Sequence[Mark]) -> str:
    if not wanted:
        return "No instance is there" if _listen(status) else "No instance is wanted"
    count = "None" if _is_dark(wanted) else f"{sum(mark.is_in for mark in wanted)}"
    return f"{count} of {len(wanted)} instance{'' if len(wanted) == 1 else 's'} in rotation"


def _call(troubles: Sequence[Trouble], wanted: Sequence[Mark], *, is_good: bool) -> str:
    """What it means, and how much there is to do."""
    if not troubles:
        return "Nothing needs you." if is_good else "The agent is at work."
    bad = sum(trouble.level == "bad" for trouble in troubles)
    other = len(troubles) - bad
    counts = [(bad, "to mend"), (other, "to know of")]
    things = [f"{count} {'thing' if count == 1 else 'things'} {what}" for count, what in counts if count]
    outage = "Clients get 503 until one is. " if _is_dark(wanted) else ""
    return f"{outage}{', '.join(things)}."


def _of_instance(row: InstanceRow) -> Trouble | None:
    if not row.reason and not row.steps:
        return None
    state = f"{row.mark.state} for {row.age}" if row.age else row.mark.state
    return Trouble(
        key=f"instance {row.mark.name}",
        level="bad" if row.mark.level == "bad" else "attention",
        subject=row.mark.name,
        what=f"{state}: {row.reason}" if row.reason else state,
        steps=row.steps,
    )


def _of_the_whole(status: Document, now: float | None) -> Iterator[Trouble]:
    """What is wrong with the agent, its configuration and the proxy, the worst first."""
    yield from _of_proxy(read_table(status, "proxy"))
    error = read_text(read_table(status, "config"), "error")
    if error:
        yield Trouble(
            key="config",
            level="bad",
            subject=read_text(read_table(status, "config"), "file") or "the configuration",
            what="is not accepted; the configuration before it stays in force",
            lines=tuple(error.splitlines()),
            steps=split_hint(read_text(read_table(status, "config"), "hint")),
        )
    for problem in read_texts(status, "problems"):
        yield Trouble(
            key=f"problem {problem}", level="bad", subject="the agent", what=f"is hindered: {problem}",
            steps=split_hint(read_text(status, "problems_hint")),
        )  # fmt: skip
    for name in news.parse_empty_pools(status):
        yield Trouble(
            key=f"pool {name}", level="bad", subject=f"pool {name}",
            what="has no instance; the warnings below tell why", steps=split_hint(EMPTY_POOL),
        )  # fmt: skip
    if (since := read_number(read_table(status, "orders"), "paused_since")) is not None:
        age = age_of(since, now)
        yield Trouble(
            key="paused",
            level="attention",
            subject="the agent",
            what=f"is paused{f' for {age}' if age else ''}: it observes and does nothing",
            lines=tuple(f"it would now: {text}" for text in read_texts(status, "deferred")),
            steps=split_hint(PAUSED),
        )


def _of_proxy(proxy: Document) -> Iterator[Trouble]:
    error, state = read_text(proxy, "error"), read_text(proxy, "state")
    steps = split_hint(read_text(proxy, "hint"))
    if proxy.get("listen") and (not proxy.get("generation") or state != "active"):
        what = f"is {state or 'unknown to systemd'}" + (
            "" if proxy.get("generation") else ", and does not answer"
        )
        yield Trouble(
            key="proxy", level="bad", subject="the proxy", what=f"{what}: clients may get nothing",
            lines=tuple(error.splitlines()), steps=steps,
        )  # fmt: skip
    elif error:
        yield Trouble(
            key="proxy", level="bad", subject="the proxy", what="does not take its new files",
            lines=tuple(error.splitlines()), steps=steps,
        )  # fmt: skip
    if waits := read_text(proxy, "waits"):
        yield Trouble(
            key="proxy waits", level="attention", subject="the proxy", what=waits,
            steps=steps,
        )  # fmt: skip


def _listen(status: Document) -> bool:
    return bool(read_table(status, "proxy").get("listen"))
