# SPDX-License-Identifier: Apache-2.0
"""The loop: observe, plan, apply, and again when something happened or some time has passed."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog

from ovms_scaler import config as configuration
from ovms_scaler.core.books import Books
from ovms_scaler.core.device_event import DeviceEvent
from ovms_scaler.core.facts import Facts
from ovms_scaler.core.plan import Plan, plan
from ovms_scaler.core.spec import GpuRules
from ovms_scaler.core.status import Document, status_document
from ovms_scaler.core.tally import Tally
from ovms_scaler.core.target import Target
from ovms_scaler.daemon.accepted import Accepted
from ovms_scaler.daemon.admin import Admin
from ovms_scaler.daemon.apply import Applier
from ovms_scaler.daemon.changes import Changes
from ovms_scaler.daemon.observe import Observer
from ovms_scaler.daemon.orders import OrderDesk, View
from ovms_scaler.daemon.wedges import Wedges
from ovms_scaler.errors import ScalerError
from ovms_scaler.host.notify import Notifier
from ovms_scaler.host.store import Store

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

# What no event tells (a file changed by hand, a model that appeared) is noticed within this time.
PASS_INTERVAL_SEC = 10.0
# What an action failed at (a full disk, a systemd that does not answer) is not gone in an instant.
FAILED_PASS_SEC = 1.0
# Beyond any job that a pass waits for (host/systemd.JOB_SEC, twice: a reload and going back).
LONGEST_PASS_SEC = 300.0


class Resolve(Protocol):
    """Makes a target of a configuration. Raises ScalerError."""

    def __call__(self, config: configuration.Config, books: Books, *, planned: bool) -> Target: ...


class Agent:
    """Holds the target and brings the host to it, pass after pass."""

    def __init__(
        self,
        *,
        config_file: Path,
        resolve: Resolve,
        store: Store,
        observer: Observer,
        applier: Applier,
        wedges: Wedges,
        notifier: Notifier,
        admin: Admin,
        tally: Tally,
    ) -> None:
        """``resolve`` makes a target of a configuration; ``planned`` as in core.placement.place."""
        self._config_file = config_file
        self._resolve = resolve
        self._store = store
        self._observer = observer
        self._applier = applier
        self._wedges = wedges
        self._notifier = notifier
        self._admin = admin
        self._tally = tally
        self._config: configuration.Config | None = None
        self._config_error = ""
        self._resolve_error = ""
        self._target: Target | None = None
        self._facts = Facts()
        self._plan: Plan | None = None
        self._changes = Changes()
        self._accepted = Accepted(store)
        self._is_reloaded = False
        self._failures: tuple[str, ...] = ()
        self._devices_changed = False
        self._polls_devices = False
        self._pass_began = time.monotonic()
        self._wake = asyncio.Event()
        self.orders = OrderDesk(store, applier, self.view, self.wake)

    def wake(self, _unit: str = "") -> None:
        """Have the next pass begin at once, or right after the one under way."""
        self._wake.set()

    def note_devices(self) -> None:
        """Have the machine looked at anew, as something about its devices changed."""
        self._devices_changed = True
        self.wake()

    def poll_devices(self) -> None:
        """Look at the machine anew in every pass, as nobody tells of changes."""
        self._polls_devices = True

    def note_hang(self, event: DeviceEvent) -> None:
        """Take in that a GPU hangs."""
        rules = self._config.spec.gpu if self._config is not None else GpuRules()
        self._wedges.note_hang(event, window_sec=rules.recovery_window_sec)
        self.wake()

    def load(self) -> None:
        """Take the configuration; a bad one leaves the last accepted in this boot in force, if any.

        An agent that comes back finds what it left: only what the administrator changed is planned.
        """
        accepted = self._accepted.read()
        try:
            config = configuration.read_config(self._config_file)
            self._accept(config, planned=config.document() != accepted)
            self._accepted.recall(config)
            return
        except ScalerError as error:
            self._config_error = str(error)
            log.error("configuration not accepted", file=str(self._config_file), error=str(error))
        if accepted is None:
            return
        try:
            config = configuration.restore_config(accepted)
            self._accept(config, planned=False, remember=False)
            self._accepted.recall(config)
            log.warning("going on with the configuration accepted before", file=str(self._config_file))
        except ScalerError as error:
            log.error("cannot go on with the configuration accepted before", error=str(error))

    def reload(self, *, allow_outage: bool) -> None:
        """Take a new configuration. Raises ScalerError for a bad one; the old one stays in force."""
        self._notifier.reloading()
        try:
            config = configuration.read_config(self._config_file)
            self._accept(config, planned=True)
        except ScalerError as error:
            self._config_error = str(error)
            log.error("configuration not accepted", file=str(self._config_file), error=str(error))
            raise
        finally:
            self._notifier.ready(self._summary())
        self._config_error = ""
        self._accepted.allow(config, outage=allow_outage)
        self._is_reloaded = True
        self._applier.forget_refusals()
        log.info("configuration accepted", file=str(self._config_file), allow_outage=allow_outage)
        self.wake()

    async def run(self) -> None:
        """Passes for ever; the service is ready after the first look."""
        feeding = asyncio.create_task(self._feed_watchdog(), name="watchdog")
        try:
            await self._run_passes()
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def _feed_watchdog(self) -> None:
        """Keep a pass alive that waits for systemd or nginx longer than the watchdog, within bounds."""
        period = self._notifier.watchdog_sec
        while period is not None and time.monotonic() - self._pass_began < LONGEST_PASS_SEC:
            await asyncio.sleep(period / 2)
            self._notifier.watchdog()

    async def _run_passes(self) -> None:
        await self._observe()
        self._notifier.ready(self._summary())
        while True:
            await self._act()
            self._tally.passes.note(time.monotonic() - self._pass_began)
            self._notifier.watchdog()
            self._notifier.status(self._summary())
            await self._wait()
            self._look_again()
            await self._observe()

    def wanted_count(self) -> int:
        """Instances that the configuration in force asks for."""
        return len(self._target.wanted) if self._target is not None else 0

    def document(self) -> Document:
        """The status, as ``ovms-scalerctl status --json`` prints it."""
        errors = (self.orders.problem, self._accepted.problem, self._resolve_error, self._admin.problem)
        problems = [*self._observer.problems, *filter(None, errors), *self._failures]
        return status_document(
            self._target,
            self._facts,
            self._plan,
            self._changes.since,
            config_file=str(self._config_file),
            config_error=self._config_error,
            problems=tuple(dict.fromkeys(problems)),
            observed_sec=self._facts.observed_sec,
        )

    def view(self) -> View:
        """What is wanted, and what was seen of it last."""
        verdicts = dict(self._plan.verdicts) if self._plan is not None else {}
        return View(target=self._target, facts=self._facts, verdicts=verdicts)

    def _accept(self, config: configuration.Config, *, planned: bool, remember: bool = True) -> None:
        target = self._resolve(config, self._store.read_books(), planned=planned)
        self._config, self._target = config, target
        self._resolve_error = ""
        self._admin.want(target.admin.listen)
        if planned:
            self.orders.forget_others(target.wanted)
        self._accepted.remember(target.books, config if remember else None)

    def _look_again(self) -> None:
        """Resolve anew when devices changed, or something forbids to start an instance: it may be gone."""
        if self._config is None or self._target is None:
            return
        changed = self._devices_changed or self._polls_devices
        if not changed and not any(one.problem for one in self._target.instances):
            return
        before = self._target
        try:
            self._target = self._resolve(self._config, before.books, planned=False)
        except ScalerError as error:
            if str(error) != self._resolve_error:
                log.warning("cannot resolve again, going on with the earlier target", error=str(error))
            self._resolve_error = str(error)
            return  # and once more in the next pass
        self._devices_changed = False
        self._resolve_error = ""
        if self._target.books != before.books or self._accepted.problem:
            self._accepted.remember(self._target.books)

    async def _observe(self) -> None:
        self._pass_began = time.monotonic()
        self._wake.clear()
        target = self._target
        if target is None:
            self._facts = Facts(orders=self.orders.current, observed_sec=self._pass_began)
            return
        facts = await self._observer.observe(target)
        if target is not self._target:  # there was a reload meanwhile
            await self._observe()
            return
        self._facts = replace(facts, orders=self.orders.settle(facts))
        if self._is_reloaded and facts.target is not None:
            self._is_reloaded = False
            orders = self.orders.renew(target, self._facts, allow_outage=self._accepted.allows_outage)
            self._facts = replace(self._facts, orders=orders)
        self._accepted.settle(target, self._facts)
        self._plan = plan(target, self._facts, allow_outage=self._accepted.allows_outage)
        self._changes.note(self._plan)

    async def _act(self) -> None:
        """Carry the plan out, and have the next pass begin at once if that went well."""
        if self._plan is None or not self._plan.actions or self.orders.current.is_paused:
            self._failures = ()
            return
        self._failures = await self._applier.apply(self._plan)
        if not self._failures:
            self.wake()

    async def _wait(self) -> None:
        """Until something happens; after a failure for a while, as what happens may be that failure."""
        if self._failures:
            await asyncio.sleep(FAILED_PASS_SEC)
            return
        timeout = PASS_INTERVAL_SEC
        if self._plan is not None and self._plan.wake_in_sec is not None:
            timeout = min(timeout, self._plan.wake_in_sec)
        try:
            # Not wait_for(): before Python 3.12 it loses a cancellation that meets with the event.
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return

    def _summary(self) -> str:
        if self._target is None:
            error = self._config_error.splitlines()[:1]
            return f"no configuration in force: {error[0]}" if error else ""
        routed = len(self._plan.in_rotation) if self._plan is not None else 0
        text = f"{routed} of {len(self._target.wanted)} instances in rotation"
        if self.orders.current.is_paused:
            text = f"paused; {text}"
        return f"{text}; the configuration on disk is not valid" if self._config_error else text
