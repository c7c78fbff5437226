# SPDX-License-Identifier: Apache-2.0
"""Takes the administrator's orders, keeps them through restarts and reboots, and drops what is done."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import structlog

from ovms_scaler.core import ordering
from ovms_scaler.core.facts import Facts
from ovms_scaler.core.halting import BROKEN
from ovms_scaler.core.lifecycle import Verdict
from ovms_scaler.core.orders import Orders, Restart
from ovms_scaler.core.target import Target
from ovms_scaler.daemon.apply import Applier
from ovms_scaler.errors import HostError, RefusedError
from ovms_scaler.host.store import Store

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the agent knows when an order comes; ``target`` is None without a configuration in force."""

    target: Target | None
    facts: Facts
    verdicts: dict[str, Verdict]


class OrderDesk:
    """The orders in force. Each order is on disk before it is answered; the next pass carries it out.

    When those on disk cannot be used the agent is paused, until somebody has it resume.

    Orders raise UnknownNameError, RefusedError, and HostError when they cannot be written down. Those about
    instances return the ids of these.
    """

    def __init__(
        self, store: Store, applier: Applier, view: Callable[[], View], wake: Callable[[], None]
    ) -> None:
        self._store = store
        self._applier = applier
        self._view = view
        self._wake = wake
        self.current = Orders()
        self.problem = ""
        try:
            self.current = store.read_orders()
        except HostError as error:
            # Who is drained is not known: whatever is started or routed might be.
            self.current = Orders(paused_since=round(time.time(), 3))
            self.problem = str(error)
            log.error("paused, as the orders are not known", error=error.message, hint=error.hint)

    def drain(self, name: str, *, allow_outage: bool) -> tuple[str, ...]:
        target, facts = self._look()
        names = ordering.find_instances(target, name)
        self._take(
            ordering.order_drain(target, facts, names, now=round(time.time(), 3), allow_outage=allow_outage)
        )
        log.info("to be drained", instances=list(names), allow_outage=allow_outage)
        return names

    async def undrain(self, name: str) -> tuple[str, ...]:
        """Whatever kept it from running before it was drained is forgotten."""
        target, _ = self._look()
        names = ordering.find_instances(target, name)
        back = [one for one in names if one in self.current.drained]
        for one in back:
            await self._applier.reset(one, target.wanted[one].instance.gpus)
        self._take(ordering.order_undrain(self.current, names))
        log.info("no longer drained", instances=back)
        return names

    def restart(self, name: str | None, *, is_rolling: bool, allow_outage: bool) -> tuple[str, ...]:
        """All instances without a ``name``. The ids are those of the ones that run."""
        target, facts = self._look()
        names = tuple(target.wanted) if name is None else ordering.find_instances(target, name)
        orders = ordering.order_restart(
            target, facts, names, is_rolling=is_rolling, allow_outage=allow_outage
        )
        self._take(orders)
        ordered = tuple(one for one in names if one in orders.restarts)
        log.info(
            "to be restarted", instances=list(ordered), is_rolling=is_rolling, allow_outage=allow_outage
        )
        return ordered

    async def reset(self, name: str) -> tuple[str, ...]:
        """Have what failed tried again at once; one that still runs although it failed is restarted."""
        target, facts = self._look()
        names = ordering.find_instances(target, name)
        broken = self._view().verdicts
        restarts: dict[str, Restart] = {}
        for one in names:
            if one not in broken or broken[one].state not in BROKEN:
                continue
            await self._applier.reset(one, target.wanted[one].instance.gpus)
            unit = facts.instances[one].unit
            if unit is not None and unit.is_running:
                restarts[one] = Restart(invocation_id=unit.invocation_id)
        self._take(replace(self.current, restarts={**self.current.restarts, **restarts}))
        log.info("failures forgotten", instances=list(names))
        return names

    def pause(self) -> None:
        """Have the agent observe and do nothing; what has begun is finished."""
        if not self.current.is_paused:
            self._take(replace(self.current, paused_since=round(time.time(), 3)))
            log.info("paused")

    def resume(self) -> None:
        if self.current.is_paused:
            self._take(replace(self.current, paused_since=None))
            log.info("resumed")

    def settle(self, facts: Facts) -> Orders:
        """The orders that are left when these are the facts."""
        self._keep(ordering.settle(self.current, facts))
        return self.current

    def renew(self, target: Target, facts: Facts, *, allow_outage: bool) -> Orders:
        """Have what runs an older program or model than there is now restarted, in turn."""
        orders = ordering.order_renewal(target, facts, allow_outage=allow_outage)
        if new := sorted(orders.restarts.keys() - self.current.restarts.keys()):
            log.info("to be restarted, as what they run was replaced", instances=new)
        self._keep(orders)
        return self.current

    def forget_others(self, names: Iterable[str]) -> None:
        """Drop the drains of instances that the configuration no longer has."""
        gone = self.current.drained.keys() - set(names)
        self._keep(ordering.order_undrain(self.current, gone))

    def _look(self) -> tuple[Target, Facts]:
        view = self._view()
        if view.target is None:
            raise RefusedError(
                "there is no configuration in force, so there is no instance",
                hint="ovms-scalerctl check-config",
            )
        return view.target, replace(view.facts, orders=self.current)

    def _take(self, orders: Orders) -> None:
        """Raises HostError, and then nothing is ordered."""
        self._store.write_orders(orders)
        self.current = orders
        self.problem = ""
        self._wake()

    def _keep(self, orders: Orders) -> None:
        """What is left over on disk when this fails is left out again after the next start."""
        if orders == self.current:
            return
        self.current = orders
        try:
            self._store.write_orders(orders)
        except HostError as error:
            log.error("state not written", error=error.message, hint=error.hint)
