# SPDX-License-Identifier: Apache-2.0
"""Who is given requests: one row for each situation of two instances that answer for each other."""

from dataclasses import replace

import pytest
import world
from world import World

from ovms_scaler.core.facts import Facts, InstanceFacts, Probe
from ovms_scaler.core.lifecycle import judge
from ovms_scaler.core.rotation import Rotation, rotate, routed_now
from ovms_scaler.core.target import Target

FIRST, SECOND = "chat-numa0", "chat-numa1"
CHANGED = world.target({"smt": "physical"})


def serving() -> tuple[World, Target]:
    """Both run, are warm and in rotation."""
    host, target = World(), world.target()
    host.settle(target)
    return host, target


def decide(host: World, target: Target, *, allow_outage: bool = False) -> Rotation:
    facts = host.facts(target)
    verdicts = {
        name: judge(wanted, facts.instances[name], failures=3) for name, wanted in target.wanted.items()
    }
    return rotate(target, facts, verdicts, allow_outage=allow_outage)


def members(rotation: Rotation) -> list[str]:
    return [member.instance for member in rotation.members["chat"]]


def test_both_stay_and_are_described_by_the_plan_and_their_process() -> None:
    host, target = serving()
    rotation = decide(host, target)
    assert members(rotation) == [FIRST, SECOND]
    first = rotation.members["chat"][0]
    assert (first.port, first.weight, first.max_conns) == (8003, 1, 1280)
    assert first.invocation == host.units[FIRST].invocation_id


def ill(host: World, name: str, failures: int) -> None:
    host.health[name] = replace(host.health[name], probe=Probe.silent, failures=failures)


HEALTH = [
    pytest.param({FIRST: 2}, [FIRST, SECOND], id="one is suspect"),
    pytest.param({FIRST: 3}, [SECOND], id="one is ill"),
    pytest.param({FIRST: 3, SECOND: 2}, [SECOND], id="one is ill, the other suspect"),
    pytest.param({FIRST: 3, SECOND: 3}, [FIRST, SECOND], id="both are ill: any answer is better than none"),
]


@pytest.mark.parametrize(("failures", "expected"), HEALTH)
def test_the_ill_leave_while_another_serves(failures: dict[str, int], expected: list[str]) -> None:
    host, target = serving()
    for name, count in failures.items():
        ill(host, name, count)
    assert members(decide(host, target)) == expected


def test_one_whose_process_is_another_is_not_in_rotation() -> None:
    host, target = serving()
    host.run(FIRST, target.wanted[FIRST].instance.cpus)
    assert set(routed_now(host.facts(target))) == {SECOND}
    assert members(decide(host, target)) == [SECOND]
    host.load(FIRST)
    assert members(decide(host, target)) == [FIRST, SECOND]


def test_one_whose_placement_was_not_read_back_does_not_join() -> None:
    host, target = serving()
    host.run(FIRST, target.wanted[FIRST].instance.cpus)
    host.load(FIRST)
    facts = host.facts(target)
    own = facts.instances[FIRST]
    for unread in (replace(own, exec=None), replace(own, process=None)):
        seen = replace(facts, instances={**facts.instances, FIRST: unread})
        verdicts = {
            name: judge(target.wanted[name], seen.instances[name], failures=3) for name in target.wanted
        }
        assert members(rotate(target, seen, verdicts, allow_outage=False)) == [SECOND]


def test_a_change_takes_one_out_and_holds_the_other() -> None:
    host, _ = serving()
    rotation = decide(host, CHANGED)
    assert (members(rotation), rotation.leaving) == ([SECOND], frozenset({FIRST}))
    assert rotation.held == {SECOND: "its change waits until chat-numa0 serves again"}


@pytest.mark.parametrize("event", ["starting", "ill", "failed"])
def test_a_change_waits_for_one_that_does_not_serve_with_its_new_files(event: str) -> None:
    host, target = serving()
    host.unroute(FIRST)
    host.files[FIRST] = dict(CHANGED.wanted[FIRST].files)
    match event:
        case "starting":
            host.end(FIRST, state="activating")
        case "ill":
            host.run(FIRST, CHANGED.wanted[FIRST].instance.cpus)
        case "failed":
            host.end(FIRST, state="failed", result="exit-code")
    rotation = decide(host, CHANGED)
    assert (members(rotation), rotation.leaving) == ([SECOND], frozenset())
    assert rotation.held == {SECOND: "its change waits until chat-numa0 serves again"}
    assert target.wanted.keys() == CHANGED.wanted.keys()


def test_a_change_does_not_wait_for_what_the_administrator_stopped() -> None:
    host, _ = serving()
    host.end(FIRST, state="inactive")
    rotation = decide(host, CHANGED)
    assert (members(rotation), rotation.held) == (
        [SECOND],
        {SECOND: "its change needs an outage: it is the only one that serves"},
    )
    allowed = decide(host, CHANGED, allow_outage=True)
    assert (members(allowed), allowed.leaving) == ([], frozenset({SECOND}))


def test_routes_that_cannot_be_read_are_nobodys() -> None:
    host, target = serving()
    damaged = {path: "server 1.2.3.4;\n" for path in host.proxy.files if path.endswith(f"{FIRST}.conf")}
    host.proxy = replace(host.proxy, files={**host.proxy.files, **damaged})
    assert set(routed_now(host.facts(target))) == {SECOND}
    # It serves, so it gets a route again.
    assert members(decide(host, target)) == [FIRST, SECOND]


def test_while_systemd_is_silent_routes_are_believed() -> None:
    host, target = serving()
    silent = Facts(
        instances={name: InstanceFacts(files=own) for name, own in host.files.items()}, proxy=host.proxy
    )
    assert set(routed_now(silent)) == {FIRST, SECOND}
    verdicts = {
        name: judge(target.wanted[name], silent.instances[name], failures=3) for name in target.wanted
    }
    assert members(rotate(target, silent, verdicts, allow_outage=False)) == [FIRST, SECOND]
