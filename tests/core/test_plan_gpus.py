# SPDX-License-Identifier: Apache-2.0
"""Plans for instances on GPUs, replayed while cards go, come, hang and are recovered."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import world
from hypothesis import given, settings
from hypothesis import strategies as st
from world_gpus import CARDS, CPU, GPU, PAIRS, A, B, C, D, GpuWorld, Pool, unit_of

from ovms_scaler.core.actions import Recover, Remove, Start, Stop
from ovms_scaler.core.lifecycle import State
from ovms_scaler.core.plan import Plan, plan

ON_A, ON_B = f"chat-gpu-{A}", f"chat-gpu-{B}"
NEAR: Pool = {**GPU, "nodes": "0"}
METHODS = [
    (),
    ("none",),
    ("unknown",),
    ("rebind",),
    ("bus-reset",),
    ("cold-reset",),
    ("rebind", "bus-reset", "cold-reset"),
    ("vendor-specific",),
]


def started(*pools: Pool, rules: Mapping[str, object] | None = None) -> GpuWorld:
    """Everything serves; from now on nothing may be done to what nothing happens to."""
    host = GpuWorld(*(pools or (NEAR, PAIRS, CPU)), rules=rules)
    host.settle()
    assert host.routed(host.wanted) == set(host.wanted.wanted)
    host.touched = set()
    host.log.clear()
    return host


def do(host: GpuWorld, at_most: int = 50) -> Plan:
    """Passes, without waiting for anything."""
    for _ in range(at_most):
        planned = host.step(host.wanted)
        if not planned.actions:
            return planned
    raise AssertionError(host.log[-10:])


def test_gpus_and_cpus_serve_side_by_side() -> None:
    host = started()
    assert set(host.wanted.wanted) == {ON_A, ON_B, "pairs-hetero0", "cpu-numa0", "cpu-numa1"}


def test_card_that_goes_takes_its_instance_along_and_nobody_else() -> None:
    host = started()
    conf = host.proxy.files["nginx.conf"]
    host.pull(A)
    before = host.look()
    planned = do(host)
    assert planned.verdicts[ON_A].state is State.waiting
    assert planned.verdicts[ON_A].reason == f"its GPU {A} is not there"
    assert ON_A not in host.files
    # The only reload is that of the unit itself.
    assert host.log == [f"remove the files of {ON_A}"]
    assert host.proxy.files["nginx.conf"] == conf
    assert plan(before, host.facts(before)).actions == ()


def test_card_that_comes_back_serves_again_with_the_same_port() -> None:
    host = started()
    port = host.wanted.wanted[ON_A].instance.port
    text = host.files["cpu-numa0"]
    host.pull(A)
    host.look()
    do(host)
    host.plug(A)
    host.look()
    host.settle()
    assert host.routed(host.wanted) == set(host.wanted.wanted)
    assert host.wanted.wanted[ON_A].instance.port == port
    assert host.files["cpu-numa0"] == text
    assert "renderD132" in host.files[ON_A][f"/run/systemd/system/ovms@{ON_A}.service.d/50-placement.conf"]


def test_card_that_goes_and_comes_before_anybody_looked_is_started_anew() -> None:
    host = started()
    host.pull(A)
    host.plug(A)
    host.look()
    host.settle()
    assert host.routed(host.wanted) == set(host.wanted.wanted)
    assert sum("start ovms@" in line for line in host.log) == 1


def test_instance_that_outlives_its_card_is_stopped_without_waiting_and_started_anew() -> None:
    host = started()
    host.connections[ON_A] = 5
    host.pull(A, is_stopped=False)
    host.plug(A)
    host.look()
    planned = host.step(host.wanted)
    assert planned.verdicts[ON_A] == replace(
        planned.verdicts[ON_A], state=State.waiting, reason="its GPU was replaced while it ran"
    )
    assert ON_A not in host.routed(host.wanted)
    host.settle()
    assert host.routed(host.wanted) == set(host.wanted.wanted)


def test_group_that_lost_a_card_waits_as_a_whole() -> None:
    host = started()
    host.pull(C)
    host.look()
    planned = do(host)
    assert planned.verdicts["pairs-hetero0"].reason == f"its GPU {C} is not there"
    assert host.touched == {"pairs-hetero0"}
    host.plug(C)
    host.look()
    host.settle()
    assert host.routed(host.wanted) == set(host.wanted.wanted)


def test_last_one_that_loses_its_card_is_taken_out_all_the_same() -> None:
    host = started({**GPU, "gpus": [A]}, CPU)
    host.pull(A, is_stopped=False)
    host.look()
    host.step(host.wanted)
    assert ON_A not in host.routed(host.wanted)


def test_card_that_goes_while_its_instance_starts() -> None:
    host = started()
    host.slow = True
    host.pull(A)
    host.plug(A)
    host.look()
    do(host)
    assert isinstance(host.jobs[ON_A], Start)
    host.pull(A)
    host.look()
    planned = do(host)
    assert planned.verdicts[ON_A].state is State.waiting
    host.finish_jobs()
    do(host)
    assert ON_A not in host.files
    host.plug(A)
    host.look()
    host.settle()
    assert host.routed(host.wanted) == set(host.wanted.wanted)


# What hangs


@pytest.mark.parametrize("methods", METHODS[:-1])
def test_hang_is_recovered_by_the_method_that_the_kernel_names(methods: tuple[str, ...]) -> None:
    host = started()
    host.hang(A, *methods)
    host.settle()
    expected = methods[0] if methods and methods[0] not in ("none", "unknown") else "restart"
    assert [line for line in host.log if line.startswith("recover")] == [f"recover GPU {A} by {expected}"]
    order = [line.split(" ")[0] for line in host.log if "proxy" not in line and "write" not in line]
    assert order == ["stop", "recover", "start"]
    assert host.routed(host.wanted) == set(host.wanted.wanted)


def test_hang_that_the_driver_cured_is_drained_and_one_that_it_did_not_is_not() -> None:
    for methods, is_drained in ((("none",), True), ((), True), (("rebind",), False)):
        host = started()
        host.connections[ON_A] = 2
        host.hang(A, *methods)
        planned = do(host)
        assert ON_A not in host.routed(host.wanted)
        assert any("stop" in line for line in host.log) is not is_drained
        if is_drained:
            assert planned.verdicts[ON_A].state is State.draining
            assert planned.verdicts[ON_A].reason == f"GPU {A} hangs: hung"
            assert planned.wake_in_sec == 1.0
            host.now_sec += 29.5
            assert do(host).wake_in_sec == 0.5
            host.now_sec += 0.5
        host.settle()
        assert host.routed(host.wanted) == set(host.wanted.wanted)


def test_recovery_that_fails_is_tried_further_and_further_apart_and_then_given_up() -> None:
    host = started()
    host.broken.add(A)
    host.hang(A, "rebind", "bus-reset")
    began = host.now_sec
    planned = do(host)
    assert planned.verdicts[ON_A].state is State.waiting
    assert planned.verdicts[ON_A].reason == (
        f"GPU {A} hangs: hung; attempt 2 of 3 to recover it comes soon; the one before failed: did not help"
    )
    assert planned.wake_in_sec == 10.0
    host.settle()
    assert host.now_sec - began == 30.0
    assert [line for line in host.log if line.startswith("recover")] == [
        f"recover GPU {A} by rebind",
        f"recover GPU {A} by bus-reset",
        f"recover GPU {A} by bus-reset",
    ]
    planned = do(host)
    verdict = planned.verdicts[ON_A]
    assert verdict.state is State.quarantined
    assert verdict.reason == "its GPU was recovered 3 times in a row and still hangs: did not help"
    assert verdict.hint == "dmesg; then `ovms-scalerctl reload` tries again"
    assert planned.wake_in_sec is None
    assert host.routed(host.wanted) == set(host.wanted.wanted) - {ON_A}


def test_one_that_was_given_up_is_recovered_again_when_somebody_asks_for_it() -> None:
    host = started()
    host.broken.add(A)
    host.hang(A, "rebind")
    host.settle()
    host.restart_agent()
    host.settle()
    assert host.step(host.wanted).verdicts[ON_A].state is State.quarantined
    host.broken.clear()
    host.log.clear()
    host.reload()
    host.settle()
    assert host.log[0] == f"recover GPU {A} by rebind"
    assert host.routed(host.wanted) == set(host.wanted.wanted)


def test_method_that_needs_the_vendors_tools_is_left_to_the_administrator() -> None:
    host = started()
    host.hang(A, "vendor-specific")
    planned = do(host)
    assert planned.verdicts[ON_A].state is State.quarantined
    assert planned.verdicts[ON_A].reason == (
        "its GPU hangs, and the kernel names vendor-specific, which needs the vendor's own tools: hung"
    )
    assert not any(line.startswith("recover") for line in host.log)
    host.reload()
    host.settle()
    assert host.routed(host.wanted) == set(host.wanted.wanted)


def test_no_attempts_are_a_quarantine_at_once() -> None:
    host = started(NEAR, CPU, rules={"recovery_attempts": 0})
    host.hang(A, "rebind")
    planned = do(host)
    assert planned.verdicts[ON_A].state is State.quarantined
    assert unit_of(host, ON_A).active_state == "inactive"


def test_hangs_in_a_row_are_counted_over_successful_recoveries_and_forgotten_after_a_while() -> None:
    host = started()
    for attempt in range(1, 4):
        host.hang(A, "rebind")
        assert host.wedges[A].attempt == attempt
        host.settle()
        assert host.routed(host.wanted) == set(host.wanted.wanted)
    host.now_sec += 601
    host.hang(A, "rebind")
    assert host.wedges[A].attempt == 1
    for _ in range(3):
        host.settle()
        host.hang(A, "rebind")
    host.settle()
    assert do(host).verdicts[ON_A].state is State.quarantined


def test_card_that_hangs_and_is_pulled_out_has_not_hung_when_it_comes_back() -> None:
    host = started()
    host.broken.add(A)
    host.hang(A, "rebind")
    host.settle()
    host.pull(A)
    host.look()
    assert do(host).verdicts[ON_A].reason == f"its GPU {A} is not there"
    assert ON_A not in host.files
    host.plug(A)
    host.look()
    host.settle()
    assert host.routed(host.wanted) == set(host.wanted.wanted)


def test_card_that_a_recovery_takes_away_for_a_moment_is_still_being_recovered() -> None:
    host = started()
    host.slow = True
    host.hang(A, "cold-reset")
    do(host)
    host.finish_jobs()
    do(host)
    assert isinstance(host.jobs[ON_A], Recover)
    host.away.add(A)
    host.look()
    planned = do(host)
    assert planned.verdicts[ON_A].reason == f"GPU {A} is recovered by cold-reset, attempt 1 of 3"
    host.away.clear()
    host.finish_jobs()
    host.away.add(A)  # the agent has not seen yet that it is back
    host.look()
    do(host)
    assert host.wedges[A].attempt == 1
    host.plug(A)
    host.look()
    host.settle()
    host.hang(A, "cold-reset")
    assert host.wedges[A].attempt == 2


def test_engine_that_crashed_for_good_on_a_card_that_hung_is_started_anew() -> None:
    host = started()
    host.hang(A, "rebind")
    host.fail(ON_A)
    host.settle()
    assert host.routed(host.wanted) == set(host.wanted.wanted)


def test_engine_that_crashes_for_good_by_itself_stays_down() -> None:
    host = started()
    host.fail(ON_A)
    host.settle()
    assert do(host).verdicts[ON_A].state is State.quarantined
    assert host.routed(host.wanted) == set(host.wanted.wanted) - {ON_A}


def test_both_cards_of_a_group_are_recovered() -> None:
    host = started()
    host.hang(C, "rebind")
    host.hang(D, "bus-reset")
    host.settle()
    assert [line for line in host.log if line.startswith("recover")] == [
        f"recover GPU {C} by rebind",
        f"recover GPU {D} by bus-reset",
    ]
    assert host.routed(host.wanted) == set(host.wanted.wanted)


# The administrator


@pytest.mark.parametrize("methods", METHODS)
def test_what_the_administrator_stopped_is_neither_recovered_nor_started(methods: tuple[str, ...]) -> None:
    host = started()
    host.stop_by_hand(ON_A)
    host.hang(A, *methods)
    host.settle()
    assert do(host).verdicts[ON_A].state is State.stopped
    assert host.log == []
    host.pull(A)
    host.look()
    host.settle()
    host.plug(A)
    host.look()
    host.settle()
    assert do(host).verdicts[ON_A].state is State.stopped


def test_card_that_the_administrator_works_on_is_left_alone() -> None:
    """He stopped the instance, and took the driver away."""
    host = started()
    host.stop_by_hand(ON_A)
    host.hang(A, "rebind")
    host.cards[A] = replace(host.cards[A], render_node=None, driver=None)
    host.look()
    host.settle()
    assert do(host).verdicts[ON_A].reason == f"GPU {A} has no driver"
    assert host.log == []


def test_nothing_is_done_while_everything_was_stopped() -> None:
    host = started()
    host.target = replace(host.target, active_state="inactive")
    for name in host.wanted.wanted:
        host.stop_by_hand(name)
    host.hang(A, "rebind")
    host.pull(B)
    host.look()
    planned = host.step(host.wanted)
    assert planned.actions == ()
    assert planned.verdicts[ON_A].hint == "systemctl start ovms.target"


# Changes of the configuration


def change(host: GpuWorld, *pools: Pool) -> None:
    host.spec = world.spec(*pools)
    host.touched = None
    host.look(planned=True)


ONE_URL: tuple[Pool, ...] = GPU, {"name": "cpu"}


def test_change_does_not_wait_for_one_that_was_given_up() -> None:
    host = started(*ONE_URL)
    host.hang(A, "vendor-specific")
    host.settle()
    change(host, GPU, {"name": "cpu", "smt": "physical"})
    host.settle()
    assert host.routed(host.wanted) == set(host.wanted.wanted) - {ON_A}
    assert host.files["cpu-numa0"] == host.wanted.wanted["cpu-numa0"].files


def test_new_card_gets_its_cores_from_those_who_compute_behind_the_same_url() -> None:
    """They change one after another, and neither waits for the other for ever."""
    host = GpuWorld(*ONE_URL, gpus=CARDS[:1])
    host.settle()
    host.touched = set()
    host.cards[B] = replace(CARDS[1], render_node="/dev/dri/renderD190")
    host.look()
    planned = do(host)
    assert planned.verdicts[ON_B].state is State.waiting
    assert "is set aside" in planned.verdicts[ON_B].reason
    host.touched = None
    host.reload()
    least = len(host.wanted.wanted)
    for _ in range(60):
        host.step(host.wanted)
        least = min(least, len(host.routed(host.wanted)))
        for name in host.health:
            host.load(name)
        host.since_reload_sec = float("inf")
    assert host.routed(host.wanted) == set(host.wanted.wanted)
    assert least == len(host.wanted.wanted) - 2  # the new one, and the one that changes


def test_removed_pool_on_gpus_is_drained() -> None:
    host = started(GPU, CPU)
    host.connections[ON_A] = 1
    change(host, CPU)
    planned = do(host)
    assert planned.verdicts[ON_A].state is State.draining
    host.connections.clear()
    host.settle()
    assert host.files.keys() == {"cpu-numa0", "cpu-numa1"}


# Whatever happens

EVENTS = st.sampled_from(
    [
        *("pull", "yank", "stopped", "plug", "look", "hang", "break", "mend", "crash", "restart", "reload"),
        *("busy", "idle", "slow", "finish", "load", "wait", "pass", "interrupted"),
    ]
)


def happen(host: GpuWorld, event: str, address: str, number: int) -> None:
    name = host.instance_of(address)
    match event:
        case "pull" | "yank":
            host.pull(address, is_stopped=event == "pull")
        case "stopped":
            host.stop_lost(name)
        case "plug":
            host.plug(address)
        case "hang":
            host.hang(address, *METHODS[number % len(METHODS)])
        case "break":
            host.broken.add(address)
        case "mend":
            host.broken.discard(address)
        case "crash" if host.wedges:
            host.fail(name)
        case "restart":
            host.restart_agent()
        case "busy" | "idle":
            host.connections[name] = 3 if event == "busy" else 0
        case "finish":
            host.finish_jobs()
        case "look":
            host.look()
        case "load" if name in host.health:
            host.load(name)
        case "wait":
            host.now_sec += number * 5
            host.since_reload_sec = float("inf")
        case "slow":
            host.slow = not host.slow
        case "interrupted":
            host.step(host.wanted, interrupt_after=number % 3)
        case "reload":
            host.reload()
        case _:
            host.step(host.wanted)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.sampled_from([A, B, C, D]), st.integers(0, 20)), max_size=40))
def test_whatever_happens_harms_nobody_else_and_ends_with_all_that_is_there_serving(
    events: list[tuple[str, str, int]],
) -> None:
    host = started()
    first = host.wanted
    for event, address, number in events:
        happen(host, event, address, number)
        host.step(host.wanted)
    host.connections.clear()
    for name in list(host.lost):
        host.stop_lost(name)
    host.look()
    host.settle()
    planned = do(host)
    for name, wanted in host.wanted.wanted.items():
        verdict = planned.verdicts[name]
        if wanted.instance.is_waiting and not host.hanging().intersection(wanted.instance.gpus):
            assert verdict.state is State.waiting
            assert name not in host.files
        elif verdict.state is State.quarantined:
            assert name not in host.routed(host.wanted)
        else:
            assert (name, verdict.state) == (name, State.ready)
            assert name in host.routed(host.wanted)
    # With every card back, and what was given up tried again, all is as at the start.
    host.broken.clear()
    for address in list(host.away):
        host.plug(address)
    host.reload()
    host.settle()
    failed = {name for name, verdict in do(host).verdicts.items() if verdict.state is State.quarantined}
    assert all(unit_of(host, name).active_state == "failed" for name in failed)
    assert host.routed(host.wanted) == set(host.wanted.wanted) - failed
    assert host.wanted.books == first.books
    assert host.proxy.files["nginx.conf"]
    assert not host.hanging()


@settings(max_examples=30, deadline=None)
@given(
    events=st.lists(
        st.tuples(st.sampled_from(["pull", "plug", "look", "pass", "load"]), st.sampled_from([A, B, C, D])),
        max_size=30,
    )
)
def test_proxys_configuration_stays_as_it_is_while_cards_go_and_come(events: list[tuple[str, str]]) -> None:
    host = started(*ONE_URL)
    conf = host.proxy.files["nginx.conf"]
    for event, address in events:
        happen(host, event, address, 0)
        host.step(host.wanted)
        assert host.proxy.files["nginx.conf"] == conf


def test_unneeded_actions_are_none() -> None:
    """A look at the devices that shows what was known changes nothing."""
    host = started()
    for planned in (False, True):
        host.look(planned=planned)
        assert host.step(host.wanted).actions == ()
    assert not {Stop, Remove} & {type(action) for action in host.step(host.wanted).actions}


def test_drained_whose_card_leaves_has_no_files_and_stays_drained_when_it_is_back() -> None:
    host = GpuWorld(NEAR)
    host.settle()
    host.drain(ON_A)
    host.settle()
    host.pull(A)
    host.settle()
    wanted = host.look()
    assert host.step(wanted).verdicts[ON_A].state is State.drained
    assert ON_A not in host.files
    host.plug(A)
    host.settle()
    wanted = host.look()
    assert host.step(wanted).verdicts[ON_A].state is State.drained
    assert not unit_of(host, ON_A).is_running


def test_drained_whose_card_hangs_is_stopped_and_its_card_left_alone() -> None:
    host = GpuWorld(NEAR)
    host.settle()
    host.connections[ON_A] = 2
    host.drain(ON_A)
    host.step(host.look())
    host.hang(A, "rebind")
    host.settle()
    planned = host.step(host.look())
    assert planned.verdicts[ON_A].state is State.drained
    assert not any(line.startswith("recover") for line in host.log)
