# SPDX-License-Identifier: Apache-2.0
"""Remembers who was seen running: what the agent did not stop and runs no longer was stopped by hand."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.core.started import Note, has_ended
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
        known = Note.parse(notes[unit.unit]) if unit.unit in notes else None
        note = _note(unit, known, activation, devices.get(unit.unit))
        if note is None or unit.unit in stopping:
            continue
        if known is not None and known.invocation == note.invocation and known.devices != note.devices:
            # The devices noted first are those it opened.
            lost.add(unit.unit)
            continue
        notes[unit.unit] = note.text
        try:
            store.write_started(unit.unit, note.text)
        except HostError as error:
            problems.append(error.message)
    started = {
        unit
        for unit, text in notes.items()
        if unit in (TARGET_UNIT, PROXY_UNIT) or Note.parse(text).counts(activation, devices.get(unit))
    }
    return Seen(started=frozenset(started), lost_device=frozenset(lost), problems=tuple(problems))


def _note(unit: UnitFacts, known: Note | None, activation: str, devices: str | None) -> Note | None:
    """What is to be noted of a unit now; None for nothing new."""
    if unit.active_state in ("active", "activating"):
        if devices is None:
            return Note(activation=activation)
        return Note(activation=activation, invocation=unit.invocation_id, devices=devices)
    if has_ended(unit) and known is not None and known.counts(activation, devices):
        return Note(activation=activation)
    return None
