# SPDX-License-Identifier: Apache-2.0
"""A host in memory that obeys actions: every plan is replayed against it and must keep its invariants."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import md5
from typing import Any

from ovms_scaler.core import actions
from ovms_scaler.core.books import Books
from ovms_scaler.core.facts import (
    ExecFacts,
    Facts,
    Health,
    InstanceFacts,
    Probe,
    ProcessFacts,
    ProxyFacts,
    UnitFacts,
)
from ovms_scaler.core.instance import unit_name
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.ordering import settle
from ovms_scaler.core.orders import Drain, Orders, Restart
from ovms_scaler.core.plan import Plan, plan
from ovms_scaler.core.proxy_plan import RETRY_SEC
from ovms_scaler.core.repair import CRASHES
from ovms_scaler.core.rotation import routed_now
from ovms_scaler.core.route import add_generation
from ovms_scaler.core.rules import parse_spec
from ovms_scaler.core.spec import Spec
from ovms_scaler.core.table import Reader
from ovms_scaler.core.target import Target, Wanted, resolve
from ovms_scaler.core.topology import Gpu, Node, Topology
from ovms_scaler.core.unit import drop_in_path, parse_cpus

ALL_CPUS = frozenset(range(8))


def topology(nodes: int = 2, *, cores: int = 2, gpus: Iterable[Gpu] = ()) -> Topology:
    """Nodes of two cores or more, of two threads each: CPUs 0-3 are node 0's, 4-7 node 1's, and so on."""
    size = 2 * cores
    cpus = {number: frozenset(range(size * number, size * number + size)) for number in range(nodes)}
    everything = frozenset(range(size * nodes))
    return Topology(
        nodes=tuple(Node(id=number, cpus=own, memory_bytes=2**36) for number, own in cpus.items()),
        cores=tuple(frozenset({cpu, cpu + 1}) for cpu in range(0, size * nodes, 2)),
        online=everything,
        allowed=everything,
        allowed_memory_nodes=frozenset(range(nodes)),
        cpu_flags=frozenset({"amx_bf16"}),
        gpus=tuple(gpus),
    )


def gpu(address: str, node: int | None = 0, *, render: int | None = 128, **facts: Any) -> Gpu:
    """A discrete GPU of Intel's that works; ``render`` is the number of its node, None for none."""
    good = Gpu(
        address=address,
        render_node=None if render is None else f"/dev/dri/renderD{render}",
        vendor_id="0x8086",
        device_id="0xe20b",
        driver="xe",
        numa_node=node,
        integrated=False,
        memory_bytes=12 * 2**30,
        accessible=None if render is None else True,
    )
    return replace(good, **facts)


def spec(*pools: Mapping[str, object], **tables: object) -> Spec:
    """A configuration in which what a pool must have has a default."""
    defaults = {"name": "chat", "model_name": "org/tiny", "model_path": "/srv/models/tiny"}
    document = {"pool": [{**defaults, **pool} for pool in pools], **tables}
    return parse_spec(document, Reader(lambda _: "config.toml"))


def model(**facts: Any) -> ModelFacts:
    """A model that can be served and asked for text."""
    good = ModelFacts(path="/srv/models/tiny", kind=ModelKind.llm, weights_bytes=2**20, generates=True)
    return replace(good, **facts)


def target(*pools: Mapping[str, object], nodes: int = 2, books: Books | None = None) -> Target:
    wanted = spec(*(pools or ({},)))
    models = {pool.name: model() for pool in wanted.pool}
    return resolve(wanted, topology(nodes), models, books or Books())


class BrokenInvariantError(AssertionError):
    """A plan would have done harm."""


