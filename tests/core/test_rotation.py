# SPDX-License-Identifier: Apache-2.0
"""Who is given requests: one row for each situation of two instances that answer for each other."""

from dataclasses import replace

import pytest
import world
from world import World

from ovms_scaler.core.books import Books
from ovms_scaler.core.facts import Facts, InstanceFacts, Probe
from ovms_scaler.core.lifecycle import judge
from ovms_scaler.core.model import ModelKind
from ovms_scaler.core.rotation import Rotation, rotate, routed_now
from ovms_scaler.core.rules import parse_spec
from ovms_scaler.core.table import Reader
from ovms_scaler.core.target import Target, resolve

FIRST, SECOND = "chat-numa0", "chat-numa1"
READER = Reader(lambda _: "config.toml")
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


DOUBTED = [
    pytest.param({SECOND: 0}, [SECOND], id="the other serves"),
    pytest.param({SECOND: 2}, [SECOND], id="the other is suspect"),
    pytest.param({SECOND: 3}, [FIRST, SECOND], id="the other is ill"),
    pytest.param({FIRST: 1, SECOND: 3}, [SECOND], id="the other is ill, and a probe failed again"),
]


@pytest.mark.parametrize(("failures", "expected"), DOUBTED)
def test_one_that_answers_again_joins_early_when_nobody_serves(
    failures: dict[str, int], expected: list[str]
) -> None:
    host, target = serving()
    ill(host, FIRST, 3)
    host.step(target)
    host.health[FIRST] = replace(host.health[FIRST], probe=Probe.available, failures=0, doubt="not for long")
    for name, count in failures.items():
        ill(host, name, count)
    assert members(decide(host, target)) == expected


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


# A model under another name

RENAMED = world.target({"model_name": "org/other"})
NEEDS = "its change needs an outage: it serves the model 'org/tiny' and is to serve the model 'org/other'"


def test_a_renamed_model_is_not_rolled_without_permission() -> None:
    host, _ = serving()
    rotation = decide(host, RENAMED)
    assert (members(rotation), rotation.leaving) == ([FIRST, SECOND], frozenset())
    assert rotation.held == dict.fromkeys([FIRST, SECOND], NEEDS)
    allowed = decide(host, RENAMED, allow_outage=True)
    assert (members(allowed), allowed.leaving) == ([SECOND], frozenset({FIRST}))


def test_nor_by_a_restart() -> None:
    host, _ = serving()
    host.restart(FIRST)
    assert decide(host, RENAMED).held[FIRST] == NEEDS
    host.restart(FIRST, allow_outage=True)
    assert decide(host, RENAMED).leaving == {FIRST}


def test_one_that_came_with_the_new_name_waits_while_another_serves_the_old() -> None:
    host, _ = serving()
    host.end(FIRST, state="failed", result="exit-code")
    host.settle(RENAMED)
    planned = host.step(RENAMED)
    assert host.routed(RENAMED) == {SECOND}
    verdict = planned.verdicts[FIRST]
    assert verdict.reason == (
        "those in rotation serve another model name: to take their place needs an outage"
    )
    assert verdict.hint == planned.verdicts[SECOND].hint == "ovms-scalerctl reload --allow-outage"
    host.settle(RENAMED, allow_outage=True)
    assert host.routed(RENAMED) == {FIRST, SECOND}
    assert host.step(RENAMED).actions == ()


def test_one_that_came_with_the_new_name_joins_when_nobody_serves_the_old() -> None:
    host, _ = serving()
    for name in (FIRST, SECOND):
        host.end(name, state="failed", result="exit-code")
    host.settle(RENAMED)
    assert host.routed(RENAMED) == {FIRST, SECOND}


def test_a_change_waits_until_it_is_known_which_name_is_served() -> None:
    host, _ = serving()
    facts = host.facts(CHANGED)
    unread = {name: replace(own, exec=None) for name, own in facts.instances.items()}
    seen = replace(facts, instances=unread)
    verdicts = {name: judge(CHANGED.wanted[name], unread[name], failures=3) for name in CHANGED.wanted}
    rotation = rotate(CHANGED, seen, verdicts, allow_outage=False)
    assert rotation.held[FIRST] == "its change waits until systemd has told what it runs"


def test_from_a_model_to_those_of_a_config_json_is_another_name() -> None:
    models = {"chat": world.model(kind=ModelKind.config, served_names=("org/tiny",))}
    pool = {"config_path": "/srv/models/config.json"}
    several = resolve(
        parse_spec({"pool": [{"name": "chat", **pool}]}, READER), world.topology(), models, Books()
    )
    host, _ = serving()
    assert decide(host, several).held[FIRST].endswith("is to serve the models of a config.json")
