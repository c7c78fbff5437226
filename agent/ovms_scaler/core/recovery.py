# SPDX-License-Identifier: Apache-2.0
"""What to do with an instance whose GPU is away or hangs."""

from dataclasses import dataclass

from ovms_scaler.core.actions import Action, Recover, Remove, Stop
from ovms_scaler.core.facts import Facts, InstanceFacts
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.lifecycle import State, Verdict
from ovms_scaler.core.spec import GpuRules
from ovms_scaler.core.wedge import HELPER_METHODS, RESTART, Wedge

# Before the second attempt; twice as long before each further one.
BACK_OFF_SEC = 10.0
# What the kernel says of the card tells most.
_KERNEL = "journalctl -k"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Actions and verdict for one instance; ``wake_in_sec`` as in Plan."""

    actions: tuple[Action, ...] = ()
    verdict: Verdict
    wake_in_sec: float | None = None


def find_hang(instance: Instance, facts: Facts) -> tuple[str, Wedge] | None:
    """The GPU of an instance that hangs, and how; one that was pulled out no longer does."""
    own = facts.instances.get(instance.id, InstanceFacts())
    for address in instance.gpus:
        wedge = facts.wedges.get(address)
        if wedge is None or wedge.is_recovered or (address in instance.missing_gpus and not own.job):
            continue
        return address, wedge
    return None


def plan_waiting(instance: Instance, own: InstanceFacts, *, routed: bool) -> Step:
    """Stop and remove what waits for a device: there is nothing to drain."""
    verdict = Verdict(state=State.waiting, reason=instance.problem or "", hint=instance.hint or "")
    if own.unit is None or own.job:
        return Step(verdict=verdict)
    if own.unit.is_running:
        stops = own.unit.active_state == "deactivating"
        return Step(actions=() if routed or stops else (Stop(instance=instance.id),), verdict=verdict)
    return Step(actions=(Remove(instance=instance.id),) if own.files else (), verdict=verdict)


def plan_recovery(
    instance: Instance,
    address: str,
    wedge: Wedge,
    own: InstanceFacts,
    rules: GpuRules,
    *,
    now_sec: float,
    routed: bool,
) -> Step:
    """Out of rotation, stopped, recovered; after too many attempts in a row left alone."""
    what = f"GPU {address} hangs" + (f": {wedge.detail}" if wedge.detail else "")
    given_up = _given_up(wedge, rules)
    if own.unit is None:
        return Step(verdict=Verdict(state=State.absent, reason=what, hint=_KERNEL))
    if own.unit.is_running:
        return _stop(instance, wedge, own, rules, what, now_sec=now_sec, routed=routed)
    if given_up is not None:
        verdict = Verdict(
            state=State.quarantined,
            reason=f"{given_up}: {why}" if (why := wedge.error or wedge.detail) else given_up,
            hint="dmesg; then `ovms-scalerctl reload` tries again",
        )
        return Step(verdict=verdict)
    of = f"attempt {wedge.attempt} of {rules.recovery_attempts}"
    reason = f"GPU {address} is recovered by {wedge.method}, {of}"
    verdict = Verdict(state=State.waiting, reason=reason, hint=_KERNEL)
    if own.job:
        return Step(verdict=verdict)
    wait_sec = _back_off_sec(wedge) - (now_sec - wedge.at_sec)
    if wait_sec > 0:
        why = f"; the one before failed: {wedge.error}" if wedge.error else ""
        soon = f"{what}; {of} to recover it comes soon{why}"
        return Step(verdict=Verdict(state=State.waiting, reason=soon, hint=_KERNEL), wake_in_sec=wait_sec)
    recover = Recover(instance=instance.id, address=address, method=wedge.method)
    return Step(actions=(recover,), verdict=verdict)


def _stop(
    instance: Instance,
    wedge: Wedge,
    own: InstanceFacts,
    rules: GpuRules,
    what: str,
    *,
    now_sec: float,
    routed: bool,
) -> Step:
    """Requests on a device that the kernel has shut off get nowhere; after a mere reset some may end."""
    verdict = Verdict(state=State.draining, reason=what, hint=_KERNEL)
    stopping = Verdict(state=State.stopping, reason=what, hint=_KERNEL)
    if own.unit is not None and own.unit.active_state == "deactivating":
        return Step(verdict=stopping)
    if own.job or routed:
        return Step(verdict=verdict)
    left_sec = rules.drain_timeout_sec - (now_sec - wedge.at_sec)
    if wedge.method == RESTART and own.connections != 0 and left_sec > 0:
        return Step(verdict=verdict, wake_in_sec=min(1.0, left_sec))
    return Step(actions=(Stop(instance=instance.id),), verdict=stopping)


def _given_up(wedge: Wedge, rules: GpuRules) -> str | None:
    """Why its GPU is not recovered once more."""
    if rules.recovery_attempts == 0:
        return "its GPU hangs, and gpu.recovery_attempts is 0"
    if wedge.attempt > rules.recovery_attempts:
        return f"its GPU was recovered {rules.recovery_attempts} times in a row and still hangs"
    if wedge.method not in (RESTART, *HELPER_METHODS):
        return f"its GPU hangs, and the kernel names {wedge.method}, which needs the vendor's own tools"
    return None


def _back_off_sec(wedge: Wedge) -> float:
    return 0.0 if wedge.attempt == 1 else BACK_OFF_SEC * 2.0 ** (min(wedge.attempt, 12) - 2)
