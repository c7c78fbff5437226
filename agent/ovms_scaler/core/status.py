# SPDX-License-Identifier: Apache-2.0
"""The documents that people and programs are shown: status and plan."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ovms_scaler import __version__
from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.facts import Facts
from ovms_scaler.core.fronts import endpoints_of
from ovms_scaler.core.instance import Instance, unit_name
from ovms_scaler.core.lifecycle import State, is_outdated
from ovms_scaler.core.next_steps import (
    EMPTY_POOL,
    HINDERED,
    REJECTED,
    WARNED,
    next_of,
    next_of_proxy,
)
from ovms_scaler.core.orders import Orders
from ovms_scaler.core.plan import Plan
from ovms_scaler.core.target import Target

Document = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """When an instance entered its state, seconds since the epoch."""

    state: State
    since: float


def instance_document(instance: Instance) -> Document:
    """One entry of ``plan --json``."""
    return {
        "id": instance.id, "unit": instance.unit, "pool": instance.pool, "device": instance.device,
        "node": instance.node, "cpus": format_cpu_list(instance.cpus),
        "memory_nodes": format_cpu_list(instance.memory_nodes),
        "inference_threads": instance.inference_threads, "port": instance.port, "weight": instance.weight,
        "gpus": list(instance.gpus), "render_nodes": list(instance.render_nodes),
        "memory": instance.memory, "problem": instance.problem, "hint": instance.hint,
    }  # fmt: skip


def waiting_document(instance: Instance) -> Document:
    """One entry of ``waiting`` in ``plan --json``: an instance without a unit until its device is there."""
    return {
        "id": instance.id,
        "pool": instance.pool,
        "gpus": list(instance.gpus),
        "reason": instance.problem,
        "hint": instance.hint,
    }


def status_document(
    target: Target | None,
    facts: Facts,
    plan: Plan | None,
    since: Mapping[str, Since],
    *,
    config_file: str,
    config_error: str,
    problems: tuple[str, ...],
    observed_sec: float,
) -> Document:
    """What ``ovms-scalerctl status --json`` prints; ``problems`` are what hinders the agent itself.

    ``observed_sec`` (CLOCK_MONOTONIC) is when the look began that it is about: an order that was given later
    is not in it yet. ``actions`` are what is done next; an instance is ``outdated`` while its files are not
    those of the configuration in force, which it is to be started from.
    """
    instances = _instances(target, facts, plan, since) if plan is not None else []
    warnings = list(target.warnings) if target is not None else []
    return {
        "version": __version__,
        "instances": instances,
        "pools": _pools(target) if target is not None else [],
        "proxy": _proxy(target, facts, plan),
        "config": {"file": config_file, "error": config_error, "hint": REJECTED if config_error else ""},
        "warnings": warnings,
        "warnings_hint": WARNED if warnings else "",
        "problems": list(problems),
        "problems_hint": HINDERED if problems else "",
        "observed_sec": observed_sec,
        "orders": _orders(facts.orders),
        "actions": [action.describe() for action in plan.actions] if plan is not None else [],
        "deferred": [action.describe() for action in plan.deferred] if plan is not None else [],
    }


def _proxy(target: Target | None, facts: Facts, plan: Plan | None) -> Document:
    proxy = facts.proxy
    state = proxy.unit.active_state if proxy.unit is not None else None
    error = plan.proxy_error if plan is not None else ""
    waits = plan.proxy_waits if plan is not None else ""
    listen = {listen for front in target.fronts for listen in front.listen} if target is not None else set()
    return {
        "generation": proxy.generation,
        "state": state,
        "error": error,
        "waits": waits,
        "hint": next_of_proxy(
            listens=bool(listen), answers=bool(proxy.generation), is_active=state == "active",
            error=error, waits=waits,
        ),
        "old_workers": proxy.old_workers,
        "cut_requests": proxy.cut_requests,
        "listen": sorted(listen),
        "endpoints": endpoints_of(target.fronts, target.proxy.access) if target is not None else [],
    }  # fmt: skip


def _orders(orders: Orders) -> Document:
    """What was ordered and is in force: since when who is drained, and whose restart is yet to come."""
    return {
        "paused_since": orders.paused_since,
        "drained": {name: one.since for name, one in sorted(orders.drained.items())},
        "restarts": sorted(orders.restarts),
    }


def _pools(target: Target) -> list[Document]:
    """How many instances each pool is to have: one may have none, as on a machine without GPUs."""
    counts = Counter(instance.pool for instance in target.instances)
    return [
        {"name": name, "instances": counts[name], "hint": "" if counts[name] else EMPTY_POOL}
        for name in target.pools
    ]


def _instances(
    target: Target | None, facts: Facts, plan: Plan, since: Mapping[str, Since]
) -> list[Document]:
    wanted = target.wanted if target is not None else {}
    documents: list[Document] = []
    for name, verdict in plan.verdicts.items():
        own = facts.instances.get(name)
        unit = own.unit if own is not None else None
        instance = wanted[name].instance if name in wanted else None
        documents.append(
            {
                "id": name,
                "state": verdict.state.value,
                "reason": verdict.reason,
                "hint": next_of(
                    name,
                    state=verdict.state,
                    reason=verdict.reason,
                    hint=verdict.hint,
                    in_rotation=name in plan.in_rotation,
                ),
                "since": since[name].since if name in since else None,
                "port": instance.port if instance is not None else None,
                "in_rotation": name in plan.in_rotation,
                "unit": unit_name(name),
                "pool": instance.pool if instance is not None else None,
                "upstream": wanted[name].upstream if name in wanted else None,
                "outdated": name in wanted and (own is None or is_outdated(wanted[name], own)),
                "device": instance.device if instance is not None else None,
                "node": instance.node if instance is not None else None,
                "cpus": format_cpu_list(instance.cpus) if instance is not None else "",
                "memory_nodes": format_cpu_list(instance.memory_nodes) if instance is not None else "",
                "gpus": list(instance.gpus) if instance is not None else [],
                "render_nodes": list(instance.render_nodes) if instance is not None else [],
                "weight": instance.weight if instance is not None else None,
                "pid": unit.main_pid or None if unit is not None else None,
                "restarts": unit.restarts if unit is not None else 0,
            }
        )
    return documents
