# SPDX-License-Identifier: Apache-2.0
"""What to do now: from the target and what was observed to actions in a safe order.

Invariants that every plan keeps, whatever it starts from and wherever it is interrupted: an instance's files
are written only while it does not run; it is stopped only when it gets no requests; it is routed only when
it is ready; and an instance starts only on cores that no other one runs on. One that is drained is neither
routed nor started. While the agent is paused, a plan has no action.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ovms_scaler.core.actions import Action, Kill, Start, StartTarget, Stop, Write
from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.draining import drain, drained_verdict, plan_drained, plan_unwanted
from ovms_scaler.core.facts import Facts, InstanceFacts
from ovms_scaler.core.halting import find_held_back
from ovms_scaler.core.lifecycle import State, Verdict, is_outdated, judge
from ovms_scaler.core.proxy_plan import RETRY_SEC, plan_proxy
from ovms_scaler.core.reasons import defer, explain, tell_outlived
from ovms_scaler.core.recovery import Step, find_hang, plan_recovery, plan_waiting
from ovms_scaler.core.repair import choose_repairs, plan_repair, put_down
from ovms_scaler.core.rotation import core_user, due_restart, rotate, routed_now
from ovms_scaler.core.spec import GpuRules
from ovms_scaler.core.target import Target, Wanted

# How often the connections of an instance that drains are counted: no event tells of the last one.
DRAIN_SEC = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``actions`` in order; ``verdicts`` on every instance, wanted or not; ``in_rotation`` as before.

    ``wake_in_sec`` is when to look again although nothing happens, None for no need. ``proxy_error`` is why
    the proxy does not run with what it should, ``proxy_waits`` why it is not reloaded yet. ``deferred`` is
    what is not done as the agent is paused.
    """

    actions: tuple[Action, ...]
    verdicts: Mapping[str, Verdict]
    in_rotation: frozenset[str]
    wake_in_sec: float | None = None
    proxy_error: str = ""
    proxy_waits: str = ""
    deferred: tuple[Action, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """What is decided before any single instance is looked at; names of those that it is true of."""

    target: Target
    facts: Facts
    judged: Mapping[str, Verdict]
    out: frozenset[str]
    routed: frozenset[str]
    stays: frozenset[str]
    leaves: frozenset[str]
    turns: frozenset[str]
    held_back: frozenset[str]


def plan(target: Target, facts: Facts, *, allow_outage: bool = False) -> Plan:
    """The next steps; each is possible now, and none depends on the success of an earlier one."""
    routed = routed_now(facts)
    verdicts = {
        name: judge(wanted, facts.instances.get(name, InstanceFacts()), failures=target.health.failures)
        for name, wanted in target.wanted.items()
    }
    out = frozenset(name for name, wanted in target.wanted.items() if _is_out(wanted, facts))
    able = routed.keys() - out
    verdicts |= put_down(target, facts, verdicts, able)
    judged = dict(verdicts)
    turns = choose_repairs(target, _complete(target, facts), verdicts, able)
    rotation = rotate(
        target, _complete(target, facts), verdicts, out=out, turns=turns, allow_outage=allow_outage
    )
    proxy = plan_proxy(target, facts, rotation, routed)
    now = _Pass(
        target=target,
        facts=facts,
        judged=judged,
        out=out,
        routed=frozenset(routed),
        stays=frozenset(one.instance for members in rotation.members.values() for one in members),
        leaves=frozenset(name for action in proxy.actions for name in action.removed),
        turns=turns,
        held_back=find_held_back(target, facts, judged),
    )
    actions: list[Action] = [*proxy.actions]
    wakes = [proxy.wake_in_sec]
    verdicts |= explain(rotation, target, facts, judged)
    if _stopped_by_administrator(facts):
        verdicts |= {name: _all_stopped(verdict) for name, verdict in verdicts.items()}
    elif facts.target is not None:
        if facts.target.active_state != "active":
            actions.append(StartTarget())
        for name in target.wanted:
            step = _plan_one(now, name, verdicts[name])
            actions += step.actions
            verdicts[name] = step.verdict
            wakes.append(step.wake_in_sec)
    if facts.target is not None:
        for name in sorted(facts.instances.keys() - target.wanted.keys()):
            if name in rotation.held:
                continue
            steps, verdict = plan_unwanted(name, facts.instances[name], routed=name in routed)
            actions += steps
            verdicts[name] = verdict
    verdicts |= tell_outlived(verdicts, target, facts)
    if facts.orders.is_paused:
        verdicts |= defer(actions, judged)
    return Plan(
        actions=() if facts.orders.is_paused else tuple(actions),
        verdicts=verdicts,
        in_rotation=frozenset(routed),
        wake_in_sec=_wake(wakes, verdicts),
        proxy_error=proxy.error,
        proxy_waits=proxy.waits,
        deferred=tuple(actions) if facts.orders.is_paused else (),
    )


def is_reached(target: Target, facts: Facts) -> bool:
    """Whether all that runs runs as it should: what is yet to come takes nobody out of rotation."""
    if facts.target is None:
        return False
    return not any(
        own.unit is None or own.unit.is_running
        for name, own in facts.instances.items()
        if name not in target.wanted or is_outdated(target.wanted[name], own)
    )


def _wake(wakes: Iterable[float | None], verdicts: Mapping[str, Verdict]) -> float | None:
    draining = any(verdict.state is State.draining for verdict in verdicts.values())
    return min((sec for sec in (*wakes, DRAIN_SEC if draining else None) if sec is not None), default=None)


def _is_out(wanted: Wanted, facts: Facts) -> bool:
    """Whether its GPU is away or hangs: then it cannot answer, even if it is the last one."""
    own = facts.instances.get(wanted.instance.id, InstanceFacts())
    hangs = find_hang(wanted.instance, facts) is not None
    return wanted.instance.is_waiting or own.has_lost_device or hangs


def _plan_one(now: _Pass, name: str, verdict: Verdict) -> Step:
    wanted, facts = now.target.wanted[name], now.facts
    if name in now.out:
        return _plan_out(wanted, facts, verdict, now.target.gpu, routed=name in now.routed)
    repair = plan_repair(
        wanted,
        facts.instances.get(name, InstanceFacts()),
        now.judged[name],
        now.target.health,
        now_sec=facts.now_sec,
        routed=name in now.routed,
        leaves=name in now.leaves,
        stays=name in now.stays,
        turn=name in now.turns,
    )
    is_changed = name not in now.held_back and is_outdated(
        wanted, facts.instances.get(name, InstanceFacts())
    )
    return _plan_able(wanted, facts, verdict, repair, routed=name in now.routed, is_changed=is_changed)


def _plan_out(wanted: Wanted, facts: Facts, verdict: Verdict, rules: GpuRules, *, routed: bool) -> Step:
    instance = wanted.instance
    own = facts.instances.get(instance.id, InstanceFacts())
    hang = find_hang(instance, facts)
    if instance.id in facts.orders.drained and own.unit is not None and not own.unit.is_running:
        # Files that name a device which is away must go all the same; a card is left to who drained it.
        actions = plan_waiting(instance, own, routed=routed).actions if instance.is_waiting else ()
        return Step(actions=actions, verdict=drained_verdict(instance))
    if hang is None and instance.is_waiting:
        return plan_waiting(instance, own, routed=routed)
    if hang is None:
        lost = replace(instance, problem="its GPU was replaced while it ran")
        return plan_waiting(lost, own, routed=routed)
    if _is_stopped_by_hand(wanted, own):
        return Step(verdict=verdict)  # whoever did it may be at work on the card
    return plan_recovery(instance, *hang, own, rules, now_sec=facts.now_sec, routed=routed)


def _plan_able(
    wanted: Wanted,
    facts: Facts,
    verdict: Verdict,
    repair: Step | None,
    *,
    routed: bool,
    is_changed: bool,
) -> Step:
    """The steps of one whose GPUs are all right; one that hangs would drain for ever."""
    own = facts.instances.get(wanted.instance.id, InstanceFacts())
    is_drained = wanted.instance.id in facts.orders.drained
    is_due = is_drained or is_changed or due_restart(wanted, own, facts.orders) is not None
    if repair is not None and (repair.actions or not is_due):
        return repair if routed or not is_due else replace(repair, actions=_for_good(repair.actions))
    if is_drained:
        steps, verdict = plan_drained(wanted.instance, own, verdict, routed=routed)
    else:
        steps, verdict = _plan_instance(wanted, facts, verdict, routed=routed, outdated=is_changed)
    return Step(actions=tuple(steps), verdict=verdict)


def _for_good(repair: Iterable[Action]) -> tuple[Action, ...]:
    """The repair of one that is not to come back as it is: systemd does not start it again."""
    return tuple(
        Stop(instance=one.instance, at_once=True) if isinstance(one, Kill) else one for one in repair
    )


def _is_stopped_by_hand(wanted: Wanted, own: InstanceFacts) -> bool:
    """Whether the administrator stopped it, whatever else would keep it from running."""
    free = replace(wanted.instance, is_waiting=False, problem=None)
    return judge(replace(wanted, instance=free), own, failures=1).state is State.stopped


def _complete(target: Target, facts: Facts) -> Facts:
    missing = {name: InstanceFacts() for name in target.wanted if name not in facts.instances}
    return replace(facts, instances={**facts.instances, **missing})


def _stopped_by_administrator(facts: Facts) -> bool:
    unit = facts.target
    return (
        unit is not None
        and unit.active_state not in ("active", "activating")
        and (facts.target_started or unit.load_state == "masked")
    )


def _all_stopped(verdict: Verdict) -> Verdict:
    if verdict.state not in (State.absent, State.stopped):
        return verdict
    return Verdict(
        state=State.stopped,
        reason="ovms.target was stopped by the administrator",
        hint="systemctl start ovms.target",
    )


def _plan_instance(
    wanted: Wanted, facts: Facts, verdict: Verdict, *, routed: bool, outdated: bool
) -> tuple[list[Action], Verdict]:
    name = wanted.instance.id
    own = facts.instances.get(name, InstanceFacts())
    unit = own.unit
    restart = due_restart(wanted, own, facts.orders)
    if unit is None:
        return [], verdict
    if own.job:
        starting = Verdict(state=State.starting, reason="its unit is starting")
        return [], verdict if unit.is_running or verdict.state is State.quarantined else starting
    if unit.is_running:
        if (restart is None and not outdated) or routed or unit.active_state == "deactivating":
            return [], verdict
        why = "it is restarted" if restart is not None else "its configuration changed"
        return drain(name, own, why)
    if unit.load_state not in ("loaded", "not-found"):
        return [], verdict
    steps: list[Action] = [Write(instance=name, files=wanted.files)] if outdated else []
    if verdict.state in (State.failed, State.quarantined) and not outdated:
        return [], verdict
    if verdict.state is State.stopped or wanted.instance.problem is not None:
        return steps, verdict
    if own.start_error and own.since_start_sec < RETRY_SEC and not outdated:
        return [], Verdict(
            state=State.failed, reason=own.start_error, hint=f"systemctl status {wanted.instance.unit}"
        )
    if (user := core_user(wanted, facts)) is not None:
        other, cpus = user
        reason = f"waits for CPUs {format_cpu_list(cpus)} that {other} still runs on"
        return steps, Verdict(state=State.absent, reason=reason)
    steps.append(Start(instance=name))
    return steps, Verdict(state=State.starting, reason="its unit is starting")
