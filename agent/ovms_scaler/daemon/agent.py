# SPDX-License-Identifier: Apache-2.0
"""The loop: observe, plan, apply, and again when something happened or some time has passed."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import structlog

from ovms_scaler.core.device_event import DeviceEvent
from ovms_scaler.core.facts import Facts
from ovms_scaler.core.plan import Plan, plan
from ovms_scaler.core.spec import GpuRules
from ovms_scaler.core.status import Document, status_document
from ovms_scaler.core.tally import Tally
from ovms_scaler.core.target import Target
from ovms_scaler.daemon.admin import Admin
from ovms_scaler.daemon.apply import Applier
from ovms_scaler.daemon.changes import Changes
from ovms_scaler.daemon.intent import Intent, Resolve
from ovms_scaler.daemon.observe import Observer
from ovms_scaler.daemon.orders import OrderDesk, View
from ovms_scaler.daemon.wedges import Wedges
from ovms_scaler.errors import DeadlineError
from ovms_scaler.host.notify import Notifier
from ovms_scaler.host.store import Store

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

# What no event tells (a file changed by hand, a model that appeared) is noticed within this time.
PASS_INTERVAL_SEC = 10.0
# What an action failed at (a full disk, a systemd that does not answer) is not gone in an instant.
FAILED_PASS_SEC = 1.0
# Beyond any job that a pass waits for (host/systemd.JOB_SEC, twice: a reload and going back).
LONGEST_PASS_SEC = 300.0


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
        list_silent: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        """``resolve`` and ``list_silent`` as in Intent."""
        self._config_file = config_file
        self._observer = observer
        self._applier = applier
        self._wedges = wedges
        self._notifier = notifier
        self._admin = admin
        self._tally = tally
        self._intent = Intent(
            config_file=config_file,
            resolve=resolve,
            store=store,
            took=self._note_target,
            wake=self.wake,
            list_silent=list_silent,
        )
        self._facts = Facts()
        self._plan: Plan | None = None
        self._changes = Changes()
        self._is_reloaded = False
        self._failures: tuple[str, ...] = ()
        self._pass_began = time.monotonic()
        self._wake = asyncio.Event()
        self.orders = OrderDesk(store, applier, self.view, self.wake)

    def wake(self, _unit: str = "") -> None:
        """Have the next pass begin at once, or right after the one under way."""
        self._wake.set()

    def note_devices(self) -> None:
        """Have the machine looked at anew, as something about its devices changed."""
        self._intent.note_devices()

    def poll_devices(self) -> None:
        """Look at the machine anew in every pass, as nobody tells of changes."""
        self._intent.poll_devices()

    def note_hang(self, event: DeviceEvent) -> None:
        """Take in that a GPU hangs."""
        rules = self._target.gpu if self._target is not None else GpuRules()
        self._wedges.note_hang(event, window_sec=rules.recovery_window_sec)
        self.wake()

    def load(self) -> None:
        """As ``Intent.load``."""
        self._intent.load()

    async def reload(self, *, allow_outage: bool) -> None:
        """As ``Intent.reload``; what the proxy refused before is tried again."""
        self._notifier.reloading()
        try:
            await self._intent.reload(allow_outage=allow_outage)
        finally:
            self._notifier.ready(self._summary())
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
        self._begin_pass()
        await self._observe()
        self._notifier.ready(self._summary())
        while True:
            await self._act()
            self._tally.passes.note(time.monotonic() - self._pass_began)
            self._notifier.watchdog()
            self._notifier.status(self._summary())
            await self._wait()
            self._begin_pass()
            await self._intent.look_again()
            await self._observe()

    def _begin_pass(self) -> None:
        """Whatever happens from now on may be too late for this pass."""
        self._pass_began = time.monotonic()
        self._wake.clear()

    def wanted_count(self) -> int:
        """Instances that the configuration in force asks for."""
        return len(self._target.wanted) if self._target is not None else 0

    def document(self) -> Document:
        """The status, as ``ovms-scalerctl status --json`` prints it."""
        intent = self._intent
        errors = (self.orders.problem, intent.accepted.problem, *intent.problems, self._admin.problem)
        problems = [*self._observer.problems, *filter(None, errors), *self._failures]
        return status_document(
            self._target,
            self._facts,
            self._plan,
            self._changes.since,
            config_file=str(self._config_file),
            config_error=str(intent.error or ""),
            problems=tuple(dict.fromkeys(problems)),
            observed_sec=self._facts.observed_sec,
        )

    def view(self) -> View:
        """What is wanted, and what was seen of it last."""
        verdicts = dict(self._plan.verdicts) if self._plan is not None else {}
        return View(target=self._target, facts=self._facts, verdicts=verdicts)

    @property
    def _target(self) -> Target | None:
        return self._intent.target

    def _note_target(self, target: Target, *, planned: bool) -> None:
        self._admin.want(target.admin.listen)
        if planned:
            self.orders.forget_others(target.wanted)
        self.wake()

    async def _observe(self) -> None:
        began_sec = time.monotonic()
        target = self._target
        if target is None:
            self._facts = Facts(orders=self.orders.current, observed_sec=began_sec)
            return
        facts = await self._observer.observe(target)
        if target is not self._target:  # there was a reload meanwhile
            await self._observe()
            return
        self._facts = replace(facts, orders=self.orders.settle(facts))
        if self._is_reloaded and facts.target is not None:
            self._is_reloaded = False
            orders = self.orders.renew(target, self._facts, allow_outage=self._intent.accepted.allows_outage)
            self._facts = replace(self._facts, orders=orders)
        self._intent.accepted.settle(target, self._facts)
        self._plan = plan(target, self._facts, allow_outage=self._intent.accepted.allows_outage)
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
        error = self._intent.error
        if self._target is None:
            why = (*self._intent.problems, *str(error or "").splitlines()[:1])
            return f"no configuration in force: {why[0]}" if why else ""
        routed = len(self._plan.in_rotation) if self._plan is not None else 0
        text = f"{routed} of {len(self._target.wanted)} instances in rotation"
        if self.orders.current.is_paused:
            text = f"paused; {text}"
        if error is None:
            return text
        taken = "taken" if isinstance(error, DeadlineError) else "valid"
        return f"{text}; the configuration on disk is not {taken}"
