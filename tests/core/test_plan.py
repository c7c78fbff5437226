# SPDX-License-Identifier: Apache-2.0
"""Every plan is replayed in a world in memory, also from each point at which it can be interrupted."""

from dataclasses import replace

import pytest
import world
from hypothesis import given, settings
from hypothesis import strategies as st
from world import World

from ovms_scaler.core.actions import InstallProxy
from ovms_scaler.core.books import Books
from ovms_scaler.core.facts import Facts, InstanceFacts, Probe
from ovms_scaler.core.lifecycle import State
from ovms_scaler.core.plan import plan
from ovms_scaler.core.target import Target, resolve

BOTH = {"chat-numa0", "chat-numa1"}
PHYSICAL = {"smt": "physical"}


def started() -> tuple[World, Target]:
    host, wanted = World(), world.target()
    host.settle(wanted)
    return host, wanted


def test_plan_from_nothing_routes_every_instance_once_warm() -> None:
    host, wanted = World(), world.target()
    host.step(wanted)
    assert host.routed(wanted) == set()
    host.settle(wanted)
    assert host.routed(wanted) == BOTH


def test_plan_when_all_is_right_does_nothing() -> None:
    host, wanted = started()
    assert plan(wanted, host.facts(wanted)).actions == ()


def test_plan_is_the_same_whatever_the_order_of_the_facts() -> None:
    host, wanted = World(), world.target()
    facts = host.facts(wanted)
    backwards = replace(facts, instances=dict(reversed(list(facts.instances.items()))))
    assert plan(wanted, facts) == plan(wanted, backwards)


def test_plan_after_the_agent_was_killed_touches_nothing() -> None:
    host, wanted = started()
    before = len(host.log)
    for name, health in host.health.items():
        # What the returning agent believes of a routed instance until it has asked.
        host.health[name] = replace(health, probe=Probe.available, warmed=True)
    host.settle(wanted)
    assert host.log[before:] == []


def test_plan_without_an_answer_from_systemd_changes_nothing() -> None:
    host, wanted = started()
    silent = Facts(
        instances={name: InstanceFacts(files=own) for name, own in host.files.items()}, proxy=host.proxy
    )
    assert plan(wanted, silent).actions == ()


def test_plan_for_a_crashed_instance_takes_it_out_and_routes_it_again_only_when_warm() -> None:
    host, wanted = started()
    host.end("chat-numa0", state="activating", result="signal")
    host.step(wanted)
    assert host.routed(wanted) == {"chat-numa1"}
    host.run("chat-numa0", wanted.wanted["chat-numa0"].instance.cpus)
    host.step(wanted)
    assert host.routed(wanted) == {"chat-numa1"}
    host.settle(wanted)
    assert host.routed(wanted) == BOTH


def test_plan_for_a_change_rolls_one_instance_at_a_time() -> None:
    host, _ = started()
    changed = world.target(PHYSICAL)
    least = len(BOTH)
    for _ in range(50):
        host.step(changed)
        least = min(least, len(host.routed(changed)))
        for name in [name for name, health in host.health.items() if not health.warmed]:
            host.load(name)
        host.since_reload_sec = float("inf")
    assert least == 1
    assert host.routed(changed) == BOTH
    assert {name: host.cpus[name] for name in BOTH} == {
        name: changed.wanted[name].instance.cpus for name in BOTH
    }


def test_plan_for_a_change_of_the_only_instance_waits_for_permission() -> None:
    host, first = World(), world.target(nodes=1)
    host.settle(first)
    changed = world.target(PHYSICAL, nodes=1)
    planned = host.step(changed)
    assert planned.actions == ()
    assert planned.verdicts["chat-numa0"].state is State.ready
    assert "outage" in planned.verdicts["chat-numa0"].reason
    host.settle(changed, allow_outage=True)
    assert host.cpus["chat-numa0"] == changed.wanted["chat-numa0"].instance.cpus


def test_plan_for_a_change_that_fails_stops_at_the_first_instance() -> None:
    host, _ = started()
    changed = world.target(PHYSICAL)
    for _ in range(20):
        host.step(changed)
        if (failed := next((name for name, one in host.health.items() if not one.warmed), None)) is not None:
            host.end(failed, state="failed", result="exit-code")
    assert len(host.routed(changed)) == 1


def halted() -> tuple[World, Target, str]:
    """A change that failed on the first of two instances, and the other one, which serves."""
    host, _ = started()
    changed = world.target(PHYSICAL)
    while not (new := [name for name, one in host.health.items() if not one.warmed]):
        host.step(changed)
    host.end(new[0], state="failed", result="exit-code")
    host.step(changed)
    (other,) = host.routed(changed)
    return host, changed, other


