# SPDX-License-Identifier: Apache-2.0
"""What one check found, and the document of all of them."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Result(StrEnum):
    """How a check ended, the worst first."""

    bad = "bad"  # something does not work, or will not
    warning = "warning"  # it works, and worse than it could or not for long
    unknown = "unknown"  # it could not be checked
    good = "good"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The answer of one check about one thing.

    ``check`` is a name of the catalogue. ``subject`` is what it is about: a file, a pool, a port, a unit.
    ``remedy`` is one line that a shell takes as it stands, or a sentence that begins with no program's name;
    "" only where there is nothing to do. ``note`` is what else is to be known of it, for people alone.
    """

    check: str
    result: Result
    subject: str
    reason: str
    remedy: str = ""
    note: str = ""


# The remedy where another user would see more.
AS_ROOT = "run this as root"


def good(check: str, subject: str, reason: str) -> Finding:
    return Finding(check=check, result=Result.good, subject=subject, reason=reason)


def warning(check: str, subject: str, reason: str, remedy: str, note: str = "") -> Finding:
    return Finding(
        check=check, result=Result.warning, subject=subject, reason=reason, remedy=remedy, note=note
    )


def bad(check: str, subject: str, reason: str, remedy: str, note: str = "") -> Finding:
    return Finding(check=check, result=Result.bad, subject=subject, reason=reason, remedy=remedy, note=note)


def unknown(check: str, subject: str, reason: str, remedy: str = AS_ROOT, note: str = "") -> Finding:
    return Finding(
        check=check, result=Result.unknown, subject=subject, reason=reason, remedy=remedy, note=note
    )


def or_good(found: Iterable[Finding], check: str, subject: str, reason: str) -> tuple[Finding, ...]:
    """What was found, or one good finding when that is nothing."""
    return tuple(found) or (good(check, subject, reason),)


def nothing_known(findings: Collection[Finding]) -> bool:
    """Whether not one thing could be looked at."""
    return bool(findings) and all(one.result is Result.unknown for one in findings)


def sort_findings(findings: Iterable[Finding], names: Collection[str]) -> tuple[Finding, ...]:
    """The worst first, then in the order of ``names``; equal ones once."""
    results, order = list(Result), list(names)
    return tuple(
        sorted(dict.fromkeys(findings), key=lambda one: (results.index(one.result), order.index(one.check)))
    )


def findings_document(findings: Collection[Finding], names: Collection[str]) -> dict[str, object]:
    """The JSON of ``ovms-scalerctl doctor --json``; ``names`` are the checks that were made."""
    counts = Counter(one.result for one in findings)
    return {
        "findings": [asdict(one) for one in findings],
        "summary": {"checks": len(names), **{result.value: counts[result] for result in Result}},
    }
