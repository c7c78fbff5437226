# SPDX-License-Identifier: Apache-2.0
"""Orders given to the whole agent: carried out, kept over restarts, and told."""

import json
from typing import Any

import pytest
from daemon_host import CONFIG, SERVING, DaemonHost, Running, running
from fakes.engines import status_of

from ovms_scaler.core.orders import Orders
from ovms_scaler.errors import HostError, RefusedError, UnknownNameError

FIRST, SECOND = "chat-numa0", "chat-numa1"
UNITS = {name: f"ovms@{name}.service" for name in (FIRST, SECOND)}


async def serve(host: DaemonHost, run: Running) -> None:
    """Two nodes, both in rotation."""
    await run.until(lambda: all(run.read(name).get("in_rotation") for name in (FIRST, SECOND)))


def prepare(host: DaemonHost) -> None:
    host.nodes = 2
    host.configure()
    for number in range(2):
        host.engine(number).body = SERVING


def orders_of(run: Running) -> Any:
    return json.loads(json.dumps(run.agent.document()))["orders"]


async def test_drained_stays_so_when_agent_and_host_come_back(host: DaemonHost) -> None:
    prepare(host)
    async with running(host) as run:
        await serve(host, run)
        assert run.agent.orders.drain(FIRST, allow_outage=False) == (FIRST,)
        drained = await run.until_state("drained", FIRST)
        assert drained["hint"] == "ovms-scalerctl undrain chat-numa0"
        assert orders_of(run)["drained"].keys() == {FIRST}
    await host.health.close()
    starts = host.units.calls.count(("start", UNITS[FIRST]))
    async with running(host) as run:
        await run.until_state("drained", FIRST)
        await run.until(lambda: run.read(SECOND)["state"] == "ready")
        assert host.units.calls.count(("start", UNITS[FIRST])) == starts
        await run.agent.orders.undrain("chat")
        await serve(host, run)
    assert host.store.read_orders() == Orders()


async def test_undrained_is_started_although_it_was_stopped_by_hand_before(host: DaemonHost) -> None:
    prepare(host)
    async with running(host) as run:
        await serve(host, run)
        host.units.stop_by_admin(UNITS[FIRST])
        await run.until_state("stopped", FIRST)
        run.agent.orders.drain(FIRST, allow_outage=False)
        await run.until_state("drained", FIRST)
        await run.agent.orders.undrain(FIRST)
        await serve(host, run)


async def test_restart_rolls_and_is_forgotten_when_done(host: DaemonHost) -> None:
    prepare(host)
    async with running(host) as run:
        await serve(host, run)
        before = {name: host.units.read_unit(unit).invocation_id for name, unit in UNITS.items()}
        ordered = run.agent.orders.restart(None, is_rolling=True, allow_outage=False)
        assert ordered == (FIRST, SECOND)
        await run.until(lambda: not run.agent.orders.current.restarts)
        await serve(host, run)
        assert all(host.units.read_unit(unit).invocation_id != before[name] for name, unit in UNITS.items())
    assert host.store.read_orders() == Orders()


async def test_paused_agent_does_nothing_until_it_resumes(host: DaemonHost) -> None:
    prepare(host)
    async with running(host) as run:
        await serve(host, run)
        run.agent.orders.pause()
        run.agent.orders.drain(FIRST, allow_outage=False)
        await run.until(lambda: bool(run.agent.document()["deferred"]))
        calls, installed = list(host.units.calls), list(host.proxy.installed)
    await host.health.close()
    async with running(host) as run:
        await run.until(lambda: "paused" in str(run.read(FIRST).get("reason")))
        assert run.read(FIRST)["in_rotation"] is True
        assert orders_of(run)["paused_since"] is not None
        assert host.said[-1].endswith("STATUS=paused; 2 of 2 instances in rotation")
        assert (host.units.calls, host.proxy.installed) == (calls, installed)
        run.agent.orders.resume()
        await run.until_state("drained", FIRST)


async def test_reset_has_what_failed_started_again(host: DaemonHost) -> None:
    prepare(host)
    async with running(host) as run:
        await serve(host, run)
        host.units.fail(UNITS[FIRST])
        failed = await run.until_state("quarantined", FIRST)
        assert "ovms-scalerctl reset chat-numa0" in str(failed["hint"])
        await run.agent.orders.reset(FIRST)
        await serve(host, run)


async def test_reset_restarts_what_failed_and_still_runs_and_nothing_else(host: DaemonHost) -> None:
    prepare(host)
    host.engine(0).body = status_of("org/tiny", "LOADING", "FAILED_PRECONDITION")
    async with running(host) as run:
        await run.until_state("failed", FIRST)
        await run.until(lambda: run.read(SECOND)["in_rotation"] is True)
        before = {name: host.units.read_unit(unit).invocation_id for name, unit in UNITS.items()}
        await run.agent.orders.reset("chat")
        host.engine(0).body = SERVING
        await serve(host, run)
        after = {name: host.units.read_unit(unit).invocation_id for name, unit in UNITS.items()}
        assert (after[FIRST] == before[FIRST], after[SECOND] == before[SECOND]) == (False, True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"drained": {}}'])
async def test_orders_that_cannot_be_read_start_nobody_until_the_administrator_says_so(
    host: DaemonHost, text: str
) -> None:
    prepare(host)
    async with running(host) as run:
        await serve(host, run)
        run.agent.orders.drain(FIRST, allow_outage=False)
        await run.until_state("drained", FIRST)
    await host.health.close()
    (host.root / "var/lib/ovms-scaler/orders.json").write_text(text)
    calls = list(host.units.calls)
    async with running(host) as run:
        await run.until(lambda: bool(run.agent.document()["deferred"]))
        (problem,) = json.loads(json.dumps(run.agent.document()))["problems"]
        assert "cannot use the orders" in problem
        assert "the agent is paused" in problem
        assert "ovms-scalerctl resume" in problem
        assert run.read(SECOND)["in_rotation"] is True
        assert host.units.calls == calls
        run.agent.orders.drain(FIRST, allow_outage=False)
        assert run.agent.document()["problems"] == []
        run.agent.orders.resume()
        await run.until_state("drained", FIRST)
        assert host.units.calls == calls
    assert host.store.read_orders().drained.keys() == {FIRST}


async def test_an_order_that_cannot_be_written_is_not_taken(host: DaemonHost) -> None:
    prepare(host)
    async with running(host) as run:
        await serve(host, run)
        (host.root / "var/lib/ovms-scaler/orders.json").mkdir()
        with pytest.raises(HostError):
            run.agent.orders.drain(FIRST, allow_outage=False)
        assert run.agent.orders.current == Orders()


async def test_an_order_needs_a_configuration_and_a_name_in_it(host: DaemonHost) -> None:
    agent = host.start_agent()
    with pytest.raises(RefusedError, match="no configuration in force"):
        agent.orders.drain(FIRST, allow_outage=False)
    prepare(host)
    await agent.reload(allow_outage=False)
    with pytest.raises(UnknownNameError):
        agent.orders.drain("other", allow_outage=False)


async def test_a_drain_ends_with_the_instance_that_it_is_about(host: DaemonHost) -> None:
    prepare(host)
    async with running(host) as run:
        await serve(host, run)
        run.agent.orders.drain(FIRST, allow_outage=False)
        await run.until_state("drained", FIRST)
        host.configure(CONFIG.replace('"chat"', '"code"'))
        await run.agent.reload(allow_outage=True)
        assert run.agent.orders.current.drained == {}
