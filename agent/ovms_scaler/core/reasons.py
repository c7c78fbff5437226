# SPDX-License-Identifier: Apache-2.0
"""What people are told of instances that leave the rotation, may not leave it, or are left alone."""

from collections.abc import Iterable, Mapping

from ovms_scaler.core.actions import Action, InstallProxy
from ovms_scaler.core.draining import DRAINED
from ovms_scaler.core.facts import Facts
from ovms_scaler.core.lifecycle import State, Verdict
from ovms_scaler.core.rotation import Rotation, due_restart
from ovms_scaler.core.target import Target

_RELOAD = "ovms-scalerctl reload --allow-outage"
# Of one that stays although it is not believed to serve it is said why.
_WELL = frozenset({State.ready, State.suspect})


def explain(
    rotation: Rotation, target: Target, facts: Facts, judged: Mapping[str, Verdict]
) -> dict[str, Verdict]:
    """Verdicts on those that leave, stay although they should, or may not join."""
    leaving = {
        name: Verdict(state=State.draining, reason=_why_it_leaves(name, target, facts))
        for name in rotation.leaving
    }
    held = {
        name: Verdict(
            state=State.ready,
            reason=reason,
            hint=_outage_hint(name, target, facts) if "outage" in reason else "",
        )
        for name, reason in rotation.held.items()
        if name not in judged or judged[name].state in _WELL
    }
    kept_out = {
        name: Verdict(state=State.ready, reason=reason, hint=_RELOAD)
        for name, reason in rotation.kept_out.items()
    }
    return {**leaving, **held, **kept_out}


def tell_outlived(verdicts: Mapping[str, Verdict], target: Target, facts: Facts) -> dict[str, Verdict]:
    """Verdicts on those that serve with what has been replaced since they were started."""
    told: dict[str, Verdict] = {}
    for name, verdict in verdicts.items():
        own, wanted = facts.instances.get(name), target.wanted.get(name)
        if own is None or wanted is None or not own.outlived:
            continue
        if verdict.state is State.ready and not verdict.reason:
            reason = f"it runs an older {' and '.join(own.outlived)} than there is now"
            hint = f"ovms-scalerctl restart --rolling {wanted.instance.pool}"
            told[name] = Verdict(state=verdict.state, reason=reason, hint=hint)
    return told


def _why_it_leaves(name: str, target: Target, facts: Facts) -> str:
    if name in facts.orders.drained:
        return DRAINED
    is_restart = due_restart(target.wanted[name], facts.instances[name], facts.orders) is not None
    return "it is restarted" if is_restart else "its configuration changed"


def _outage_hint(name: str, target: Target, facts: Facts) -> str:
    if name in facts.orders.drained:
        return f"ovms-scalerctl drain {name} --allow-outage"
    wanted = target.wanted.get(name)
    if wanted is not None and due_restart(wanted, facts.instances[name], facts.orders) is not None:
        return f"ovms-scalerctl restart {name} --allow-outage"
    return _RELOAD


def defer(actions: Iterable[Action], judged: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Verdicts on those that actions are about which are not taken: they stay in their state."""
    told: dict[str, Verdict] = {}
    for action in actions:
        if isinstance(action, InstallProxy):
            words = dict.fromkeys(action.added, "joins") | dict.fromkeys(action.removed, "leaves")
        else:
            name = getattr(action, "instance", "")
            words = {name: action.describe()} if name else {}
        for name in words.keys() & judged.keys():
            reason = f"the agent is paused, so this is not done: {words[name]}"
            told[name] = Verdict(state=judged[name].state, reason=reason, hint="ovms-scalerctl resume")
    return told
