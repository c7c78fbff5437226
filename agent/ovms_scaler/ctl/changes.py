# SPDX-License-Identifier: Apache-2.0
"""What a plan would do to a host: its files, and the actions that follow as far as files can tell."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ovms_scaler.core.instance import unit_name
from ovms_scaler.core.status import instance_document, waiting_document
from ovms_scaler.offline import Preview

PROXY_UNIT = "ovms-scaler-proxy.service"
TARGET_UNIT = "ovms.target"

Action = dict[str, str]


class Change(StrEnum):
    """What happens to a file."""

    write = "write"  # it is not there yet
    change = "change"
    remove = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """One file that would not stay as it is; ``instance`` is None for a file of the proxy."""

    change: Change
    path: str
    before: str
    after: str
    instance: str | None


def list_changes(preview: Preview) -> tuple[FileChange, ...]:
    """Every file that differs, by path; files that this user may not read are left out."""
    changes = []
    for path in sorted(preview.wanted.keys() | preview.present.keys()):
        before, after = preview.present.get(path), preview.wanted.get(path)
        if path in preview.unreadable or before == after:
            continue
        kind = Change.write if before is None else Change.remove if after is None else Change.change
        owner = preview.owners.get(path)
        changes.append(
            FileChange(change=kind, path=path, before=before or "", after=after or "", instance=owner)
        )
    return tuple(changes)


def list_actions(preview: Preview, changes: Sequence[FileChange]) -> list[Action]:
    """What the agent would do, in its order; empty when every file is as it should be.

    Files cannot tell what runs: an instance whose files stand is taken to run with them.
    """
    actions: list[Action] = []
    proxy = [change for change in changes if change.instance is None]
    for change in proxy:
        verb = "start" if change.change is Change.write else "reload"
        actions += [_file_action(change), {"action": verb, "unit": PROXY_UNIT}]
    if preview.target.wanted and changes and not any(path in preview.present for path in preview.owners):
        actions.append({"action": "start", "unit": TARGET_UNIT})
    owners = {change.instance for change in changes if change.instance is not None}
    # In the order of the plan, so that "numa10" comes after "numa9"; then those that are no longer wanted.
    for name in dict.fromkeys([*(one for one in preview.target.wanted if one in owners), *sorted(owners)]):
        actions += _instance_actions(preview, name, [one for one in changes if one.instance == name])
    return actions


def plan_document(preview: Preview, actions: Sequence[Action]) -> dict[str, Any]:
    """The JSON of ``plan --json``, which programs rely on."""
    instances = preview.target.instances
    return {
        "instances": [instance_document(one) for one in instances if not one.is_waiting],
        "waiting": [waiting_document(one) for one in instances if one.is_waiting],
        "actions": list(actions),
        "warnings": list(preview.warnings),
    }


def describe_actions(actions: Sequence[Action]) -> str:
    """How many there are of each kind, in a few words."""
    words = []
    for verb, what in (("write", "file"), ("change", "file"), ("remove", "file")):
        words += _count(actions, verb, what)
    for verb in ("stop", "start", "reload"):
        words += _count(actions, verb, "unit")
    return ", ".join(words)


def render_diff(changes: Sequence[FileChange]) -> Iterator[str]:
    """A unified diff, line by line, that patch(1) reads."""
    for change in changes:
        before = "/dev/null" if change.change is Change.write else change.path
        after = "/dev/null" if change.change is Change.remove else change.path
        yield from difflib.unified_diff(
            change.before.splitlines(), change.after.splitlines(), before, after, lineterm=""
        )


def _instance_actions(preview: Preview, name: str, changes: list[FileChange]) -> Iterator[Action]:
    wanted = preview.target.wanted.get(name)
    runs = any(preview.owners.get(path) == name for path in preview.present)
    may_start = wanted is not None and wanted.instance.problem is None
    if runs and (wanted is None or may_start or wanted.instance.is_waiting):
        yield {"action": "stop", "unit": unit_name(name)}
    yield from map(_file_action, changes)
    if may_start:
        yield {"action": "start", "unit": unit_name(name)}


def _file_action(change: FileChange) -> Action:
    action = {"action": change.change.value, "path": change.path}
    return action | ({"instance": change.instance} if change.instance is not None else {})


def _count(actions: Sequence[Action], verb: str, what: str) -> list[str]:
    number = sum(action["action"] == verb for action in actions)
    return [f"{verb} {number} {what}{'' if number == 1 else 's'}"] if number else []
