# SPDX-License-Identifier: Apache-2.0
"""Logs what became of instances, pass by pass: changes, not states."""

import time
from collections.abc import Mapping

import structlog

from ovms_scaler.core.instance import unit_name
from ovms_scaler.core.lifecycle import State
from ovms_scaler.core.next_steps import usual
from ovms_scaler.core.plan import Plan
from ovms_scaler.core.status import Since

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

BAD = frozenset({State.failed, State.quarantined, State.ejected, State.suspect, State.waiting})


class Changes:
    """Compares each plan with the one before it; ``since`` tells when each instance entered its state."""

    def __init__(self) -> None:
        self._since: dict[str, Since] = {}
        self._routed: frozenset[str] | None = None

    @property
    def since(self) -> Mapping[str, Since]:
        return self._since

    def note(self, new: Plan) -> None:
        """Log what is other than before, and remember since when it is so."""
        for name in self._since.keys() - new.verdicts.keys():
            del self._since[name]
        for name, verdict in new.verdicts.items():
            before = self._since.get(name)
            if before is not None and before.state is verdict.state:
                continue
            self._since[name] = Since(state=verdict.state, since=round(time.time(), 3))
            is_bad = verdict.state in BAD
            write = log.warning if is_bad else log.info
            details = {
                "was": before.state.value if before is not None else "",
                "reason": verdict.reason,
                "hint": usual(verdict.state, name) if is_bad and not verdict.hint else verdict.hint,
            }
            said = {key: text for key, text in details.items() if text}
            unit = unit_name(name)
            write("instance changed", instance=name, unit=unit, state=verdict.state.value, **said)
        self._note_rotation(new)

    def _note_rotation(self, new: Plan) -> None:
        """The unit of an instance takes it out by itself, too: what the agent did to the proxy is not all.

        Who is in rotation when the agent starts was so before.
        """
        before, self._routed = self._routed, new.in_rotation
        if before is None:
            return
        for name in sorted(before - new.in_rotation):
            log.info("instance out of rotation", instance=name, unit=unit_name(name), **_state(new, name))
        for name in sorted(new.in_rotation - before):
            log.info("instance in rotation", instance=name, unit=unit_name(name))


def _state(new: Plan, name: str) -> dict[str, str]:
    """In which state it is out, {} for one that is gone altogether."""
    verdict = new.verdicts.get(name)
    return {} if verdict is None else {"state": verdict.state.value}
