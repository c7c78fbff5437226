# SPDX-License-Identifier: Apache-2.0
"""What the agent logs, found in its source: every phrase, and the levels that it is logged at."""

import ast
import re
from collections.abc import Iterator
from functools import cache

from manual import ROOT

DAEMON = ROOT / "agent" / "ovms_scaler" / "daemon"
# By the sink itself, as structlog is not asked while it writes.
_OF_THE_SINK = {"the journal did not keep up, entries were dropped": {"warning"}}
_LOGS = re.compile(r"(?:log|logger)\.(info|warning|error|exception|critical)|write")


@cache
def read_phrases() -> dict[str, set[str]]:
    """Levels by phrase; "any" where it is chosen when it is logged."""
    phrases = {phrase: set(levels) for phrase, levels in _OF_THE_SINK.items()}
    for path in sorted(DAEMON.rglob("*.py")):
        for phrase, level in _find_phrases(ast.parse(path.read_text())):
            phrases.setdefault(phrase, set()).add(level)
    return phrases


def _find_phrases(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The first argument of each call that logs, and what the name that stands there was set to."""
    named = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        if called := _LOGS.fullmatch(ast.unparse(node.func)):
            first = node.args[0]
            for text in _list_texts(named[first.id] if isinstance(first, ast.Name) else first):
                yield text, called[1] or "any"


def _list_texts(node: ast.AST) -> set[str]:
    constants = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant))
    return {value for value in constants if isinstance(value, str)}
