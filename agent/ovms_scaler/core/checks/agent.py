# SPDX-License-Identifier: Apache-2.0
"""What the configuration, the agent and its status document tell."""

from collections.abc import Iterable, Mapping
from typing import Any

from ovms_scaler.core.checks.finding import Finding, bad, good, or_good, unknown, warning
from ovms_scaler.core.checks.system import AGENT, Unit
from ovms_scaler.core.instance import Instance
from ovms_scaler.errors import Problem

_LOOK = f"journalctl -u {AGENT} -n 50"
# States of core.lifecycle: those of trouble, and those that pass, or that somebody wants so.
_GIVEN_UP = ("failed", "quarantined", "ejected")
_DOUBTFUL = ("suspect", "waiting", "stopped")


def judge_configuration(
    file: str, problems: Iterable[Problem], *, pools: int, in_force_error: str, is_readable: bool
) -> tuple[Finding, ...]:
    """``in_force_error`` is why the agent goes on with another configuration, "" when it does not."""
    check = "configuration"
    if not is_readable:
        return (unknown(check, file, "this user may not read it"),)
    found = [
        bad(
            check,
            ": ".join(part for part in (problem.file or file, problem.key) if part),
            problem.rule,
            problem.hint or "ovms-scalerctl check-config",
            "" if problem.hint else "the keys are in man ovms-scaler.toml",
        )
        for problem in problems
    ]
    if not found and in_force_error:
        reason = "it is valid now, and the agent goes on with the one before, as it was not"
        found.append(warning(check, file, reason, "systemctl reload ovms-scaler"))
    if not found and not pools:
        reason = "it has no pool: nobody would be served"
        remedy = f"add a [[pool]] to {file}"
        found.append(warning(check, file, reason, remedy, "the keys are in man ovms-scaler.toml"))
    return or_good(found, check, file, f"it is valid, with pools: {pools}")


def judge_placement(
    instances: Iterable[Instance], warnings: Iterable[str], explained: Iterable[str]
) -> tuple[Finding, ...]:
    """What hinders an instance, and sentences on the layout; what other checks tell is ``explained``."""
    check, told = "placement", frozenset(explained)
    found = []
    for one in instances:
        if one.problem is None or one.problem in told:
            continue
        say = warning if one.is_waiting else bad
        found.append(say(check, one.id, one.problem, one.hint or "ovms-scalerctl plan"))
    found += [
        warning(check, "plan", text, "ovms-scalerctl plan --no-diff")
        for text in warnings
        if text not in told
    ]
    return or_good(found, check, "plan", "every pool has its instances")


def judge_agent(status: Mapping[str, Any] | None, error: str, agent: Unit | None) -> tuple[Finding, ...]:
    """``status`` is the agent's document, None when it could not be asked because of ``error``."""
    check = "agent"
    if status is None:
        return (_judge_silent(error, agent),)
    found = [bad(check, AGENT, str(text), _LOOK) for text in status.get("problems") or ()]
    orders = status.get("orders")
    if isinstance(orders, Mapping) and orders.get("paused_since") is not None:
        reason = "it is paused: it observes and changes nothing"
        found.append(warning(check, AGENT, reason, "ovms-scalerctl resume"))
    return or_good(found, check, AGENT, "it runs and answers")


def _judge_silent(error: str, agent: Unit | None) -> Finding:
    check = "agent"
    if agent is None:
        return unknown(check, AGENT, error, f"systemctl status {AGENT}")
    if agent.active_state in ("active", "reloading"):
        if "permission" in error:
            return unknown(check, AGENT, error)
        return bad(check, AGENT, f"systemd says that it runs, and yet: {error}", _LOOK)
    if agent.active_state == "failed":
        return bad(check, AGENT, f"it failed (result: {agent.result})", _LOOK)
    if agent.active_state in ("activating", "deactivating"):
        return warning(check, AGENT, f"it is {agent.active_state}", f"systemctl status {AGENT}")
    if agent.file_state.startswith("enabled"):
        reason = "it is enabled, and does not run: what runs goes on, and nobody looks after it"
        return warning(check, AGENT, reason, "systemctl start ovms-scaler")
    return good(check, AGENT, "it is not started")


def judge_instances(status: Mapping[str, Any] | None) -> tuple[Finding, ...]:
    check = "instances"
    if status is None:
        return (good(check, "instances", "the agent, which knows them, does not run"),)
    found = []
    for entry in status.get("instances") or ():
        name, state = str(entry.get("id", "?")), str(entry.get("state", "?"))
        if entry.get("pool") is None or state not in _GIVEN_UP + _DOUBTFUL:
            continue
        say = bad if state in _GIVEN_UP else warning
        reason = ": ".join(part for part in (state, str(entry.get("reason") or "")) if part)
        # "look; then: do", as core.lifecycle has it.
        remedy, _, then = str(entry.get("hint") or f"journalctl -u ovms@{name}").partition("; then: ")
        found.append(say(check, name, reason, remedy, then and f"then: {then}"))
    proxy = status.get("proxy")
    if isinstance(proxy, Mapping) and proxy.get("error"):
        remedy = str(proxy.get("hint") or "systemctl status ovms-scaler-proxy")
        found.append(bad(check, "proxy", str(proxy["error"]), remedy))
    return or_good(found, check, "instances", "none has failed, and the proxy runs as configured")
