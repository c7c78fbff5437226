# SPDX-License-Identifier: Apache-2.0
"""Asks every source once and puts the answers together; a source that fails is a fact, not an exception."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ovms_scaler.core.facts import ExecFacts, Facts, InstanceFacts, ProxyFacts, UnitFacts
from ovms_scaler.core.instance import unit_name
from ovms_scaler.core.rotation import routed_now
from ovms_scaler.core.target import Target
from ovms_scaler.daemon import started
from ovms_scaler.daemon.ends import Ends
from ovms_scaler.daemon.health import HealthWatch
from ovms_scaler.daemon.origins import Origins
from ovms_scaler.daemon.ports import ProxyPort, Units
from ovms_scaler.daemon.proxy_watch import ProxyWatch
from ovms_scaler.daemon.started import PROXY_UNIT, TARGET_UNIT
from ovms_scaler.daemon.wedges import Wedges
from ovms_scaler.errors import HostError
from ovms_scaler.host.processes import read_connections, read_process
from ovms_scaler.host.render_nodes import read_identities
from ovms_scaler.host.store import Store
from ovms_scaler.host.systemd_view import Seen

PATTERN = "ovms@*.service"


@dataclass(slots=True, kw_only=True)
class Memory:
    """What the shell knows of its own deeds; times are time.monotonic() seconds."""

    jobs: set[str] = field(default_factory=set)
    start_errors: dict[str, tuple[str, float]] = field(default_factory=dict)
    proxy_error: str = ""
    proxy_refused: str = ""
    refused_at: float = float("-inf")
    reloaded_at: float = float("-inf")
    exec: dict[str, tuple[str, ExecFacts]] = field(default_factory=dict)


class Observer:
    """Reads the world for one pass."""

    def __init__(
        self,
        *,
        units: Units,
        proxy: ProxyPort,
        store: Store,
        health: HealthWatch,
        memory: Memory,
        wedges: Wedges,
        ends: Ends,
        proxy_uid: int | None,
        root: Path = Path("/"),
    ) -> None:
        """``proxy_uid`` owns the connections that count when an instance drains."""
        self._units = units
        self._proxy = proxy
        self._store = store
        self._health = health
        self._memory = memory
        self._wedges = wedges
        self._ends = ends
        self._origins = Origins(store, root)
        self._proxy_uid = proxy_uid
        self._root = root
        self.proxy_watch = ProxyWatch(root)
        self.problems: list[str] = []
        self._has_looked = False
        self._last = Seen(units={}, since_sec=0.0)

    async def observe(self, target: Target) -> Facts:
        """One look at everything. What could not be read is listed in ``problems`` until the next look."""
        self.problems = []
        facts = await self._look(target)
        self._has_looked = True
        return facts

    async def _look(self, target: Target) -> Facts:
        # Before the units: of a proxy that is stopped meanwhile it is then known that it was stopped.
        generation = await self._proxy.read_generation()
        names, observed = await self._read_units(target)
        units = observed.units
        switch = units.get(TARGET_UNIT)
        activation = switch.invocation_id if switch is not None else ""
        seen = started.look(
            self._store,
            units.values() if switch is not None else (),  # else what is known of them is old
            activation=activation,
            devices={
                wanted.instance.unit: read_identities(wanted.instance.render_nodes, self._root)
                for wanted in target.wanted.values()
                if wanted.instance.gpus
            },
            stopping={unit_name(name) for name in self._memory.jobs},
        )
        self.problems += seen.problems
        here = [units[unit] for unit in map(unit_name, names) if unit in units]
        self._ends.look(here, now_sec=time.monotonic())
        instances = {
            name: await self._read_instance(name, units.get(unit_name(name)), seen) for name in names
        }
        for name, outlived in self._origins.look(target.wanted, units).items():
            instances[name] = replace(instances[name], outlived=outlived)
        proxy = self._read_proxy(units.get(PROXY_UNIT), generation, seen)
        self._forget_pulled_out(target)
        if nonsense := self._health.describe_nonsense():
            self.problems.append(nonsense)
        now = time.monotonic()
        facts = Facts(
            instances=instances,
            target=switch,
            target_started=TARGET_UNIT in seen.started,
            proxy=self.proxy_watch.look(proxy, shutdown_timeout_sec=target.proxy.shutdown_timeout_sec),
            since_reload_sec=now - self._memory.reloaded_at,
            since_refusal_sec=now - self._memory.refused_at,
            wedges=self._wedges.read(),
            now_sec=now,
            observed_sec=observed.since_sec,
        )
        return self._with_connections(self._follow(facts, target), target)

    async def _read_units(self, target: Target) -> tuple[list[str], Seen]:
        names = set(target.wanted)
        try:
            names |= self._store.list_instances()
            units = [*map(unit_name, sorted(names)), TARGET_UNIT, PROXY_UNIT]
            self._last = await self._units.look(units, [PATTERN])
        except HostError as error:
            self.problems.append(error.message)
            # What was seen last serves to go on routing by; without the target nothing is started.
            old = {unit: one for unit, one in self._last.units.items() if unit != TARGET_UNIT}
            return sorted(names), replace(self._last, units=old)
        listed = self._last.units.keys() - {TARGET_UNIT, PROXY_UNIT}
        names |= {unit.removeprefix("ovms@").removesuffix(".service") for unit in listed}
        return sorted(names), self._last

    def _forget_pulled_out(self, target: Target) -> None:
        """One that is being recovered may be away for a moment."""
        gone = {
            address
            for name, wanted in target.wanted.items()
            if name not in self._memory.jobs
            for address in wanted.instance.missing_gpus
        }
        self._wedges.forget_pulled_out(gone)

    async def _read_instance(self, name: str, unit: UnitFacts | None, seen: started.Seen) -> InstanceFacts:
        files: Mapping[str, str] = {}
        process = None
        try:
            files = self._store.read_instance(name)
            if unit is not None and unit.main_pid:
                process = read_process(unit.main_pid, self._root)
        except HostError as error:
            self.problems.append(error.message)
        message, at = self._memory.start_errors.get(name, ("", float("-inf")))
        return InstanceFacts(
            unit=unit,
            exec=await self._read_exec(name, unit),
            process=process,
            files=files,
            started=unit_name(name) in seen.started,
            has_lost_device=unit_name(name) in seen.lost_device,
            job=name in self._memory.jobs,
            repairs=self._ends.repairs(unit_name(name)),
            crashes=self._ends.crashes(unit_name(name)),
            start_error=message,
            since_start_sec=time.monotonic() - at,
        )

    async def _read_exec(self, name: str, unit: UnitFacts | None) -> ExecFacts | None:
        """What systemd understood, read once for each invocation: its files do not change while it runs."""
        if unit is None or unit.active_state != "active" or not unit.invocation_id:
            return None
        if not self._has_looked:
            return None  # nothing joins at the first look, and an agent that returns is ready the sooner
        invocation, known = self._memory.exec.get(name, ("", None))
        if known is not None and invocation == unit.invocation_id:
            return known
        try:
            understood = await self._units.read_exec(unit.unit)
        except HostError as error:
            self.problems.append(error.message)
            return None
        self._memory.exec[name] = (unit.invocation_id, understood)
        return understood

    def _read_proxy(self, unit: UnitFacts | None, generation: str | None, seen: started.Seen) -> ProxyFacts:
        files: Mapping[str, str] = {}
        try:
            files = self._proxy.read().files
        except HostError as error:
            self.problems.append(error.message)
        return ProxyFacts(
            files=files,
            generation=generation,
            unit=unit,
            started=PROXY_UNIT in seen.started,
            error=self._memory.proxy_error,
            refused=self._memory.proxy_refused,
        )

    def _follow(self, facts: Facts, target: Target) -> Facts:
        """Have every running engine watched, those in rotation as ones that serve already."""
        running = {
            name: (wanted, unit.invocation_id)
            for name, wanted in target.wanted.items()
            if (unit := facts.instances[name].unit) is not None and unit.active_state == "active"
        }
        if facts.target is not None:  # else nothing is known, and who is watched stays watched
            self._health.follow(running, target.health, warmed=frozenset(routed_now(facts)))
        instances = {
            name: replace(own, health=self._health.read(name)) for name, own in facts.instances.items()
        }
        return replace(facts, instances=instances)

    def _with_connections(self, facts: Facts, target: Target) -> Facts:
        """Count connections of instances that run out of rotation: one of them may drain."""
        routed = routed_now(facts)
        ports = {
            name: port
            for name in facts.instances
            if (port := target.books.ports.get(name)) is not None
            and name not in routed
            and (unit := facts.instances[name].unit) is not None
            and unit.is_running
        }
        if not ports:
            return facts
        try:
            counts = read_connections(ports.values(), self._root, uid=self._proxy_uid)
        except HostError as error:
            self.problems.append(error.message)
            return facts
        counted = {
            name: replace(facts.instances[name], connections=counts[port]) for name, port in ports.items()
        }
        return replace(facts, instances={**facts.instances, **counted})
