# SPDX-License-Identifier: Apache-2.0
"""Who goes on with what it was started from, as what it would be changed to is not proven on another one."""

from collections.abc import Mapping

from ovms_scaler.core.facts import Facts, InstanceFacts
from ovms_scaler.core.lifecycle import State, Verdict, is_outdated
from ovms_scaler.core.naming import renamed
from ovms_scaler.core.target import Target

# States that end a rolling change: what broke one instance is not done to the next.
BROKEN = frozenset({State.failed, State.quarantined})
# Of one that runs with its new files: whether these are any good is not known yet.
UNPROVEN = frozenset(
    {State.starting, State.loading, State.warming, State.stopping, State.suspect, State.ejected}
)


def find_held_back(target: Target, facts: Facts, verdicts: Mapping[str, Verdict]) -> frozenset[str]:
    """Instances that run, also those which systemd is about to start again, and must not be changed now.

    One that crashes while a change is halted, or under way on as many others as may be out at a time, would
    else be changed because it is out of rotation anyway, and nobody might serve at all.
    """
    return frozenset(
        name
        for name in target.wanted
        if _is_changeable(target, facts, name) and _is_halted(target, facts, verdicts, name)
    )


def has_failed_anew(target: Target, facts: Facts, verdicts: Mapping[str, Verdict], name: str) -> bool:
    """Whether it does not run, or not as it should, although its files are those of the target."""
    wanted, own = target.wanted[name], facts.instances.get(name, InstanceFacts())
    is_broken = verdicts[name].state in BROKEN
    return is_broken and wanted.instance.problem is None and not is_outdated(wanted, own)


def _is_changeable(target: Target, facts: Facts, name: str) -> bool:
    wanted, own = target.wanted[name], facts.instances.get(name, InstanceFacts())
    runs = own.unit is not None and own.unit.is_running
    # What one that is about to be started again serves is known when it runs.
    is_renamed = own.exec is not None and renamed(wanted, own) is not None
    return runs and is_outdated(wanted, own) and not is_renamed


def _is_halted(target: Target, facts: Facts, verdicts: Mapping[str, Verdict], name: str) -> bool:
    others = [
        other
        for other in target.upstream_members(target.wanted[name].upstream)
        if other != name and other not in facts.orders.drained
    ]
    unproven = [other for other in others if _is_unproven(target, facts, verdicts, other)]
    return len(unproven) >= target.wanted[name].max_unavailable or any(
        has_failed_anew(target, facts, verdicts, other) for other in others
    )


def _is_unproven(target: Target, facts: Facts, verdicts: Mapping[str, Verdict], name: str) -> bool:
    own = facts.instances.get(name, InstanceFacts())
    runs = own.unit is not None and own.unit.is_running
    return runs and verdicts[name].state in UNPROVEN and not is_outdated(target.wanted[name], own)