class World:
    """Instances, files, the proxy and ovms.target; time stands still unless a test moves it."""

    def __init__(self) -> None:
        self.units: dict[str, UnitFacts] = {}
        self.files: dict[str, dict[str, str]] = {}
        self.cpus: dict[str, frozenset[int]] = {}
        self.argv: dict[str, tuple[str, ...]] = {}
        self.health: dict[str, Health] = {}
        self.connections: dict[str, int] = {}
        self.started: set[str] = set()
        self.target = UnitFacts(
            unit="ovms.target", load_state="loaded", active_state="inactive", sub_state="dead"
        )
        self.target_started = False
        self.proxy = ProxyFacts(
            unit=UnitFacts(
                unit="ovms-scaler-proxy.service",
                load_state="loaded",
                active_state="inactive",
                sub_state="dead",
            )
        )
        self.since_reload_sec = float("inf")
        self.since_refusal_sec = float("inf")
        self.orders = Orders()
        self.repairs: dict[str, tuple[float, ...]] = {}
        self.crashes: dict[str, tuple[float, ...]] = {}
        self.refuses = False  # the proxy takes nothing
        self.now_sec = 0.0
        self.log: list[str] = []
        self._starts = 0

    def facts(self, wanted: Target) -> Facts:
        names = self.units.keys() | self.files.keys() | wanted.wanted.keys()
        return Facts(
            instances={name: self._instance(name, wanted.wanted.get(name)) for name in sorted(names)},
            target=self.target,
            target_started=self.target_started,
            proxy=self.proxy,
            since_reload_sec=self.since_reload_sec,
            since_refusal_sec=self.since_refusal_sec,
            orders=self.orders,
            now_sec=self.now_sec,
        )

    def _instance(self, name: str, wanted: Wanted | None) -> InstanceFacts:
        unit = self.units.get(name, _unit(name))
        running = unit.active_state == "active"
        understood = process = None
        if running:
            process = ProcessFacts(
                pid=unit.main_pid, cpus_allowed=self.cpus[name], memory_nodes_allowed=frozenset(range(8))
            )
        if running and wanted is not None:
            instance = wanted.instance
            understood = ExecFacts(
                cpu_affinity=self.cpus[name],
                numa_policy=instance.memory.value if instance.memory else "default",
                numa_mask=instance.memory_nodes,
                allowed_cpus=self.cpus[name],
                allowed_memory_nodes=instance.memory_nodes,
                argv=self.argv.get(name, wanted.argv),
                drop_in_paths=(),
            )
        return InstanceFacts(
            unit=unit,
            exec=understood,
            process=process,
            health=self.health.get(name),
            files=self.files.get(name, {}),
            started=name in self.started,
            connections=self.connections.get(name, 0),
            repairs=self.repairs.get(name, ()),
            crashes=self.crashes.get(name, ()),
        )

    def apply(self, action: actions.Action, wanted: Target) -> None:
        """Carry out one action. Raises BrokenInvariantError when it must not have been planned."""
        self._require(not self.orders.is_paused, f"{action.describe()} while the agent is paused")
        self.log.append(action.describe())
        match action:
            case actions.StartTarget():
                self.target = replace(self.target, active_state="active")
                self.target_started = True
            case actions.Write():
                self._require(not self._is_running(action.instance), f"{action.describe()} while it runs")
                self.files[action.instance] = dict(action.files)
            case actions.Remove():
                self._require(not self._is_running(action.instance), f"{action.describe()} while it runs")
                self.files.pop(action.instance, None)
            case actions.Start():
                self._require_undrained(action)
                self._start(action, wanted)
            case actions.Stop():
                self._stop(action, wanted)
            case actions.Kill():
                self._kill(action, wanted)
            case actions.InstallProxy():
                self._install(action, wanted)

    def _require_undrained(self, action: actions.Start) -> None:
        self._require(action.instance not in self.orders.drained, f"{action.describe()} although drained")

    def _start(self, action: actions.Start, wanted: Target) -> None:
        instance = wanted.wanted[action.instance].instance
        self._require(action.instance in self.files, f"{action.describe()} without files")
        own = instance.cpus or ALL_CPUS
        for other in self.units.keys() - {action.instance}:
            if self._is_running(other):
                self._require(not self._read_cpus(other) & own, f"{action.describe()} on CPUs of {other}")
        self.argv[action.instance] = wanted.wanted[action.instance].argv
        self.run(action.instance, own)

    def _read_cpus(self, name: str) -> frozenset[int]:
        """Where it runs, or will when systemd starts it again."""
        text = self.files.get(name, {}).get(drop_in_path(name), "")
        return self.cpus.get(name) or parse_cpus(text) or frozenset()

    def _stop(self, action: actions.Stop, wanted: Target) -> None:
        name = action.instance
        self._require(name not in self.routed(wanted), f"{action.describe()} while it is routed")
        in_use = self.connections.get(name) and not action.at_once
        self._require(not in_use, f"{action.describe()} while in use")
        self._require_ill(action)
        self.started.discard(name)
        self.end(name, state="inactive")
        self.connections.pop(name, None)

    def _require_ill(self, action: actions.Stop) -> None:
        well = self._serves(action.instance) and len(self.crashes.get(action.instance, ())) < CRASHES
        self._require(not (action.at_once and well), f"{action.describe()} though it serves")

    def _kill(self, action: actions.Kill, wanted: Target) -> None:
        name = action.instance
        self._require(not self._serves(name), f"{action.describe()} though it serves")
        invocation = self.units[name].invocation_id
        self._require(action.invocation_id == invocation, f"{action.describe()}: another process")
        self._require_others(action, wanted)
        cpus = self.cpus[name]
        self.repairs[name] = (*self.repairs.get(name, ()), self.now_sec)
        self.end(name, state="activating")
        self.run(name, cpus)
        self.connections.pop(name, None)

    def _require_others(self, action: actions.Kill, wanted: Target) -> None:
        """One that is in rotation is killed there only when it is alone, and nobody is on its way."""
        routed, name = self.routed(wanted), action.instance
        if name not in routed or self.since_refusal_sec < RETRY_SEC:
            return  # the proxy cannot be told, and its unit takes it out
        others = set(wanted.upstream_members(wanted.wanted[name].upstream)) - {name}
        self._require(not others & routed, f"{action.describe()} in rotation, beside {others & routed}")
        coming = {other for other in others - self.orders.drained.keys() if self._is_loading(other)}
        self._require(not coming, f"{action.describe()}, the last one, while {coming} load")

    def _is_loading(self, name: str) -> bool:
        unit, health = self.units.get(name), self.health.get(name)
        if unit is None or unit.active_state != "active" or health is None or health.warmed:
            return False
        return self.now_sec - unit.state_change_usec / 1e6 < 10

    def _serves(self, name: str) -> bool:
        health = self.health.get(name)
        return health is not None and health.warmed and health.probe is Probe.available and not health.fault

    def _install(self, action: actions.InstallProxy, wanted: Target) -> None:
        before = routed_now(self.facts(wanted))
        if self.refuses:
            self.proxy = replace(self.proxy, error="refused", refused=action.files.generation)
            self.since_refusal_sec = 0.0
            return
        unit = replace(self.proxy.unit, active_state="active") if self.proxy.unit else None
        self.proxy = ProxyFacts(
            files=dict(action.files.files), generation=action.files.generation, unit=unit, started=True
        )
        self.since_reload_sec = 0.0
        for name in routed_now(self.facts(wanted)).keys() - before.keys():
            self._require(name not in self.orders.drained, f"{name} is routed although drained")
            self._require(self.health[name].warmed, f"{name} is routed before it was warmed")

    def drain(self, *names: str, allow_outage: bool = False) -> None:
        """Have them ordered to be out of use."""
        drained = {name: Drain(since=17.5, allow_outage=allow_outage) for name in names}
        self.orders = replace(self.orders, drained={**self.orders.drained, **drained})

    def restart(self, *names: str, is_rolling: bool = True, allow_outage: bool = False) -> None:
        """Have the processes that run now ordered to end."""
        restarts = {
            name: Restart(
                invocation_id=self.units[name].invocation_id,
                is_rolling=is_rolling,
                allow_outage=allow_outage,
            )
            for name in names
        }
        self.orders = replace(self.orders, restarts={**self.orders.restarts, **restarts})

    def unroute(self, name: str) -> None:
        """What the unit itself does when it stops: its route goes, whether the agent lives or not."""
        kept = {path: text for path, text in self.proxy.files.items() if not path.endswith(f"/{name}.conf")}
        if kept.keys() != self.proxy.files.keys():
            files = add_generation(kept)
            self.proxy = replace(self.proxy, files=dict(files.files), generation=files.generation)

    def run(self, name: str, cpus: frozenset[int]) -> None:
        """Its process starts: the unit is active, nothing is loaded."""
        self._starts += 1
        invocation = md5(f"{name} {self._starts}".encode(), usedforsecurity=False).hexdigest()
        self.units[name] = _unit(
            name,
            active_state="active",
            main_pid=self._starts,
            invocation_id=invocation,
            state_change_usec=int(self.now_sec * 1e6),
        )
        self.cpus[name] = cpus
        self.started.add(name)
        self.health[name] = Health(invocation_id=invocation, probe=Probe.refused, detail="not asked yet")

    def end(self, name: str, *, state: str, result: str = "success") -> None:
        """Its process has gone."""
        self.units[name] = _unit(name, active_state=state, result=result)
        self.cpus.pop(name, None)
        self.health.pop(name, None)
        self.unroute(name)

    def load(self, name: str) -> None:
        """It finishes loading and answers its first generation."""
        self.health[name] = replace(self.health[name], probe=Probe.available, warmed=True, detail="")

    def step(
        self, wanted: Target, *, allow_outage: bool = False, interrupt_after: int | None = None
    ) -> Plan:
        """One pass, of which only the first actions are carried out when it is interrupted."""
        facts = self.facts(wanted)
        self.orders = settle(self.orders, facts)
        planned = plan(wanted, replace(facts, orders=self.orders), allow_outage=allow_outage)
        # None depends on the success of an earlier one.
        stops = {action.instance for action in planned.actions if isinstance(action, actions.Stop)}
        self._require(not stops & self.routed(wanted), f"{stops} are stopped and routed")
        kills = {action.instance for action in planned.actions if isinstance(action, actions.Kill)}
        installs = [action for action in planned.actions if isinstance(action, actions.InstallProxy)]
        leave = {name for action in installs for name in action.removed}
        self._require(not kills & leave, f"{kills & leave} are killed before they can be drained")
        for action in planned.actions[:interrupt_after]:
            self.apply(action, wanted)
        return planned

    def settle(self, wanted: Target, *, allow_outage: bool = False, at_most: int = 200) -> int:
        """Passes until nothing is left to do, every engine loading in between; how many there were."""
        for number in range(at_most):
            planned = self.step(wanted, allow_outage=allow_outage)
            loading = [name for name, health in self.health.items() if not health.warmed]
            for name in loading:
                self.load(name)
            if not planned.actions and not loading:
                if planned.wake_in_sec is None:
                    return number
                self.since_reload_sec = float("inf")
                self.now_sec += planned.wake_in_sec
        raise BrokenInvariantError(f"never settles; last: {self.log[-10:]}")

    def routed(self, wanted: Target) -> set[str]:
        return set(routed_now(self.facts(wanted)))

    def _is_running(self, name: str) -> bool:
        unit = self.units.get(name)
        return unit is not None and unit.is_running

    @staticmethod
    def _require(condition: object, harm: str) -> None:
        if not condition:
            raise BrokenInvariantError(harm)


def _unit(name: str, *, active_state: str = "inactive", **facts: Any) -> UnitFacts:
    unit = UnitFacts(unit=unit_name(name), load_state="loaded", active_state=active_state, sub_state="")
    return replace(unit, **facts)
