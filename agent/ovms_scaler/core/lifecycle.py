# SPDX-License-Identifier: Apache-2.0
"""In which state one instance is, and why, judged from what was observed of it."""

from dataclasses import dataclass
from enum import StrEnum

from ovms_scaler.core import readback
from ovms_scaler.core.facts import Health, InstanceFacts, Probe, UnitFacts
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.target import Wanted

# Exit statuses of OVMS after which it would only fail again (src/ovms_exit_codes.hpp, src/server.cpp).
HOPELESS = {64: "a usage error: ovms refused its arguments", 132: "this CPU lacks an instruction it needs"}
# CLD_EXITED of waitid(2): the process ended by itself, and its status is an exit status.
CLD_EXITED = 1


class State(StrEnum):
    """The life of an instance; only ``ready`` ones are given requests."""

    absent = "absent"
    starting = "starting"
    loading = "loading"
    warming = "warming"
    ready = "ready"
    suspect = "suspect"
    ejected = "ejected"
    draining = "draining"
    drained = "drained"
    stopping = "stopping"
    stopped = "stopped"
    failed = "failed"
    quarantined = "quarantined"
    waiting = "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A state with the reason and, where there is something to do, the next command to type."""

    state: State
    reason: str = ""
    hint: str = ""


def judge(wanted: Wanted, facts: InstanceFacts, *, failures: int) -> Verdict:
    """The state of a wanted instance, whether it is routed or not.

    ``failures`` is the number of failed probes in a row after which one that served is no longer
    believed to.
    """
    instance = wanted.instance
    unit = facts.unit
    if instance.is_waiting:
        return Verdict(state=State.waiting, reason=instance.problem or "", hint=instance.hint or "")
    if unit is not None and unit.is_running:
        return _running(wanted, facts, unit, failures)
    if instance.problem is not None:
        return Verdict(state=State.failed, reason=instance.problem, hint=instance.hint or "")
    if unit is None:
        return Verdict(state=State.absent, reason="systemd has not answered yet")
    if unit.load_state == "masked":
        return Verdict(
            state=State.stopped,
            reason="masked by the administrator",
            hint=f"systemctl unmask {instance.unit}",
        )
    if unit.load_state not in ("loaded", "not-found"):
        return Verdict(
            state=State.failed,
            reason=f"systemd cannot load {instance.unit}: {unit.load_state}",
            hint=f"systemctl status {instance.unit}",
        )
    # A stop while the model loads ends with SIGKILL and this result: OVMS does not look at SIGTERM then.
    stopped = unit.active_state == "failed" and unit.result == "timeout"
    if unit.active_state == "failed" and not stopped:
        return _failed(instance, unit)
    if facts.started:
        return Verdict(
            state=State.stopped,
            reason="stopped by the administrator",
            hint=f"systemctl start {instance.unit}",
        )
    return Verdict(state=State.absent, reason="not started yet")


def is_outdated(wanted: Wanted, facts: InstanceFacts) -> bool:
    """Whether the instance's files are not what they should be; one that runs was started with them.

    While a problem forbids to start it anew, one that runs is left as it is.
    """
    running = facts.unit is not None and facts.unit.is_running
    return dict(facts.files) != dict(wanted.files) and not (running and wanted.instance.problem is not None)


def is_current(health: Health | None, unit: UnitFacts) -> bool:
    """Whether a verdict on health is about the process that runs now."""
    return health is not None and health.invocation_id == unit.invocation_id


