# SPDX-License-Identifier: Apache-2.0
"""Whatever happens, in whatever order, and wherever the agent is interrupted: no plan does harm.

The world refuses every action that must not have been planned (``tests/world.py``). Here machines of two to
four instances in one or two upstreams, on CPUs and on GPUs, go through everything that can happen to them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import world
import world_gpus
from hypothesis import example, given, settings
from hypothesis import strategies as st
from world import World
from world_gpus import GpuWorld, Pool

from ovms_scaler.core.facts import Probe
from ovms_scaler.core.ordering import order_undrain
from ovms_scaler.core.orders import Orders
from ovms_scaler.core.repair import CRASHES

CPU: Pool = {"name": "cpu", "listen": "8001"}
HOSTS: dict[str, tuple[Pool, ...]] = {
    "two on CPUs": ({},),
    "two pools on CPUs": ({"nodes": "0", "instances_per_node": 2}, {**CPU, "nodes": "1"}),
    "four in one upstream": ({"instances_per_node": 2, "max_unavailable": 2},),
    "GPUs": (world_gpus.GPU,),
    "GPUs and CPUs behind one URL": (world_gpus.GPU, {"name": "cpu"}),
    "GPUs, and CPUs apart": (world_gpus.GPU, CPU),
}
CHANGES: tuple[Pool, ...] = ({}, {"smt": "physical"}, {"model_name": "org/other"}, {"weight": 3})


class Machine(GpuWorld):
    """A host with its agent, which sees, forgets, is interrupted and comes back."""

    def __init__(self, kind: str) -> None:
        cards = (world_gpus.CARDS[0], world_gpus.CARDS[2]) if "GPU" in kind else ()
        super().__init__(*HOSTS[kind], gpus=cards)
        self.pools = HOSTS[kind]
        self.allows = False
        self.settle()

    @property
    def names(self) -> list[str]:
        return sorted(self.wanted.wanted)

    def act(self, interrupt_after: int | None = None) -> None:
        before = self.routed(self.wanted)
        planned = self.step(self.wanted, allow_outage=self.allows, interrupt_after=interrupt_after)
        assert not (self.orders.is_paused and planned.actions)
        self._keep_the_last(before)

    def _keep_the_last(self, before: set[str]) -> None:
        """No plan empties an upstream in which somebody served, unless that is allowed or its GPU gone."""
        now = self.routed(self.wanted)
        for upstream in {one.upstream for one in self.wanted.wanted.values()}:
            names = set(self.wanted.upstream_members(upstream))
            served = {
                name
                for name in names & before
                if self._serves(name) and not self._cannot_answer(name, self.wanted)
            }
            drains = [one.allow_outage for name, one in self.orders.drained.items() if name in names]
            restarts = [one.allow_outage for name, one in self.orders.restarts.items() if name in names]
            allowed = self.allows or any(drains) or any(restarts)
            self._require(not served or names & now or allowed, f"{upstream}: nobody is left")

    def change(self, number: int) -> None:
        """Another configuration, accepted with or without permission."""
        extra = CHANGES[number % len(CHANGES)]
        self.spec = world.spec(*({**pool, **extra} for pool in self.pools))
        self.allows = number % 8 >= 4
        self.reload()

    def reboot(self) -> None:
        """Nothing runs, /run is empty; the orders and books stay."""
        for name in list(self.units):
            self.end(name, state="inactive")
        self.jobs.clear()
        self.units.clear()
        self.files.clear()
        self.argv.clear()
        self.started.clear()
        self.lost.clear()
        self.connections.clear()
        self.wedges.clear()
        self.target = replace(self.target, active_state="inactive")
        self.target_started = False
        self.proxy = World().proxy
        self.repairs.clear()
        self.crashes.clear()
        self.allows = False
        self.look(planned=True)

    def forget(self) -> None:
        """The agent's notes are gone, as after a read-only /run."""
        self.repairs.clear()
        self.crashes.clear()
        self.since_reload_sec = self.since_refusal_sec = float("inf")

    def crash(self, name: str) -> None:
        """It ends by itself, and systemd starts it again."""
        if self._is_running(name) and name not in self.jobs and name in self.cpus and name not in self.lost:
            cpus = self.cpus[name]
            self.end(name, state="activating")
            self.run(name, cpus)
            self.crashes[name] = (*self.crashes.get(name, ()), self.now_sec)[-CRASHES:]
            self.connections.pop(name, None)
            self.log.append(f"crash {name}")

    def fall_ill(self, number: int, *names: str) -> None:
        """They hang, err, are busy or gone, gave up on a model, or load it again."""
        works = (None, True, False)[number % 3]
        signs: tuple[dict[str, Any], ...] = (
            {"probe": Probe.silent, "failures": 9},
            {"fault": "it errs"},
            {"probe": Probe.refused, "failures": 2},
            {"probe": Probe.failed, "failures": 3},
            {"probe": Probe.loading, "failures": 2},
            {"probe": Probe.silent, "failures": 1},
        )
        changes = {"works": works, "faulty_since_sec": self.now_sec, **signs[number // 3 % len(signs)]}
        for name in names:
            if name in self.health and self.health[name].warmed:
                self.health[name] = replace(self.health[name], **changes)

    def get_ready(self, *names: str) -> None:
        for name in names:
            if name in self.health and not self.health[name].warmed:
                self.load(name)

    def recover(self, name: str) -> None:
        if name in self.health:
            known = self.health[name]
            probe = Probe.available if known.warmed else known.probe
            self.health[name] = replace(known, probe=probe, failures=0, fault="", works=None)

    def order(self, name: str, number: int) -> None:
        allowed = number % 2 == 1
        match number // 2 % 5:
            case 0:
                self.drain(name, allow_outage=allowed)
            case 1:
                self.orders = order_undrain(self.orders, [name])
            case 2 if self._is_running(name):
                self.restart(name, is_rolling=number % 4 < 2, allow_outage=allowed)
            case 3:
                self.orders = replace(self.orders, paused_since=17.5)
            case _:
                self.orders = replace(self.orders, paused_since=None)

    def reset(self, name: str) -> None:
        """ovms-scalerctl reset."""
        self.repairs.pop(name, None)
        self.crashes.pop(name, None)
        if name in self.units and self.units[name].active_state == "failed":
            self.end(name, state="inactive")
            self.started.discard(name)

    def touch_device(self, number: int) -> None:
        addresses = sorted(self.cards)
        if not addresses:
            return
        address = addresses[number % len(addresses)]
        match number // 2 % 5:
            case 0:
                self.pull(address, is_stopped=number % 3 > 0)
            case 1:
                self.plug(address)
            case 2:
                self.hang(address, *(["rebind"], [], ["vendor-specific"])[number % 3])
            case 3:
                self.look()
            case _:
                for name in list(self.lost):
                    self.stop_lost(name)

    def refuse(self, *, is_so: bool) -> None:
        self.refuses = is_so

    def take_long(self, *, is_so: bool) -> None:
        """Whether starts and stops do not end at once."""
        self.slow = is_so
        self.finish_jobs()

    def pass_time(self, number: int) -> None:
        seconds = (1.0, 10.0, 60.0, 700.0, 4000.0)[number % 5]
        self.now_sec += seconds
        self.since_reload_sec += seconds
        self.since_refusal_sec += seconds

    def mend(self) -> None:
        """Nothing is wrong any more, and nobody orders anything."""
        self.orders = Orders()
        self.refuses, self.slow, self.allows = False, False, True
        self.broken.clear()
        for address in list(self.away):
            self.plug(address)
        for name in list(self.lost):
            self.stop_lost(name)
        self.forget()
        self.connections.clear()
        for name in self.names:
            self.recover(name)
            self.reset(name)
            if name in self.units and not self._is_running(name):
                self.started.discard(name)
        self.reload()


HAPPENS: dict[str, Callable[[Machine, str, int], object]] = {
    "act": lambda host, _name, _number: host.act(),
    "interrupted": lambda host, _name, number: host.act(interrupt_after=number % 4),
    "agent comes back": lambda host, _name, _number: host.restart_agent(),
    "reboot": lambda host, _name, _number: host.reboot(),
    "memory is lost": lambda host, _name, _number: host.forget(),
    "time": lambda host, _name, number: host.pass_time(number),
    "load": lambda host, name, _number: host.get_ready(name),
    "all load": lambda host, _name, _number: host.get_ready(*host.health),
    "ill": lambda host, name, number: host.fall_ill(number, name),
    "all ill": lambda host, _name, number: host.fall_ill(number, *host.names),
    "well": lambda host, name, _number: host.recover(name),
    "crash": lambda host, name, _number: host.crash(name),
    "fail": lambda host, name, _number: host.fail(name),
    "stop": lambda host, name, _number: host.stop_by_hand(name),
    "busy": lambda host, name, number: host.connections.update({name: number % 3}),
    "change": lambda host, _name, number: host.change(number),
    "order": lambda host, name, number: host.order(name, number),
    "reset": lambda host, name, _number: host.reset(name),
    "device": lambda host, _name, number: host.touch_device(number),
    "proxy refuses": lambda host, _name, number: host.refuse(is_so=number % 2 == 0),
    "jobs last": lambda host, _name, number: host.take_long(is_so=number % 2 == 0),
}
# Repairs take several of these.
OFTEN = ("ill", "all ill", "time", "time", "act", "all load")
SEQUENCES = st.lists(
    st.tuples(st.sampled_from([*sorted(HAPPENS), *OFTEN, *OFTEN]), st.integers(0, 3), st.integers(0, 40)),
    min_size=15,  # hypothesis draws short lists else
    max_size=40,
)


@pytest.mark.parametrize("kind", HOSTS)
@settings(max_examples=50, deadline=None)
@example(sequence=[("all ill", 0, 0), ("change", 0, 1), ("crash", 2, 0), ("time", 0, 3), ("fail", 1, 0)])
@given(sequence=SEQUENCES)
def test_whatever_happens_no_plan_does_harm_and_in_the_end_all_serve(
    kind: str, sequence: list[tuple[str, int, int]]
) -> None:
    host = Machine(kind)
    for event, which, number in sequence:
        HAPPENS[event](host, host.names[which % len(host.names)], number)
        host.act()
    host.finish_jobs()
    host.mend()
    host.settle(allow_outage=True)
    assert host.routed(host.wanted) == set(host.wanted.wanted)
    assert host.step(host.wanted, allow_outage=True).actions == ()
    assert host.files.keys() == host.wanted.wanted.keys()
