# SPDX-License-Identifier: Apache-2.0
"""A host in memory whose GPUs are pulled out, put back, hang and are recovered."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace

import world
from world import World

from ovms_scaler.core import actions
from ovms_scaler.core.books import Books
from ovms_scaler.core.facts import Facts, Health, Probe, UnitFacts
from ovms_scaler.core.instance import unit_name
from ovms_scaler.core.plan import Plan
from ovms_scaler.core.proxy_plan import RETRY_SEC
from ovms_scaler.core.target import Target, resolve
from ovms_scaler.core.topology import Gpu
from ovms_scaler.core.wedge import Wedge, note_failed, note_hang, note_recovered, start_over

Pool = Mapping[str, object]
CPU: Pool = {"name": "cpu", "listen": "8001"}
GPU: Pool = {"placement": "gpu"}
PAIRS: Pool = {"name": "pairs", "placement": "hetero", "listen": "9002", "nodes": "1"}
A, B, C, D = "0000:03:00.0", "0000:04:00.0", "0000:83:00.0", "0000:84:00.0"
CARDS = (world.gpu(A, 0), world.gpu(B, 0), world.gpu(C, 1), world.gpu(D, 1))


class GpuWorld(World):
    """A World with GPUs, together with what the agent remembers of them.

    ``wanted`` is the target of the last look at the devices. ``away`` are cards that are not plugged,
    ``broken`` those that no recovery helps. With ``slow`` jobs do not end before ``finish_jobs``. Once
    ``touched`` is a set, nothing may be done to an instance that is not in it: those whose card saw anything
    are put there. ``lost`` run although their card was taken away.
    """

    def __init__(self, *pools: Pool, gpus: Iterable[Gpu] = CARDS, rules: Pool | None = None) -> None:
        super().__init__()
        self.spec = world.spec(*pools, gpu=rules or {})
        self.topology = world.topology(cores=8)
        self.cards = {gpu.address: gpu for gpu in gpus}
        self.away: set[str] = set()
        self.broken: set[str] = set()
        self.lost: set[str] = set()
        self.jobs: dict[str, actions.Action] = {}
        self.slow = False
        self.touched: set[str] | None = None
        self.wedges: dict[str, Wedge] = {}
        self.now_sec = 1000.0
        self._renders = itertools.count(128)
        for address in self.cards:
            self._renumber(address)
        self.wanted = self.look(planned=True)

    # What happens to the devices

    def look(self, *, planned: bool = False) -> Target:
        """The agent looks at the devices, or takes its configuration anew."""
        books = self.wanted.books if hasattr(self, "wanted") else Books()
        there = tuple(gpu for address, gpu in self.cards.items() if address not in self.away)
        models = {pool.name: world.model() for pool in self.spec.pool}
        self.wanted = resolve(self.spec, replace(self.topology, gpus=there), models, books, planned=planned)
        return self.wanted

    def pull(self, address: str, *, is_stopped: bool = True) -> None:
        """A card goes; systemd stops its unit at once, or not yet."""
        self.away.add(address)
        for name in self._touch(address):
            if self._is_running(name):
                self.lost.add(name)
                if is_stopped:
                    self.stop_lost(name)

    def plug(self, address: str) -> None:
        """It is back, under another number."""
        if address in self.away:
            self._touch(address)
            self.away.discard(address)
            self._renumber(address)

    def stop_lost(self, name: str) -> None:
        """systemd stops a unit whose device has gone, which is no stop by the administrator."""
        if name in self.lost:
            self.started.discard(name)
            self.end(name, state="inactive")

    def hang(self, address: str, *methods: str) -> None:
        """The kernel reports it; no methods are a coredump."""
        if address not in self.away:
            self._touch(address)
            self.wedges[address] = note_hang(
                self.wedges.get(address),
                methods=methods,
                detail="hung",
                now_sec=self.now_sec,
                window_sec=600,
            )

    def stop_by_hand(self, name: str) -> None:
        if self._is_running(name) and name not in self.jobs:
            self._touch_instance(name)
            self.end(name, state="inactive")

    def fail(self, name: str) -> None:
        """It crashes until systemd gives it up."""
        if self._is_running(name) and name not in self.jobs:
            self._touch_instance(name)
            self.end(name, state="failed", result="start-limit-hit")

    def reload(self) -> None:
        """ovms-scalerctl reload, with the configuration as it was."""
        again = {address: start_over(one) for address, one in self.wedges.items()}
        self.wedges = {address: one for address, one in again.items() if one is not None}
        self.look(planned=True)

    def restart_agent(self) -> None:
        """It comes back when what it asked systemd for has happened, and has seen no engine yet."""
        self.finish_jobs()
        routed = self.routed(self.wanted)
        self.health = {
            name: Health(
                invocation_id=health.invocation_id,
                probe=Probe.available if name in routed else Probe.refused,
                warmed=health.warmed and name in routed,
            )
            for name, health in self.health.items()
        }
        self.look()

    def instance_of(self, address: str) -> str:
        """The instance that a card belongs to."""
        (name,) = (name for name, one in self.wanted.wanted.items() if address in one.instance.gpus)
        return name

    def hanging(self) -> set[str]:
        """Cards that hang, as far as anybody told."""
        return {address for address, one in self.wedges.items() if not one.is_recovered}

    # What the agent sees and does

    def facts(self, wanted: Target) -> Facts:
        for name, one in wanted.wanted.items():
            if name not in self.jobs:
                gone = self.hanging().intersection(one.instance.missing_gpus)
                self.wedges = {address: kept for address, kept in self.wedges.items() if address not in gone}
        facts = super().facts(wanted)
        instances = {
            name: replace(own, job=name in self.jobs, has_lost_device=name in self.lost)
            for name, own in facts.instances.items()
        }
        return replace(facts, instances=instances, wedges=dict(self.wedges), now_sec=self.now_sec)

    def step(
        self, wanted: Target, *, allow_outage: bool = False, interrupt_after: int | None = None
    ) -> Plan:
        planned = super().step(wanted, allow_outage=allow_outage, interrupt_after=interrupt_after)
        # Whatever is in rotation after a whole pass can answer.
        can_act = not self.orders.is_paused and self.since_refusal_sec >= RETRY_SEC
        if interrupt_after is None and can_act and self.target.active_state == "active":
            out = {name for name in self.routed(wanted) if self._cannot_answer(name, wanted)}
            self._require(not out, f"{out} stay in rotation")
        return planned

    def apply(self, action: actions.Action, wanted: Target) -> None:
        name = getattr(action, "instance", "")
        if name and self.touched is not None:
            self._require(name in self.touched, f"{action.describe()}, to which nothing happened")
        self._require(name not in self.jobs, f"{action.describe()} during a job")
        match action:
            case actions.Start():
                self._require_undrained(action)
                self._require(not self._cannot_answer(name, wanted), f"{action.describe()} on a bad GPU")
                self._require(self.files.get(name) == wanted.wanted[name].files, f"{name} has old files")
                self._job(action, wanted)
            case actions.Stop():
                self._stop(action, wanted)
            case actions.Recover():
                self._require(not self._is_running(name), f"{action.describe()} while it is used")
                self._require(action.address in self.hanging(), f"{action.describe()} without need")
                self._job(action, wanted)
            case _:
                super().apply(action, wanted)

    def finish_jobs(self) -> None:
        jobs, self.jobs = self.jobs, {}
        for action in jobs.values():
            self._finish(action, self.wanted)

    def settle(self, wanted: Target | None = None, *, allow_outage: bool = False, at_most: int = 200) -> int:
        """Passes until there is nothing to do and nothing to wait for, time passing as needed."""
        for number in range(at_most):
            current = wanted or self.wanted
            planned = self.step(current, allow_outage=allow_outage)
            had_jobs = bool(self.jobs)
            self.finish_jobs()
            loading = [name for name, health in self.health.items() if not health.warmed]
            for name in loading:
                self.load(name)
            if not planned.actions and not loading and not had_jobs:
                if planned.wake_in_sec is None:
                    return number
                self.now_sec += planned.wake_in_sec
                self.since_reload_sec = float("inf")
        raise world.BrokenInvariantError(f"never settles; last: {self.log[-10:]}")

    def _stop(self, action: actions.Stop, wanted: Target) -> None:
        name = action.instance
        self._require(name not in self.routed(wanted), f"{action.describe()} while it is routed")
        gpus = wanted.wanted[name].instance.gpus if name in wanted.wanted else ()
        hangs = [self.wedges[one] for one in gpus if one in self.hanging()]
        patience_sec = self.spec.gpu.drain_timeout_sec
        if hangs and all(one.method == "restart" for one in hangs) and name not in self.lost:
            is_over = any(self.now_sec - one.at_sec >= patience_sec for one in hangs)
            self._require(is_over or not self.connections.get(name), f"{action.describe()} while in use")
        elif not self._cannot_answer(name, wanted):
            in_use = self.connections.get(name) and not action.at_once
            self._require(not in_use, f"{action.describe()} while in use")
            self._require_ill(action)
        self.started.discard(name)
        self.units[name] = replace(self.units[name], active_state="deactivating")
        self._job(action, wanted)

    def _job(self, action: actions.Start | actions.Stop | actions.Recover, wanted: Target) -> None:
        self.log.append(action.describe())
        if self.slow:
            self.jobs[action.instance] = action
        else:
            self._finish(action, wanted)

    def _finish(self, action: actions.Action, wanted: Target) -> None:
        match action:
            case actions.Start() if action.instance in wanted.wanted:
                gpus = wanted.wanted[action.instance].instance.gpus
                if not self.away.intersection(gpus):  # else its device unit fails, and so does the start
                    self._start(action, wanted)
                    self.connections.pop(action.instance, None)
            case actions.Stop():
                self.end(action.instance, state="inactive")
            case actions.Recover():
                self._recover(action)
            case _:
                pass

    def _recover(self, action: actions.Recover) -> None:
        known = self.wedges.get(action.address)
        if known is None:
            return
        if action.address in self.broken | self.away:
            self.wedges[action.address] = note_failed(known, "did not help", now_sec=self.now_sec)
            return
        self.wedges[action.address] = note_recovered(known)
        self.started.discard(action.instance)
        if unit_of(self, action.instance).active_state == "failed":
            self.end(action.instance, state="inactive")
        if action.method != "restart":
            self._renumber(action.address)
            self.look()

    def end(self, name: str, *, state: str, result: str = "success") -> None:
        super().end(name, state=state, result=result)
        self.lost.discard(name)

    # Helpers

    def _cannot_answer(self, name: str, wanted: Target) -> bool:
        if name not in wanted.wanted:
            return False
        one = wanted.wanted[name].instance
        return one.is_waiting or name in self.lost or bool(self.hanging().intersection(one.gpus))

    def _renumber(self, address: str) -> None:
        self.cards[address] = replace(
            self.cards[address], render_node=f"/dev/dri/renderD{next(self._renders)}"
        )

    def _touch(self, address: str) -> list[str]:
        names = [name for name, one in self.wanted.wanted.items() if address in one.instance.gpus]
        for name in names:
            self._touch_instance(name)
        return names

    def _touch_instance(self, name: str) -> None:
        if self.touched is not None:
            self.touched.add(name)


def unit_of(host: World, name: str) -> UnitFacts:
    """Its unit as it is now."""
    return host.units.get(
        name,
        UnitFacts(unit=unit_name(name), load_state="loaded", active_state="inactive", sub_state="dead"),
    )