def _running(wanted: Wanted, facts: InstanceFacts, unit: UnitFacts, failures: int) -> Verdict:
    instance = wanted.instance
    if unit.active_state == "deactivating":
        # By itself, until what follows a process (ExecStopPost=) is done; a stop is a success so far.
        why = "its unit is stopping" if unit.result == "success" else _ending(unit)
        return Verdict(state=State.stopping, reason=why)
    if unit.active_state == "activating":
        if unit.restarts:
            return Verdict(
                state=State.starting,
                reason=f"restart {unit.restarts}: {_ending(unit)}",
                hint=f"journalctl -u {instance.unit}",
            )
        if unit.sub_state == "auto-restart":
            # systemd counts a restart when its pause (RestartSec=) is over.
            return Verdict(
                state=State.starting,
                reason=f"is about to be restarted: {_ending(unit)}",
                hint=f"journalctl -u {instance.unit}",
            )
        return Verdict(state=State.starting, reason="its unit is starting")
    override = readback.override(facts)
    # Until its files are read back nobody knows whether an administrator wants it elsewhere.
    is_judged = facts.exec is not None and override is None
    wrong = readback.misplacement(wanted, facts) if is_judged else None
    if wrong is not None and not is_outdated(wanted, facts):
        return Verdict(
            state=State.failed,
            reason=f"it is not where it belongs: {wrong}",
            hint=f"systemctl cat {instance.unit}",
        )
    health = facts.health
    if health is None or not is_current(health, unit):
        return Verdict(state=State.starting, reason="not asked yet")
    if health.warmed:
        return _serving(instance, health, failures, override)
    match health.probe:
        case Probe.available:
            return Verdict(state=State.warming, reason=health.detail or "its first generation is under way")
        case Probe.failed:
            return Verdict(state=State.failed, reason=health.detail, hint=f"journalctl -u {instance.unit}")
        case Probe.loading:
            return Verdict(state=State.loading, reason=health.detail)
        case _:
            return Verdict(state=State.starting, reason=health.detail)


def is_believed(health: Health, *, failures: int) -> bool:
    """Whether one that was warmed is believed to serve, so many failed probes in a row before it is not."""
    if health.fault:
        return False
    # One that computes may be late with its answer: embeddings and images are computed by the threads that
    # answer probes (drogon_http_server.cpp in OVMS). One that hangs is found by its CPU time.
    is_busy = health.probe is Probe.silent and health.works
    return health.failures < failures or bool(is_busy)


def _serving(instance: Instance, health: Health, failures: int, override: str | None) -> Verdict:
    if health.fault:
        return Verdict(state=State.ejected, reason=health.fault, hint=f"journalctl -u {instance.unit}")
    if health.failures == 0 and health.doubt:
        return Verdict(state=State.suspect, reason=health.doubt)
    if health.failures == 0:
        return Verdict(state=State.ready, reason=f"as overridden in {override}" if override else "")
    state = State.suspect if is_believed(health, failures=failures) else State.ejected
    failed = "a probe failed" if health.failures == 1 else f"{health.failures} probes in a row failed"
    return Verdict(
        state=state,
        reason=f"{failed}: {health.detail}",
        hint=f"journalctl -u {instance.unit}",
    )


def _failed(instance: Instance, unit: UnitFacts) -> Verdict:
    again = f"ovms-scalerctl reset {instance.id}"
    if _is_crash_loop(unit):
        return Verdict(
            state=State.quarantined,
            reason=f"it kept failing and is not started again: {_ending(unit)}",
            hint=f"journalctl -u {instance.unit}; then: {again}",
        )
    return Verdict(
        state=State.failed, reason=_ending(unit), hint=f"journalctl -u {instance.unit}; then: {again}"
    )


def _is_crash_loop(unit: UnitFacts) -> bool:
    """Whether systemd has given up on restarting it.

    The result is "start-limit-hit" only if there was none before (service_enter_dead in systemd's
    service.c); else it is known from Restart=always, which ends otherwise only with a hopeless status.
    """
    hopeless = unit.exec_main_code == CLD_EXITED and unit.exec_main_status in HOPELESS
    return unit.result == "start-limit-hit" or (unit.restarts > 0 and not hopeless)


def _ending(unit: UnitFacts) -> str:
    """How its last process ended, for people."""
    if unit.exec_main_code == CLD_EXITED:
        why = HOPELESS.get(unit.exec_main_status)
        return f"ovms ended with exit status {unit.exec_main_status}" + (f", {why}" if why else "")
    if unit.exec_main_code:
        return f"ovms was ended by signal {unit.exec_main_status} ({unit.result})"
    return f"systemd says {unit.result}"