def test_plan_leaves_one_that_crashes_while_a_change_is_halted_as_it_was() -> None:
    host, changed, other = halted()
    before, cpus = host.files[other], host.cpus[other]
    host.end(other, state="activating")  # and systemd is about to start it again
    for _ in range(3):
        host.step(changed)
    assert host.units[other].active_state == "activating"
    host.run(other, cpus)
    host.argv[other] = changed.wanted[other].argv
    host.settle(changed)
    assert host.routed(changed) == {other}
    assert (host.files[other], host.cpus[other]) == (before, cpus)
    # What mends the first one lets the change go on.
    first = next(name for name in BOTH if name != other)
    host.run(first, changed.wanted[first].instance.cpus)
    host.settle(changed)
    assert host.files[other] == dict(changed.wanted[other].files)
    assert host.routed(changed) == BOTH


def changing(nodes: int = 2) -> tuple[World, Target, str, str]:
    """A change under way: the first instance loads with its new files, another one serves with the old."""
    host = World()
    host.settle(world.target(nodes=nodes))
    changed = world.target(PHYSICAL, nodes=nodes)
    while not (new := [name for name, one in host.health.items() if not one.warmed]):
        host.step(changed)
    return host, changed, new[0], sorted(host.routed(changed))[0]


@pytest.mark.parametrize("state", ["loads", "is in a crash loop", "is ejected"])
def test_plan_changes_nobody_who_crashes_while_the_change_is_unproven(state: str) -> None:
    host, changed, first, other = changing()
    before, cpus = host.files[other], host.cpus[other]
    if state == "is in a crash loop":
        host.end(first, state="activating")
        host.units[first] = replace(host.units[first], restarts=2, sub_state="auto-restart")
    elif state == "is ejected":
        host.load(first)
        host.step(changed)
        host.health[first] = replace(host.health[first], failures=9, probe=Probe.refused)
    host.end(other, state="activating")
    for _ in range(3):
        host.step(changed)
    assert host.files[other] == before
    host.run(other, cpus)
    host.argv[other] = changed.wanted[other].argv
    host.load(other)
    host.step(changed)
    assert other in host.routed(changed)
    # The change goes on when the first one serves.
    if host.units[first].active_state == "activating":
        host.run(first, changed.wanted[first].instance.cpus)
    host.load(first)
    host.health[first] = replace(host.health[first], failures=0)
    host.settle(changed)
    assert host.routed(changed) == BOTH
    assert host.files[other] == dict(changed.wanted[other].files)


def test_plan_changes_as_many_at_once_as_may_be_out() -> None:
    host, changed, first, other = changing(nodes=3)
    several = replace(
        changed,
        wanted={name: replace(one, max_unavailable=2) for name, one in changed.wanted.items()},
    )
    host.end(other, state="activating")
    for _ in range(3):
        host.step(several)
    assert host.files[other] == dict(several.wanted[other].files)
    assert not host.health[first].warmed


def test_plan_starts_nobody_where_systemd_is_about_to_start_another_one() -> None:
    host = World()
    host.settle(world.target(nodes=3))
    first, other, last = sorted(host.units)
    changed = world.target(PHYSICAL, nodes=3)
    moved = replace(changed.wanted[last].instance, cpus=host.cpus[other])
    wanted = {**changed.wanted, last: replace(changed.wanted[last], instance=moved)}
    changed = replace(changed, wanted=wanted)
    host.files |= {name: dict(changed.wanted[name].files) for name in (first, last)}
    host.end(first, state="failed", result="exit-code")
    host.end(last, state="inactive")
    host.started.discard(last)
    host.step(changed)
    assert host.units[last].active_state == "inactive"  # it waits for those cores
    host.end(other, state="activating")
    host.step(changed)
    assert host.units[last].active_state == "inactive"


def test_plan_lets_nobody_join_who_runs_where_neither_its_old_nor_its_new_files_say() -> None:
    host, changed, other = halted()
    host.end(other, state="activating")
    host.run(other, frozenset({0}))
    host.argv[other] = changed.wanted[other].argv
    host.load(other)
    for _ in range(3):
        host.step(changed)
    assert other not in host.routed(changed)


def test_plan_changes_one_that_is_given_up_although_the_change_failed_elsewhere() -> None:
    host, changed, other = halted()
    host.end(other, state="failed", result="exit-code")
    host.settle(changed)
    assert host.files[other] == dict(changed.wanted[other].files)


