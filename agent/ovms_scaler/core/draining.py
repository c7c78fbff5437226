# SPDX-License-Identifier: Apache-2.0
"""How an instance that gets no more requests comes to rest, and what is left of it then."""

from ovms_scaler.core.actions import Action, Remove, Stop
from ovms_scaler.core.facts import InstanceFacts
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.lifecycle import State, Verdict
from ovms_scaler.core.repair import is_hung

DRAINED = "drained by the administrator"
_UNWANTED = "no longer in the configuration"

Steps = tuple[list[Action], Verdict]


def drain(name: str, own: InstanceFacts, reason: str) -> Steps:
    """One out of rotation that is to stop: when the last request has been answered, if that can be.

    What hangs answers none any more, and its clients wait until it is gone.
    """
    if own.connections != 0 and is_hung(own):
        verdict = Verdict(state=State.stopping, reason=f"{reason}; it hangs")
        return [Stop(instance=name, at_once=True)], verdict
    if own.connections is None:
        return [], Verdict(state=State.draining, reason=f"{reason}; cannot read its connections")
    if own.connections > 0:
        return [], Verdict(state=State.draining, reason=f"{reason}; {own.connections} connections left")
    return [Stop(instance=name)], Verdict(state=State.stopping, reason=reason)


def plan_unwanted(name: str, own: InstanceFacts, *, routed: bool) -> Steps:
    """Drain, stop and remove what is no longer in the configuration."""
    if own.unit is None or not own.unit.is_running:
        steps: list[Action] = [Remove(instance=name)] if own.files else []
        return steps, Verdict(state=State.absent, reason=_UNWANTED)
    return _end(name, own, _UNWANTED, routed=routed)


def plan_drained(instance: Instance, own: InstanceFacts, verdict: Verdict, *, routed: bool) -> Steps:
    """Drain and stop, and leave everything as it is then; ``verdict`` stands while it is in rotation."""
    if own.unit is None:
        return [], verdict
    if not own.unit.is_running:
        return [], drained_verdict(instance)
    if routed:
        return [], verdict
    return _end(instance.id, own, DRAINED, routed=False)


def drained_verdict(instance: Instance) -> Verdict:
    return Verdict(state=State.drained, reason=DRAINED, hint=f"ovms-scalerctl undrain {instance.id}")


def _end(name: str, own: InstanceFacts, reason: str, *, routed: bool) -> Steps:
    if own.job or (own.unit is not None and own.unit.active_state == "deactivating" and not routed):
        return [], Verdict(state=State.stopping, reason=reason)
    if routed:
        return [], Verdict(state=State.draining, reason=reason)
    return drain(name, own, reason)
