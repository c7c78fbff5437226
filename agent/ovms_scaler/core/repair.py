# SPDX-License-Identifier: Apache-2.0
"""What to do with an instance that runs and does not infer, or ends again and again.

It is killed, and systemd starts it again; after some times it is put down for a while. None of this is done
to the last one of an upstream as long as another one is on its way, and it is never put down.
"""

from collections.abc import Collection, Mapping

from ovms_scaler.core.actions import Kill, Stop
from ovms_scaler.core.facts import Facts, InstanceFacts, Probe
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.lifecycle import State, Verdict, is_current, is_outdated
from ovms_scaler.core.recovery import Step
from ovms_scaler.core.rotation import core_user
from ovms_scaler.core.spec_health import HealthRules
from ovms_scaler.core.target import Target, Wanted

# Before the second repair within the window; twice as long before each further one, up to the longest.
BACK_OFF_SEC = 10.0
LONGEST_BACK_OFF_SEC = 600.0
# For one whose requests nobody waits for, or nobody else can take: it may be the machine that stood still.
PATIENCE_SEC = 10.0
# What is under way in one of which it is not known whether it computes may end within this time.
DRAIN_SEC = 30.0
# The repair of another one of the upstream waits so long for one that loads. Those that wait do not serve.
LOAD_SEC = 300.0
# systemd gives up after five starts in ten minutes (ovms@.service). An engine that takes minutes to load
# never gets there, and loses the requests of a round each time: so many ends in this time are a loop, too.
CRASHES = 6
CRASH_WINDOW_SEC = 3600.0
_POLL_SEC = 1.0
# From these an instance comes back by itself.
_ON_ITS_WAY = frozenset({State.starting, State.loading, State.warming})


def plan_repair(
    wanted: Wanted,
    own: InstanceFacts,
    verdict: Verdict,
    rules: HealthRules,
    *,
    now_sec: float,
    routed: bool,
    leaves: bool,
    stays: bool,
    turn: bool,
) -> Step | None:
    """The repair of an instance whose verdict is ``ejected``; None when there is nothing to repair.

    Killed at once when requests wait for one in which nothing moves, since the proxy then asks another;
    drained first when something may still be answered. ``leaves``: the proxy is told so in this pass; while
    it cannot be told, it is killed in rotation, and its unit takes it out. ``stays``: nobody of its upstream
    serves, and it is kept in rotation. It is killed there when it is its ``turn`` (``choose_repairs``).
    """
    instance, unit, health = wanted.instance, own.unit, own.health
    if unit is not None and _is_put_down(verdict, own):
        return Step(actions=(Stop(instance=instance.id, at_once=True),), verdict=verdict)
    if _serves_others(wanted, own, verdict):
        hint = f"ovms-scalerctl restart {instance.id}"
        return Step(verdict=Verdict(state=verdict.state, reason=verdict.reason, hint=hint))
    if not _is_at_fault(wanted, own, verdict) or unit is None or health is None:
        return None
    if not rules.repair_attempts:
        return Step(verdict=_given_up(instance, verdict.reason, 0))
    if leaves or (stays and not turn):
        return Step(verdict=verdict, wake_in_sec=_POLL_SEC)
    wait_sec = wait_for_repair(own, rules, now_sec=now_sec, stays=stays)
    if routed and not stays:
        wait_sec = max(wait_sec, PATIENCE_SEC - (now_sec - health.faulty_since_sec))
    if is_spent(own, rules, now_sec=now_sec) and not stays:
        verdict = _given_up(instance, verdict.reason, len(_recent(own, rules, now_sec)))
        if not routed and wait_sec <= 0:
            return Step(actions=(Stop(instance=instance.id, at_once=True),), verdict=verdict)
    if wait_sec > 0:
        return Step(verdict=verdict, wake_in_sec=min(wait_sec, _POLL_SEC))
    kill = Kill(
        instance=instance.id,
        invocation_id=unit.invocation_id,
        reason=verdict.reason,
        pid=unit.main_pid,
    )
    return Step(actions=(kill,), verdict=verdict)


def choose_repairs(
    target: Target, facts: Facts, verdicts: Mapping[str, Verdict], routed: Collection[str]
) -> frozenset[str]:
    """Whose turn it is in each upstream that nobody serves: one at a time, as others may still answer.

    While one is on its way, the next waits for it, though not for ever.
    """
    if not target.health.repair_attempts:
        return frozenset()
    chosen: set[str] = set()
    for upstream in {wanted.upstream for wanted in target.wanted.values()}:
        names = target.upstream_members(upstream)
        present = [name for name in names if name in routed]
        if any(verdicts[name].state in (State.ready, State.suspect) for name in present):
            continue
        if any(_is_coming(target, facts, verdicts[name], name) for name in names if name not in routed):
            continue
        ripe = [
            name
            for name in present
            if _is_at_fault(target.wanted[name], own := facts.instances[name], verdicts[name])
            and wait_for_repair(own, target.health, now_sec=facts.now_sec, stays=True) <= 0
        ]
        chosen |= set(sorted(ripe, key=lambda name: not is_hung(facts.instances[name]))[:1])
    return frozenset(chosen)


