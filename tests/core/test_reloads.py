# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import world
from world import World

from ovms_scaler.core.facts import Facts
from ovms_scaler.core.plan import Plan, plan
from ovms_scaler.core.reloads import pause_sec
from ovms_scaler.core.target import Target

TARGET = world.target()
ONE, TWO = sorted(TARGET.wanted)


@pytest.mark.parametrize(
    ("old_workers", "joins", "expected"),
    [
        pytest.param(0, True, 2.0, id="those that join do so together"),
        pytest.param(8, True, 2.0, id="two configurations"),
        pytest.param(9, True, 4.0, id="a third"),
        pytest.param(24, True, 32.0, id="six"),
        pytest.param(60, True, 60.0, id="never more than a minute"),
        pytest.param(61, True, float("inf"), id="enough"),
        pytest.param(8, False, 0.0, id="a changed configuration does not wait"),
        pytest.param(12, False, 4.0, id="but for many"),
        pytest.param(1000, False, 60.0, id="and not for ever"),
    ],
)
def test_pause(old_workers: int, *, joins: bool, expected: float) -> None:
    assert pause_sec(old_workers=old_workers, worker_processes=4, joins=joins) == expected


def test_old_workers_are_bounded_however_often_instances_come_and_go() -> None:
    # Every reload leaves four workers that stay an hour; somebody wants to join all the time.
    ends: list[float] = []
    now = last = 0.0
    most = 0
    while now < 4 * 3600:
        ends = [end for end in ends if end > now]
        most = max(most, len(ends))
        if now - last >= pause_sec(old_workers=len(ends), worker_processes=4, joins=True):
            ends += [now + 3600] * 4
            last = now
        now += 1.0
    assert most == 16 * 4


def routed(*names: str) -> World:
    """Both are ready; the proxy was reloaded three seconds ago, with these in rotation."""
    host = World()
    host.settle(TARGET)
    for name in TARGET.wanted.keys() - set(names):
        host.unroute(name)
    host.since_reload_sec = 3.0
    return host


def with_old_workers(host: World, configurations: int, target: Target = TARGET) -> Plan:
    facts = host.facts(target)
    old_workers = configurations * target.proxy.worker_processes
    return plan(target, replace_proxy(facts, old_workers))


def replace_proxy(facts: Facts, old_workers: int) -> Facts:
    return replace(facts, proxy=replace(facts.proxy, old_workers=old_workers))


def actions_of(made: Plan) -> list[str]:
    return [action.describe() for action in made.actions]


def test_one_that_joins_others_waits_for_old_workers_and_status_tells() -> None:
    host = routed(ONE)
    assert actions_of(with_old_workers(host, 0))
    made = with_old_workers(host, 4)
    assert (actions_of(made), made.wake_in_sec) == ([], 5.0)
    assert made.proxy_waits == "changes wait for old workers to end"
    full = with_old_workers(host, 16)
    assert (actions_of(full), full.proxy_waits) == ([], "changes wait for old workers to end")
    assert with_old_workers(host, 0).proxy_waits == ""


def test_the_first_of_an_upstream_and_who_leaves_do_not_wait() -> None:
    assert actions_of(with_old_workers(routed(), 16))
    host = routed(ONE, TWO)
    host.drain(ONE)
    assert actions_of(with_old_workers(host, 16))


def test_one_that_others_wait_for_joins_after_a_minute_at_most() -> None:
    host = routed(ONE)
    host.drain(ONE)
    made = with_old_workers(host, 16)
    assert (actions_of(made), made.wake_in_sec) == ([], 57.0)


def test_a_changed_configuration_waits_for_many_old_workers_only() -> None:
    host, changed = routed(ONE, TWO), replace(TARGET, proxy=replace(TARGET.proxy, retry_after_sec=7))
    assert actions_of(with_old_workers(host, 2, changed))
    made = with_old_workers(host, 16, changed)
    assert (actions_of(made), made.wake_in_sec) == ([], 57.0)
