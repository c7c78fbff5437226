# SPDX-License-Identifier: Apache-2.0
"""Which instances an order is about, whether it may be given, and when it has been carried out."""

from collections.abc import Collection, Iterable
from dataclasses import replace

from ovms_scaler.core.facts import Facts
from ovms_scaler.core.lifecycle import is_outdated
from ovms_scaler.core.orders import Drain, Orders, Restart
from ovms_scaler.core.rotation import routed_now
from ovms_scaler.core.subject import unknown_name
from ovms_scaler.core.target import Target
from ovms_scaler.errors import RefusedError


def find_instances(target: Target, name: str) -> tuple[str, ...]:
    """The instance of that name, or all of the pool of that name. Raises UnknownNameError."""
    if name in target.wanted:
        return (name,)
    if name in target.pools:
        return tuple(one.id for one in target.instances if one.pool == name)
    raise unknown_name([*target.wanted, *target.pools], name)


def order_drain(
    target: Target, facts: Facts, names: Collection[str], *, now: float, allow_outage: bool
) -> Orders:
    """The orders with ``names`` drained since ``now``. Raises RefusedError when nobody would serve then."""
    known = facts.orders
    if not allow_outage and (left := _left_alone(target, facts, names)) is not None:
        serving, upstream = left
        raise RefusedError(
            f"cannot drain {', '.join(sorted(serving))}: no other instance serves {upstream!r} now",
            hint="wait until another one does, or accept the outage with --allow-outage",
        )
    new = Drain(since=now, allow_outage=allow_outage)
    drained = {
        name: replace(known.drained.get(name, new), allow_outage=allow_outage or _may_leave(known, name))
        for name in names
    }
    restarts = {name: one for name, one in known.restarts.items() if name not in drained}
    return replace(known, drained={**known.drained, **drained}, restarts=restarts)


def _may_leave(known: Orders, name: str) -> bool:
    return name in known.drained and known.drained[name].allow_outage


def order_undrain(known: Orders, names: Collection[str]) -> Orders:
    """The orders without the drain of ``names``."""
    return replace(known, drained={name: one for name, one in known.drained.items() if name not in names})


def order_restart(
    target: Target, facts: Facts, names: Iterable[str], *, is_rolling: bool, allow_outage: bool
) -> Orders:
    """The orders with every process of ``names`` that runs to be replaced. Raises RefusedError."""
    restarts: dict[str, Restart] = {}
    for name in names:
        own = facts.instances.get(name)
        if name in facts.orders.drained or own is None or own.unit is None or not own.unit.is_running:
            continue
        if (problem := target.wanted[name].instance.problem) is not None:
            raise RefusedError(
                f"cannot restart {name}: it could not be started again: {problem}",
                hint=target.wanted[name].instance.hint,
            )
        restarts[name] = Restart(
            invocation_id=own.unit.invocation_id, is_rolling=is_rolling, allow_outage=allow_outage
        )
    if not restarts:
        raise RefusedError("nothing to restart: no such instance runs", hint="ovms-scalerctl status")
    if not allow_outage:
        _refuse_outage(target, facts, restarts, is_rolling=is_rolling)
    return replace(facts.orders, restarts={**facts.orders.restarts, **restarts})


def order_renewal(target: Target, facts: Facts, *, allow_outage: bool) -> Orders:
    """The orders with everything restarted, in turn, that runs what has been replaced since."""
    restarts = {
        name: Restart(invocation_id=own.unit.invocation_id, allow_outage=allow_outage)
        for name, wanted in target.wanted.items()
        if (own := facts.instances.get(name)) is not None
        and own.outlived
        and own.unit is not None
        and own.unit.is_running
        and wanted.instance.problem is None
        and name not in facts.orders.drained
        and name not in facts.orders.restarts
        and not is_outdated(wanted, own)  # which comes with a restart anyway
    }
    return replace(facts.orders, restarts={**facts.orders.restarts, **restarts})


def settle(known: Orders, facts: Facts) -> Orders:
    """The orders without the restarts of processes that have ended, and of instances that are no more."""
    left: dict[str, Restart] = {}
    for name, one in known.restarts.items():
        own = facts.instances.get(name)
        if own is None:
            continue
        # Unknown while systemd is silent.
        if own.unit is None or (own.unit.is_running and own.unit.invocation_id == one.invocation_id):
            left[name] = one
    return known if left.keys() == known.restarts.keys() else replace(known, restarts=left)


def _refuse_outage(target: Target, facts: Facts, names: Collection[str], *, is_rolling: bool) -> None:
    left = _left_alone(target, facts, names)
    if left is None:
        return
    serving, upstream = left
    if not is_rolling:
        raise RefusedError(
            f"cannot restart {', '.join(sorted(serving))} at once: no other one serves {upstream!r} now",
            hint="one after the other with --rolling"
            if len(serving) > 1
            else "accept the outage with --allow-outage",
        )
    if len(serving) == 1:
        raise RefusedError(
            f"cannot restart {', '.join(serving)}: it is the only one that serves {upstream!r} now",
            hint="wait until another one does, or accept the outage with --allow-outage",
        )


def _left_alone(target: Target, facts: Facts, names: Collection[str]) -> tuple[set[str], str] | None:
    """The first upstream that nobody would serve without ``names``, and who of them does now."""
    routed = routed_now(facts).keys()
    for upstream in sorted({target.wanted[name].upstream for name in names}):
        serving = {
            name
            for name in target.upstream_members(upstream)
            if name in routed and name not in facts.orders.drained
        }
        if serving & set(names) and not serving - set(names):
            return serving, upstream
    return None
