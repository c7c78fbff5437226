# SPDX-License-Identifier: Apache-2.0
"""What to do with an instance that runs and does not infer: it is killed and systemd starts it again."""

from ovms_scaler.core.actions import Kill
from ovms_scaler.core.facts import Health, InstanceFacts, Probe
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.lifecycle import State, Verdict, is_current
from ovms_scaler.core.recovery import Step
from ovms_scaler.core.spec_health import HealthRules

# Before the second repair within the window; twice as long before each further one.
BACK_OFF_SEC = 10.0
# For one whose requests nobody waits for, or nobody else can take: it may be the machine that stood still.
PATIENCE_SEC = 10.0
# What is under way in one that errs, or that computes, may end within this time.
DRAIN_SEC = 30.0
_POLL_SEC = 1.0


def plan_repair(
    instance: Instance,
    own: InstanceFacts,
    verdict: Verdict,
    rules: HealthRules,
    *,
    now_sec: float,
    routed: bool,
    stays: bool,
) -> Step | None:
    """The repair of an instance whose verdict is ``ejected``; None when there is nothing to repair.

    Killed at once when requests wait for one in which nothing moves, since the proxy then asks another;
    drained first when something may still be answered. ``stays``: it is the last of its upstream and kept
    in rotation. It is killed there, without being drained.
    """
    unit, health = own.unit, own.health
    if verdict.state is not State.ejected or unit is None or unit.active_state != "active" or own.job:
        return None
    if health is None or not is_current(health, unit) or not _is_repairable(health):
        return None
    recent = sorted(at for at in own.repairs if now_sec - at < rules.repair_window_sec)
    if len(recent) >= rules.repair_attempts:
        return Step(verdict=_given_up(instance, verdict, len(recent)))
    if routed and not stays:
        return Step(verdict=verdict)  # it leaves in this very pass
    wait_sec = _wait_sec(own, health, recent, now_sec=now_sec, stays=stays)
    if wait_sec > 0:
        return Step(verdict=verdict, wake_in_sec=min(wait_sec, _POLL_SEC))
    return Step(actions=(Kill(instance=instance.id, reason=verdict.reason),), verdict=verdict)


def _is_repairable(health: Health) -> bool:
    """Not one that loads its models again: that ends by itself."""
    return bool(health.fault) or health.probe is not Probe.loading


def _given_up(instance: Instance, verdict: Verdict, repairs: int) -> Verdict:
    why = f"it was repaired {repairs} times" if repairs else "health.repair_attempts is 0"
    return Verdict(
        state=State.quarantined,
        reason=f"{why}: {verdict.reason}",
        hint=f"journalctl -u {instance.unit}; then: ovms-scalerctl reset {instance.id}",
    )


def _wait_sec(
    own: InstanceFacts, health: Health, recent: list[float], *, now_sec: float, stays: bool
) -> float:
    in_use = not stays and own.connections != 0
    if health.works is False and (health.fault or health.probe is Probe.silent):
        allowed_sec = 0.0 if in_use or health.fault else PATIENCE_SEC
    elif in_use:
        allowed_sec = DRAIN_SEC
    else:
        allowed_sec = 0.0 if health.fault else PATIENCE_SEC
    wait_sec = allowed_sec - (now_sec - health.faulty_since_sec)
    if recent:
        back_off_sec = BACK_OFF_SEC * 2.0 ** (min(len(recent), 12) - 1)
        wait_sec = max(wait_sec, back_off_sec - (now_sec - recent[-1]))
    return wait_sec
