# SPDX-License-Identifier: Apache-2.0
"""Remembers who was seen running: what the agent did not stop and runs no longer was stopped by hand."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.errors import HostError
from ovms_scaler.host.store import Store

TARGET_UNIT = "ovms.target"
PROXY_UNIT = "ovms-scaler-proxy.service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Units by what is remembered of them.

    ``started`` were running; instances count only if they were since ovms.target was started last, and with
    the devices that are there now. ``lost_device`` run with one that was taken away meanwhile. ``problems``
    are sentences for people.
    """

    started: frozenset[str]
    lost_device: frozenset[str]
    problems: tuple[str, ...]


def look(
    store: Store,
    units: Iterable[UnitFacts],
    *,
    activation: str,
    devices: Mapping[str, str],
    stopping: Collection[str],
) -> Seen:
    """Note who runs now, and tell what is known of all.

    ``activation`` is the invocation id of ovms.target, ``devices`` what identifies those of each unit on
    GPUs. What is seen of units that the agent is ``stopping`` may be older than that.
    """
    notes: dict[str, str] = {}
    problems: list[str] = []
    try:
        notes = store.read_started()
    except HostError as error:
        problems.append(error.message)
    lost: set[str] = set()
    for unit in units:
        if unit.active_state not in ("active", "activating") or unit.unit in stopping:
            continue
        note = _note(unit, activation, devices)
        known = notes.get(unit.unit, "")
        if unit.unit in devices and _is_of(known, unit) and known != note:
            # The devices noted first are those it opened.
            lost.add(unit.unit)
            continue
        notes[unit.unit] = note
        try:
            store.write_started(unit.unit, note)
        except HostError as error:
            problems.append(error.message)
    started = {unit for unit, note in notes.items() if _counts(unit, note, activation, devices)}
    return Seen(started=frozenset(started), lost_device=frozenset(lost), problems=tuple(problems))


def _note(unit: UnitFacts, activation: str, devices: Mapping[str, str]) -> str:
    if unit.unit not in devices:
        return activation
    return f"{activation} {unit.invocation_id} {devices[unit.unit]}"


def _is_of(note: str, unit: UnitFacts) -> bool:
    """Whether a note was made of the process that runs now."""
    words = note.split(" ")
    return len(words) == 3 and words[1] == unit.invocation_id


def _counts(unit: str, note: str, activation: str, devices: Mapping[str, str]) -> bool:
    if unit in (TARGET_UNIT, PROXY_UNIT):
        return True
    if unit not in devices:
        return note.split(" ")[0] == activation
    words = note.split(" ")
    return words[0] == activation and words[2:] == [devices[unit]]