def test_plan_drains_before_it_stops() -> None:
    host, _ = started()
    changed = world.target(PHYSICAL)
    host.connections = dict.fromkeys(BOTH, 2)
    for _ in range(5):
        planned = host.step(changed)
    assert len(host.routed(changed)) == 1
    assert all(unit.active_state == "active" for unit in host.units.values())
    draining = [verdict for verdict in planned.verdicts.values() if verdict.state is State.draining]
    assert [verdict.reason for verdict in draining] == ["its configuration changed; 2 connections left"]
    assert planned.wake_in_sec == 1.0
    host.connections = {}
    host.settle(changed)
    assert host.routed(changed) == BOTH


SPLIT = {"instances_per_node": 2}


def test_plan_keeps_what_is_no_longer_wanted_until_another_serves_or_an_outage_is_allowed() -> None:
    host, whole = World(), world.target(nodes=1)
    host.settle(whole)
    halves = world.target(SPLIT, nodes=1, books=whole.books)
    host.settle(halves)
    assert host.routed(halves) == {"chat-numa0"}
    planned = host.step(halves)
    assert planned.verdicts["chat-numa0"].state is State.ready
    assert planned.verdicts["chat-numa0"].hint == "ovms-scalerctl reload --allow-outage"
    assert planned.verdicts["chat-numa0.0"].reason == "waits for CPUs 0-1 that chat-numa0 still runs on"
    host.settle(halves, allow_outage=True)
    assert host.routed(halves) == {"chat-numa0.0", "chat-numa0.1"}


def test_plan_replaces_what_is_no_longer_wanted_when_another_serves() -> None:
    host, first = World(), world.target({"nodes": "0"})
    host.settle(first)
    second = world.target({"nodes": "1"}, books=first.books)
    least = 1
    for _ in range(20):
        host.step(second)
        least = min(least, len(host.routed(second)))
        for name in host.health:
            host.load(name)
        host.since_reload_sec = float("inf")
    assert least == 1
    assert host.routed(second) == {"chat-numa1"}


@pytest.mark.parametrize("state", ["deactivating", "inactive"])
def test_plan_leaves_a_proxy_that_the_administrator_stops(state: str) -> None:
    host, wanted = started()
    assert host.proxy.unit is not None
    host.proxy = replace(
        host.proxy, generation=None, unit=replace(host.proxy.unit, active_state=state), started=True
    )
    assert plan(wanted, host.facts(wanted)).actions == ()


def test_plan_forgets_why_a_generation_was_refused_that_is_no_longer_wanted() -> None:
    host, wanted = started()
    changed = world.target({"listen": "8001"})
    (refused,) = (
        action for action in plan(changed, host.facts(changed)).actions if isinstance(action, InstallProxy)
    )
    host.proxy = replace(host.proxy, error="port 8001 is taken", refused=refused.files.generation)
    facts = replace(host.facts(changed), since_refusal_sec=1.0)
    assert plan(changed, facts).actions == ()
    assert plan(changed, facts).proxy_error == "port 8001 is taken"
    assert plan(wanted, facts).proxy_error == ""


def test_plan_leaves_what_the_administrator_stopped() -> None:
    host, wanted = started()
    host.end("chat-numa0", state="inactive")
    host.settle(wanted)
    planned = host.step(wanted)
    assert host.routed(wanted) == {"chat-numa1"}
    assert planned.verdicts["chat-numa0"].state is State.stopped
    assert planned.verdicts["chat-numa0"].hint == "systemctl start ovms@chat-numa0.service"


def test_plan_leaves_everything_when_the_target_was_stopped() -> None:
    host, wanted = started()
    host.target = replace(host.target, active_state="inactive")
    for name in BOTH:
        host.end(name, state="inactive")
    host.settle(wanted)
    planned = host.step(wanted)
    assert planned.actions == ()
    assert {verdict.hint for verdict in planned.verdicts.values()} == {"systemctl start ovms.target"}


@pytest.mark.parametrize("instances", [{"chat-numa0"}, BOTH], ids=["one of two is ill", "all are ill"])
def test_plan_takes_out_the_ill_but_never_the_last(instances: set[str]) -> None:
    host, wanted = started()
    for name in instances:
        host.health[name] = replace(
            host.health[name], failures=3, probe=Probe.silent, detail="no answer in 5 s"
        )
    host.step(wanted)
    assert host.routed(wanted) == (BOTH - instances or BOTH)
    host.settle(wanted)
    assert host.routed(wanted) == BOTH


