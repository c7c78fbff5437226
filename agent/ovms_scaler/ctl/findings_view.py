# SPDX-License-Identifier: Apache-2.0
"""What the checks found, for people: the worst first, each with the next command to type."""

from collections import Counter
from collections.abc import Collection, Iterator

from rich.console import RenderableType

from ovms_scaler.core.checks.finding import AS_ROOT, Finding, Result, nothing_known
from ovms_scaler.ctl.tables import cell, indented

_TITLES = {
    Result.bad: ("Bad", "bold red"),
    Result.warning: ("Warning", "bold yellow"),
    Result.unknown: ("Not known", "bold cyan"),
    Result.good: ("Good", "bold green"),
}


def render_findings(
    findings: Collection[Finding], names: Collection[str], *, everything: bool
) -> Iterator[tuple[RenderableType, bool]]:
    """Part by part, each with whether it may be wrapped: a command may not, as it is to be copied.

    ``names`` are the checks that were made; what is good is shown with ``everything`` only.
    """
    for result, (title, style) in _TITLES.items():
        shown = [one for one in findings if one.result is result]
        if shown and (everything or result is not Result.good):
            yield cell(title, style), True
            yield from _render(shown)
            yield "", True
    yield cell(_summarise(findings, names)), True


def _render(findings: Collection[Finding]) -> Iterator[tuple[RenderableType, bool]]:
    """Checks that say the same, as of a configuration that cannot be read, together."""
    same: dict[tuple[str, str], list[Finding]] = {}
    for one in findings:
        key = (one.reason, one.remedy) if one.result is Result.unknown else (one.reason, repr(one))
        same.setdefault(key, []).append(one)
    for group in same.values():
        first = group[0]
        checks = ", ".join(dict.fromkeys(one.check for one in group))
        subject = "" if len(group) > 1 or first.subject == first.check else f": {first.subject}"
        if first.result is Result.good:
            yield indented(f"{checks}{subject}: {first.reason}"), True
            continue
        yield indented(f"{checks}{subject}"), True
        yield indented(first.reason, by=4), True
        if first.remedy:
            yield cell(f"    next: {first.remedy}", "bold"), False
        if first.note:
            yield indented(first.note, by=4), True


def _summarise(findings: Collection[Finding], names: Collection[str]) -> str:
    counts = Counter(one.result for one in findings)
    checks = f"{len(names)} check{'' if len(names) == 1 else 's'}"
    unknown = [one for one in findings if one.result is Result.unknown]
    missed = len({one.check for one in unknown})
    as_root = f"; {AS_ROOT}" if any(one.remedy == AS_ROOT for one in unknown) else ""
    left_out = f", of which {missed} could not be made{as_root}" if missed else ""
    if nothing_known(findings):
        return f"nothing could be looked at: {checks}{left_out}"
    if not counts[Result.bad] and not counts[Result.warning]:
        said = "not everything could be looked at, nothing else found" if missed else "nothing found"
        return f"{said}: {checks}{left_out}"
    warnings = counts[Result.warning]
    found = [f"{counts[Result.bad]} bad"] * bool(counts[Result.bad])
    found += [f"{warnings} warning{'' if warnings == 1 else 's'}"] * bool(warnings)
    return f"{', '.join(found)}: {checks}{left_out}"