def put_down(
    target: Target, facts: Facts, verdicts: Mapping[str, Verdict], routed: Collection[str]
) -> dict[str, Verdict]:
    """Verdicts on those that stay down, or are to go down, as they were repaired or crashed too often."""
    found: dict[str, Verdict] = {}
    rules = target.health
    for name, verdict in verdicts.items():
        wanted, own = target.wanted[name], facts.instances.get(name, InstanceFacts())
        if own.unit is None or name in routed:
            continue
        crashes = _recent_crashes(own, facts.now_sec)
        if verdict.state is State.absent and not own.unit.is_running:
            if is_spent(own, rules, now_sec=facts.now_sec):
                times = len(_recent(own, rules, facts.now_sec))
                found[name] = _given_up(wanted.instance, "it did not serve for long", times)
            elif crashes >= CRASHES:
                found[name] = _crash_loop(wanted.instance, crashes)
        elif crashes >= CRASHES and own.unit.is_running and _is_served(target, verdicts, name, routed):
            found[name] = _crash_loop(wanted.instance, crashes)
    return found


def is_hung(own: InstanceFacts) -> bool:
    """Whether nothing moves in an engine that is not believed to infer: what it has in work never ends."""
    unit, health = own.unit, own.health
    if unit is None or health is None or not is_current(health, unit) or health.works is not False:
        return False
    return bool(health.fault) or (health.probe is Probe.silent and health.failures > 1)


def is_spent(own: InstanceFacts, rules: HealthRules, *, now_sec: float) -> bool:
    """Whether it was repaired as often as it may be."""
    return 0 < rules.repair_attempts <= len(_recent(own, rules, now_sec))


def wait_for_repair(own: InstanceFacts, rules: HealthRules, *, now_sec: float, stays: bool) -> float:
    """Seconds until it is killed; none left when this is not positive.

    One that computes may answer what it has in work; after ``busy_sec`` it is believed to spin.
    """
    health = own.health
    if health is None:
        return 0.0
    in_use = not stays and own.connections != 0
    computes = bool(health.works) and (bool(health.fault) or health.probe is Probe.silent)
    if is_hung(own):
        allowed_sec = 0.0 if in_use or health.fault else PATIENCE_SEC
    elif in_use:
        allowed_sec = max(DRAIN_SEC, rules.busy_sec) if computes else DRAIN_SEC
    else:
        allowed_sec = 0.0 if health.fault else PATIENCE_SEC
    wait_sec = allowed_sec - (now_sec - health.faulty_since_sec)
    if recent := _recent(own, rules, now_sec):
        back_off_sec = min(BACK_OFF_SEC * 2.0 ** (min(len(recent), 12) - 1), LONGEST_BACK_OFF_SEC)
        wait_sec = max(wait_sec, back_off_sec - (now_sec - recent[-1]))
    return wait_sec


def _is_at_fault(wanted: Wanted, own: InstanceFacts, verdict: Verdict) -> bool:
    """Whether it is to be repaired. One that loads its models again is not: that ends by itself."""
    unit, health = own.unit, own.health
    if verdict.state is not State.ejected or unit is None or unit.active_state != "active" or own.job:
        return False
    if health is None or not is_current(health, unit) or _serves_others(wanted, own, verdict):
        return False
    return bool(health.fault) or health.probe is not Probe.loading


def _serves_others(wanted: Wanted, own: InstanceFacts, verdict: Verdict) -> bool:
    """Whether one of several models failed: the next process would fail at it, too, and serve no other."""
    health = own.health
    return (
        verdict.state is State.ejected
        and health is not None
        and not health.fault
        and health.probe is Probe.failed
        and len(wanted.expected) > 1
    )


def _is_coming(target: Target, facts: Facts, verdict: Verdict, name: str) -> bool:
    """Whether it is worth waiting for one that is not in rotation."""
    own = facts.instances.get(name, InstanceFacts())
    if name in facts.orders.drained or own.unit is None:
        return False
    wanted = target.wanted[name]
    # One that failed is started again when its configuration has changed.
    is_given_up = verdict.state in (State.failed, State.quarantined)
    if is_given_up and is_outdated(wanted, own) and wanted.instance.problem is None:
        return core_user(wanted, facts) is None
    if verdict.state is State.absent:
        return not own.start_error and core_user(wanted, facts) is None
    if verdict.state is State.ready:
        return True
    if verdict.state is State.ejected:
        return _is_at_fault(wanted, own, verdict)
    for_sec = facts.now_sec - own.unit.state_change_usec / 1e6
    return verdict.state in _ON_ITS_WAY and for_sec < LOAD_SEC


def _is_served(target: Target, verdicts: Mapping[str, Verdict], name: str, routed: Collection[str]) -> bool:
    """Whether another one of its upstream serves."""
    return any(
        other in routed and verdicts[other].state is State.ready
        for other in target.upstream_members(target.wanted[name].upstream)
        if other != name
    )


def _is_put_down(verdict: Verdict, own: InstanceFacts) -> bool:
    """Whether it still runs although it is to be down."""
    unit = own.unit
    return (
        verdict.state is State.quarantined
        and unit is not None
        and unit.is_running
        and unit.active_state != "deactivating"
        and not own.job
    )


def _recent(own: InstanceFacts, rules: HealthRules, now_sec: float) -> list[float]:
    return sorted(at for at in own.repairs if now_sec - at < rules.repair_window_sec)


def _recent_crashes(own: InstanceFacts, now_sec: float) -> int:
    return sum(now_sec - at < CRASH_WINDOW_SEC for at in own.crashes)


def _given_up(instance: Instance, why: str, repairs: int) -> Verdict:
    what = f"it was repaired {repairs} times" if repairs else "health.repair_attempts is 0"
    return _quarantined(instance, f"{what}: {why}")


def _crash_loop(instance: Instance, crashes: int) -> Verdict:
    return _quarantined(instance, f"it ended {crashes} times within an hour, and others serve")


def _quarantined(instance: Instance, reason: str) -> Verdict:
    return Verdict(
        state=State.quarantined,
        reason=reason,
        hint=f"journalctl -u {instance.unit}; then: ovms-scalerctl reset {instance.id}",
    )
