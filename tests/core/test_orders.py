# SPDX-License-Identifier: Apache-2.0
"""Orders as a document, whom a name means, and which orders are refused."""

import json
from dataclasses import replace

import pytest
import world
from hypothesis import given
from hypothesis import strategies as st
from world import World

from ovms_scaler.core.ordering import (
    find_instances,
    order_drain,
    order_renewal,
    order_restart,
    order_undrain,
    settle,
)
from ovms_scaler.core.orders import Drain, Orders, Restart, orders_document, parse_orders
from ovms_scaler.core.target import Target
from ovms_scaler.errors import InputError, RefusedError, UnknownNameError

FIRST, SECOND = "chat-numa0", "chat-numa1"
BOTH = (FIRST, SECOND)
TIMES = st.floats(min_value=0, max_value=1e12)
ORDERS = st.builds(
    Orders,
    drained=st.dictionaries(st.text(), st.builds(Drain, since=TIMES, allow_outage=st.booleans())),
    restarts=st.dictionaries(
        st.text(),
        st.builds(
            Restart,
            invocation_id=st.text(min_size=1),
            is_rolling=st.booleans(),
            allow_outage=st.booleans(),
        ),
    ),
    paused_since=st.none() | TIMES,
)


def serving(nodes: int = 2) -> tuple[World, Target]:
    host, target = World(), world.target(nodes=nodes)
    host.settle(target)
    return host, target


@given(ORDERS)
def test_orders_come_back_from_their_document(orders: Orders) -> None:
    assert parse_orders(json.loads(json.dumps(orders_document(orders)))) == orders


DRAIN = {"since": 1.5, "allow_outage": False}
RESTART = {"invocation_id": "a", "is_rolling": True, "allow_outage": False}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"more": 1}, "it must have drained, restarts and paused_since"),
        ({"paused_since": True}, "paused_since must be seconds since the epoch, not True"),
        ({"paused_since": float("nan")}, "paused_since must be seconds since the epoch, not nan"),
        ({"drained": ["a"]}, "drained must map instance ids to orders"),
        ({"drained": {"a": 1}}, "drained must map instance ids to orders"),
        ({"drained": {"a": DRAIN | {"since": "1"}}}, "since must be seconds since the epoch, not '1'"),
        ({"drained": {"a": {"since": 1}}}, "allow_outage must be true or false, not None"),
        ({"restarts": {"a": RESTART | {"invocation_id": ""}}}, "invocation_id must be an invocation id"),
        ({"restarts": {"a": RESTART | {"is_rolling": 1}}}, "is_rolling must be true or false, not 1"),
    ],
)
def test_a_document_that_makes_no_sense_is_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_orders(orders_document(Orders()) | changes)


def test_a_list_is_no_orders() -> None:
    with pytest.raises(InputError, match="it must have drained"):
        parse_orders([])


def test_a_name_is_an_instance_or_a_pool() -> None:
    target = world.target({"nodes": "0"}, {"name": "code", "listen": "8001", "nodes": "1"})
    assert find_instances(target, FIRST) == (FIRST,)
    assert find_instances(target, "chat") == (FIRST,)
    assert find_instances(target, "code") == ("code-numa1",)


def test_an_unknown_name_comes_back_with_those_that_are_close() -> None:
    with pytest.raises(UnknownNameError, match="no instance and no pool named 'chat-numa2'") as caught:
        find_instances(world.target(), "chat-numa2")
    assert caught.value.hint is not None
    assert FIRST in caught.value.hint
    with pytest.raises(UnknownNameError) as nothing_close:
        find_instances(world.target(), "zzz")
    assert nothing_close.value.hint == "there is chat-numa0, chat-numa1, chat"


def drain(host: World, target: Target, *names: str, allow_outage: bool = False) -> Orders:
    return order_drain(target, host.facts(target), names, now=17.5, allow_outage=allow_outage)


def test_drain_is_noted_since_when_it_was_ordered_first() -> None:
    host, target = serving()
    host.orders = drain(host, target, FIRST)
    assert host.orders.drained == {FIRST: Drain(since=17.5)}
    again = order_drain(target, host.facts(target), [FIRST], now=99.0, allow_outage=True)
    assert again.drained == {FIRST: Drain(since=17.5, allow_outage=True)}
    assert order_undrain(again, [FIRST, SECOND]) == Orders()


def test_drain_of_the_last_one_is_refused_with_the_reason() -> None:
    host, target = serving()
    host.orders = drain(host, target, FIRST)
    with pytest.raises(RefusedError, match="cannot drain chat-numa1: no other instance serves 'chat' now"):
        drain(host, target, SECOND)
    host.orders = Orders()
    with pytest.raises(RefusedError, match="cannot drain chat-numa0, chat-numa1"):
        drain(host, target, *BOTH)
    assert drain(host, target, *BOTH, allow_outage=True).drained.keys() == set(BOTH)


