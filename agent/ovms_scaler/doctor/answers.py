# SPDX-License-Identifier: Apache-2.0
"""Reads what was found as the user of the engines, which may be anything: that user is not trusted."""

from dataclasses import fields

from ovms_scaler.core.checks.access import Closed
from ovms_scaler.core.checks.finding import Finding, Result
from ovms_scaler.errors import InputError

_TEXTS = frozenset(field.name for field in fields(Finding)) - {"result"}
_VERBS = ("pass", "list", "read", "run")


def parse_findings(document: object) -> tuple[Finding, ...]:
    """Findings from JSON. Raises InputError."""
    if not isinstance(document, list):
        raise InputError("findings must be a list")
    return tuple(map(_parse_finding, document))


def _parse_finding(document: object) -> Finding:
    if not isinstance(document, dict) or document.keys() != {*_TEXTS, "result"}:
        raise InputError("a finding must have the keys of one")
    if not all(isinstance(text, str) for text in document.values()) or document["result"] not in [*Result]:
        raise InputError("a finding must be made of texts, and of a result")
    return Finding(**{name: document[name] for name in _TEXTS}, result=Result(document["result"]))


def parse_closed(document: object) -> Closed | None:
    """What is closed to the user, from JSON; None for nothing. Raises InputError."""
    match document:
        case None:
            return None
        case {"path": str(path), "verb": str(verb), "mode": mode, "is_directory": bool(is_directory)} if (
            verb in _VERBS and (mode is None or type(mode) is int)
        ):
            return Closed(path=path, verb=verb, mode=mode, is_directory=is_directory)
    raise InputError("what is closed must have a path, a verb and a mode")