def test_plan_for_a_removed_pool_drains_stops_and_removes_it() -> None:
    one, two = {"nodes": "0"}, {"name": "code", "nodes": "1", "listen": "8001"}
    host, both = World(), world.target(one, two)
    host.settle(both)
    host.connections["code-numa1"] = 1
    rest = world.target(one, books=both.books)
    for _ in range(3):
        planned = host.step(rest)
    assert planned.verdicts["code-numa1"].state is State.draining
    host.connections.clear()
    host.settle(rest)
    assert host.files.keys() == {"chat-numa0"}
    assert host.units["code-numa1"].active_state == "inactive"


def test_plan_starts_no_instance_on_cores_that_another_still_uses() -> None:
    host, first = World(), world.target({"name": "old"})
    host.settle(first)
    host.connections = {"old-numa0": 1, "old-numa1": 1}
    renamed = world.target({"name": "new"}, books=first.books)
    for _ in range(5):
        planned = host.step(renamed)
    assert planned.verdicts["new-numa0"].reason == "waits for CPUs 0-3 that old-numa0 still runs on"
    host.connections = {}
    host.settle(renamed)
    assert host.routed(renamed) == {"new-numa0", "new-numa1"}


def test_plan_never_starts_what_has_a_problem() -> None:
    host = World()
    broken = world.spec({})
    models = {"chat": world.model(kind=None, problem="no such directory", hint="look there")}
    wanted = resolve(broken, world.topology(), models, Books())
    host.settle(wanted)
    planned = host.step(wanted)
    assert not host.units
    assert {verdict.reason for verdict in planned.verdicts.values()} == {"no such directory"}


def test_plan_leaves_an_instance_whose_model_vanished_as_it_is() -> None:
    host, wanted = started()
    models = {"chat": world.model(kind=None, problem="no such directory")}
    vanished = resolve(world.spec({}), world.topology(), models, wanted.books)
    assert plan(vanished, host.facts(vanished)).actions == ()


def test_plan_coalesces_those_that_join() -> None:
    host, wanted = World(), world.target()
    host.step(wanted)
    host.step(wanted)
    host.load("chat-numa0")
    host.step(wanted)
    host.load("chat-numa1")
    planned = host.step(wanted)
    assert planned.actions == ()
    assert planned.wake_in_sec is not None
    assert 0 < planned.wake_in_sec <= 2
    host.since_reload_sec = float("inf")
    host.step(wanted)
    assert host.routed(wanted) == BOTH


CHANGES = [
    pytest.param(world.target(), id="nothing"),
    pytest.param(world.target(PHYSICAL), id="other CPUs"),
    pytest.param(world.target({"instances_per_node": 2}), id="more instances"),
    pytest.param(world.target({"nodes": "1"}), id="fewer instances"),
    pytest.param(world.target({"name": "other"}), id="another name"),
    pytest.param(world.target({"placement": "whole"}), id="one for all"),
    pytest.param(
        world.target({"nodes": "0"}, {"name": "b", "nodes": "1", "listen": "8001"}), id="two pools"
    ),
    pytest.param(world.target({"weight": 7}), id="only the proxy"),
]


@pytest.mark.parametrize("changed", CHANGES)
def test_plan_interrupted_anywhere_is_finished_by_the_next(changed: Target) -> None:
    for interrupted_pass in range(6):
        for actions_done in range(4):
            host, _ = started()
            for _ in range(interrupted_pass):
                host.step(changed, allow_outage=True)
            host.step(changed, allow_outage=True, interrupt_after=actions_done)
            host.settle(changed, allow_outage=True)
            assert host.routed(changed) == set(changed.wanted)
            assert host.files.keys() == changed.wanted.keys()
            assert plan(changed, host.facts(changed)).actions == ()


EVENTS = st.sampled_from(
    ["crash", "fail", "stop", "ill", "well", "busy", "idle", "load", "change", "back", "pass"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.sampled_from(sorted(BOTH))), max_size=30))
def test_plan_keeps_its_invariants_whatever_happens(events: list[tuple[str, str]]) -> None:
    host, wanted = started()
    first, changed = wanted, world.target(PHYSICAL)
    for event, name in events:
        active = name in host.units and host.units[name].active_state == "active"
        match event:
            case "crash" | "fail" | "stop" if active:
                state = {"crash": "activating", "fail": "failed", "stop": "inactive"}[event]
                host.end(name, state=state)
            case "ill" if name in host.health:
                host.health[name] = replace(host.health[name], failures=9, probe=Probe.silent)
            case "well" if name in host.health:
                host.health[name] = replace(host.health[name], failures=0, probe=Probe.available)
            case "busy" | "idle":
                host.connections[name] = 3 if event == "busy" else 0
            case "load" if name in host.health:
                host.load(name)
            case "change" | "back":
                wanted = changed if event == "change" else first
            case _:
                host.step(wanted)
        host.step(wanted)