def test_drain_of_what_does_not_serve_is_no_outage() -> None:
    host, target = serving()
    host.end(FIRST, state="failed")
    assert drain(host, target, FIRST).drained.keys() == {FIRST}


def test_drain_takes_the_place_of_a_restart() -> None:
    host, target = serving()
    host.restart(*BOTH)
    assert drain(host, target, FIRST).restarts.keys() == {SECOND}


def restart(
    host: World, target: Target, *names: str, is_rolling: bool = True, allow_outage: bool = False
) -> Orders:
    facts = host.facts(target)
    return order_restart(target, facts, names, is_rolling=is_rolling, allow_outage=allow_outage)


def test_restart_is_about_the_processes_that_run() -> None:
    host, target = serving(3)
    host.end(SECOND, state="inactive")
    host.drain("chat-numa2")
    assert restart(host, target, *target.wanted, allow_outage=True).restarts == {
        FIRST: Restart(invocation_id=host.units[FIRST].invocation_id, allow_outage=True)
    }


def test_restart_of_nothing_is_refused() -> None:
    host, target = serving()
    host.end(SECOND, state="inactive")
    with pytest.raises(RefusedError, match="nothing to restart"):
        restart(host, target, SECOND)


@pytest.mark.parametrize(
    ("nodes", "names", "is_rolling", "hint"),
    [
        (2, BOTH, False, "one after the other with --rolling"),
        (1, BOTH[:1], False, "accept the outage with --allow-outage"),
        (1, BOTH[:1], True, "wait until another one does, or accept the outage with --allow-outage"),
    ],
)
def test_restart_that_needs_an_outage_is_refused(
    nodes: int, names: tuple[str, ...], *, is_rolling: bool, hint: str
) -> None:
    host, target = serving(nodes)
    with pytest.raises(RefusedError) as caught:
        restart(host, target, *names, is_rolling=is_rolling)
    assert caught.value.hint == hint
    assert restart(host, target, *names, is_rolling=is_rolling, allow_outage=True).restarts.keys() == set(
        names
    )


def test_restart_of_one_of_two_needs_no_permission() -> None:
    host, target = serving()
    assert restart(host, target, FIRST, is_rolling=False).restarts.keys() == {FIRST}


def test_restart_of_what_could_not_be_started_again_is_refused() -> None:
    host, target = serving()
    one = target.wanted[FIRST]
    broken = replace(one, instance=replace(one.instance, problem="no such directory", hint="look there"))
    vanished = replace(target, wanted={**target.wanted, FIRST: broken})
    with pytest.raises(RefusedError, match="could not be started again: no such directory") as caught:
        restart(host, vanished, *BOTH)
    assert caught.value.hint == "look there"


def test_a_restart_is_done_when_its_process_has_ended() -> None:
    host, target = serving()
    host.restart(*BOTH)
    assert settle(host.orders, host.facts(target)) is host.orders
    host.end(FIRST, state="inactive")
    assert settle(host.orders, host.facts(target)).restarts.keys() == {SECOND}
    host.run(SECOND, target.wanted[SECOND].instance.cpus)
    assert settle(host.orders, host.facts(target)).restarts == {}


def test_a_restart_is_kept_while_systemd_is_silent() -> None:
    host, target = serving()
    host.restart(FIRST)
    facts = host.facts(target)
    silent = replace(
        facts, instances={name: replace(own, unit=None) for name, own in facts.instances.items()}
    )
    assert settle(host.orders, silent).restarts.keys() == {FIRST}
    assert settle(host.orders, replace(facts, instances={})).restarts == {}


def test_renewal_is_of_what_runs_something_older_and_of_nothing_else() -> None:
    host, target = serving(4)
    third, fourth = "chat-numa2", "chat-numa3"
    host.drain(third)
    facts = host.facts(target)
    older = {name: replace(own, outlived=("program",)) for name, own in facts.instances.items()}
    older[SECOND] = facts.instances[SECOND]
    older[fourth] = replace(older[fourth], files={})  # it is changed anyway
    orders = order_renewal(target, replace(facts, instances=older), allow_outage=True)
    assert orders.restarts == {
        FIRST: Restart(invocation_id=host.units[FIRST].invocation_id, allow_outage=True)
    }
    assert orders.drained.keys() == {third}


def test_renewal_leaves_what_could_not_be_started_again() -> None:
    host, target = serving()
    facts = host.facts(target)
    older = {name: replace(own, outlived=("model",)) for name, own in facts.instances.items()}
    one = target.wanted[FIRST]
    vanished = {**target.wanted, FIRST: replace(one, instance=replace(one.instance, problem="it is gone"))}
    orders = order_renewal(
        replace(target, wanted=vanished), replace(facts, instances=older), allow_outage=False
    )
    assert orders.restarts.keys() == {SECOND}
