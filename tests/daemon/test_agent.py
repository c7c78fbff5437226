# SPDX-License-Identifier: Apache-2.0
"""The loop as a whole: from a configuration to a routed instance, and everything that can come between."""

import asyncio
import json
import time
from dataclasses import replace

import pytest
from daemon_host import CONFIG, SERVING, DaemonHost, Running, running, write

from ovms_scaler.core.record import RUN
from ovms_scaler.errors import ConfigError, HostError

UNIT = "ovms@chat-numa0.service"
OTHER = CONFIG.replace('name = "chat"', 'name = "code"')
BAD = CONFIG + "placement = 1\n"


async def test_from_nothing_to_an_instance_in_rotation(host: DaemonHost) -> None:
    host.configure()
    async with running(host) as run:
        await run.until_state("loading")
        # Ready is said after the first look, long before a model has been loaded.
        assert host.said[0] == "READY=1\nSTATUS=0 of 1 instances in rotation"
        host.engine().body = SERVING
        await run.until(lambda: run.routed)
        document = run.read()
        assert (document["state"], document["port"], document["cpus"]) == ("ready", 8003, "0-3")
        assert document["pid"] == host.units.read_unit(UNIT).main_pid
        await run.until(lambda: "STATUS=1 of 1 instances in rotation" in host.said)
    assert host.engine().warmed == ["org/tiny"]
    assert host.store.read_books().ports == {"chat-numa0": 8003}


async def test_an_agent_that_comes_back_touches_nothing(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
    await host.health.close()
    orders, installed = list(host.units.calls), list(host.proxy.installed)
    async with running(host) as run:
        await run.until(lambda: run.routed)
        await host.engine().count(2)
        await run.until(lambda: run.read()["state"] == "ready")
    assert (host.units.calls, host.proxy.installed) == (orders, installed)
    assert host.engine().warmed == ["org/tiny"]


async def test_a_crash_leads_out_of_rotation_and_back(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
        host.engine().body = None
        host.units.die(UNIT)
        starting = await run.until_state("starting")
        assert "signal 9" in str(starting["reason"])
        await run.until(lambda: not run.routed)
        host.units.restart_elapsed(UNIT)
        host.engine().body = SERVING
        await run.until(lambda: run.routed)
        assert run.read()["restarts"] == 1


async def test_what_the_administrator_stops_stays_stopped_until_he_starts_it(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
        host.units.stop_by_admin(UNIT)
        stopped = await run.until_state("stopped")
        assert stopped["hint"] == f"systemctl start {UNIT}"
        host.units.start_by_admin(UNIT)
        await run.until(lambda: run.routed)


async def test_an_instance_that_stops_answering_is_told_with_the_reason(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
        host.engine().body = None
        ejected = await run.until_state("ejected")
        assert "nobody answers on port 8003" in str(ejected["reason"])
        # It is the only one that there is.
        assert ejected["in_rotation"]
        since = ejected["since"]
        run.agent.wake()
        await run.next_word()
        assert run.read()["since"] == since


async def test_one_that_answers_with_errors_only_is_killed_and_comes_back(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
        host.engine().warms = [False]
        document = {"client": "10.0.0.1", "upstream": "127.0.0.1:8003", "upstream_status": "400"}
        for _ in range(RUN):
            host.health.note_datagram(json.dumps(document).encode())
        await run.until(lambda: ("kill", UNIT) in host.units.calls)
        assert not run.routed
        host.engine().warms = [True]
        host.units.restart_elapsed(UNIT)
        await run.until(lambda: run.routed)
    assert host.units.calls.count(("kill", UNIT)) == 1


async def test_no_configuration_is_said_and_nothing_is_done(host: DaemonHost) -> None:
    async with running(host) as run:
        word = await run.next_word()
        assert word.startswith("READY=1\nSTATUS=no configuration in force: ")
        document = run.agent.document()
        assert document["instances"] == []
        assert "cannot read: No such file" in str(document["config"])
    assert host.units.calls == []


async def test_a_bad_configuration_at_the_start_leaves_the_accepted_one_in_force(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
    await host.health.close()
    host.configure(BAD)
    async with running(host) as run:
        await run.until(lambda: run.routed)
        assert host.said[-1].endswith("; the configuration on disk is not valid")
        assert "is not a key of this table" in str(run.agent.document()["config"])


@pytest.mark.parametrize(
    "accepted",
    ["", "{", "[]", '{"file": "x", "merged": {"pool": 1}, "origins": {}}'],
    ids=["nothing", "not JSON", "not a configuration", "one that breaks the rules"],
)
async def test_a_bad_configuration_and_nothing_to_go_on_with(host: DaemonHost, accepted: str) -> None:
    host.configure(BAD)
    if accepted:
        write(host.root / "run/ovms-scaler/accepted.json", accepted)
    async with running(host) as run:
        assert "no configuration in force" in await run.next_word()
        # A good one is taken as soon as it is there.
        host.configure()
        await run.agent.reload(allow_outage=False)
        await run.until_state("loading")


async def test_an_accepted_configuration_that_cannot_be_read_is_none(host: DaemonHost) -> None:
    host.configure(BAD)
    (host.root / "run/ovms-scaler/accepted.json").mkdir(parents=True)
    async with running(host) as run:
        assert "no configuration in force" in await run.next_word()


async def test_a_bad_reload_keeps_what_is_in_force(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
        host.configure(BAD)
        with pytest.raises(ConfigError, match=r"config\.toml: health\.placement: is not a key"):
            await run.agent.reload(allow_outage=False)
        await run.until(lambda: host.said[-1].startswith("READY=1"))
        assert "RELOADING=1" in host.said[-2]
        assert run.routed
        assert run.agent.wanted_count() == 1
        assert json.loads((host.root / "run/ovms-scaler/accepted.json").read_text())["merged"]["health"] == {
            "interval_sec": 0.1
        }
        host.configure()
        await run.agent.reload(allow_outage=False)
        config = run.agent.document()["config"]
        assert config == {"file": str(host.config_file), "error": "", "hint": ""}


async def test_a_change_needs_permission_for_an_outage(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
        process = run.read()["pid"]
        host.configure(CONFIG.replace("[health]", 'smt = "physical"\n[health]'))
        await run.agent.reload(allow_outage=False)
        await run.until(lambda: "outage" in str(run.read().get("reason")))
        assert (run.read()["state"], run.read()["pid"]) == ("ready", process)
        await run.agent.reload(allow_outage=True)
        await run.until(lambda: run.read()["pid"] not in (None, process))
        await run.until(lambda: run.routed)
        assert host.units.loaded[UNIT].text.count("CPUAffinity=0,2\n") == 1


async def test_a_pool_that_is_renamed_is_replaced(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = host.engine(1).body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
        host.configure(OTHER)
        await run.agent.reload(allow_outage=False)
        await run.until(lambda: run.read("code-numa0").get("in_rotation") is True)
        await run.until(lambda: not run.read("chat-numa0"))
    assert host.store.list_instances() == {"code-numa0"}
    assert host.store.read_books().ports == {"chat-numa0": 8003, "code-numa0": 8004}


@pytest.mark.parametrize(
    ("book", "why"),
    [
        pytest.param("{", "Expecting property name", id="not JSON"),
        pytest.param("[]", "it must map instance ids to ports", id="not a book"),
        pytest.param('{"a": 8003, "b": 8003}', "two instances have the same port", id="a port twice"),
    ],
)
async def test_a_corrupt_port_book_is_not_guessed_around(host: DaemonHost, book: str, why: str) -> None:
    host.configure()
    write(host.root / "var/lib/ovms-scaler/ports.json", book)
    async with running(host) as run:
        assert "cannot use the port book" in await run.next_word()
        assert why in str(run.agent.document()["config"])
        with pytest.raises(HostError, match="cannot use the port book"):
            await run.agent.reload(allow_outage=False)
        (host.root / "var/lib/ovms-scaler/ports.json").unlink()
        await run.agent.reload(allow_outage=False)
        await run.until_state("loading")


async def test_memory_that_cannot_be_written_is_a_problem_and_the_plan_goes_on(host: DaemonHost) -> None:
    host.configure()
    (host.root / "run/ovms-scaler/accepted.json").mkdir(parents=True)
    async with running(host) as run:
        await run.until_state("loading")
        assert "cannot write" in str(run.agent.document()["problems"])


async def test_action_that_fails_is_a_problem_until_it_succeeds(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    blocked = host.root / "run/ovms-scaler/instances"
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a file where a directory must be")
    async with running(host) as run:
        await run.until(lambda: "cannot write" in str(run.agent.document()["problems"]))
        blocked.unlink()
        await run.until(lambda: run.routed)
        await run.until(lambda: run.agent.document()["problems"] == [])


async def test_word_that_comes_during_a_pass_leads_to_another(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
        await run.until_state("ready")
        host.units.answering.clear()
        run.agent.wake()
        await asyncio.sleep(0)  # the pass begins, and waits for systemd
        run.agent.wake()
        host.units.answering.set()
        said = len(host.said)
        await run.until(lambda: host.said[said:].count("WATCHDOG=1") >= 2)


async def test_a_stuck_systemd_stops_no_answer_and_loses_nothing(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
        host.units.answering.clear()
        run.agent.wake()
        # The pass hangs at systemd; who asks is answered with what was known before it.
        await host.engine().count(3)
        assert (run.read()["state"], run.routed) == ("ready", True)
        host.units.thaw()
        await run.until(lambda: run.routed and run.read()["state"] == "ready")
    assert [call for call in host.units.calls if call[0] == "stop"] == []


def observed_sec(run: Running) -> float:
    observed = run.agent.document()["observed_sec"]
    assert isinstance(observed, float)
    return observed


async def test_status_tells_since_when_what_it_shows_is_true(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
        host.units.answering.clear()
        run.agent.wake()
        ordered = time.monotonic()
        await run.until(lambda: "did not answer" in str(run.agent.document()["problems"]))
        assert 0 < observed_sec(run) < ordered
        host.units.thaw()
        await run.until(lambda: observed_sec(run) >= ordered)


async def test_a_look_for_an_earlier_configuration_is_not_planned_by(host: DaemonHost) -> None:
    host.configure()
    host.engine(1).body = SERVING
    host.units.answering.clear()
    async with running(host) as run:
        await asyncio.sleep(0)  # the first pass begins, and waits for systemd
        host.configure(OTHER)
        await run.agent.reload(allow_outage=False)
        host.units.thaw()
        await run.until(lambda: run.read("code-numa0").get("in_rotation") is True)
    assert ("start", UNIT) not in host.units.calls


async def test_a_clock_that_jumps_changes_nothing(host: DaemonHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.configure()
    host.nodes = 2
    host.engine().body = host.engine(1).body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed and run.read("chat-numa1").get("in_rotation") is True)
        began = [call for call in host.units.calls if call[0] == "start"]
        monkeypatch.setattr(time, "time", lambda: 4e9)
        run.agent.orders.drain("chat-numa0", allow_outage=False)
        drained = await run.until_state("drained")
        assert drained["since"] == 4e9
        # Back to before the machine was built: what was ordered then is not in the future.
        monkeypatch.setattr(time, "time", lambda: 0.0)
        await run.agent.orders.undrain("chat-numa0")
        await run.until(lambda: run.routed)
        await host.engine().count(2)
        assert run.agent.document()["problems"] == []
    started = [call for call in host.units.calls if call[0] == "start"]
    assert started == [*began, ("start", UNIT)]


async def test_a_model_that_appears_later_is_served(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    good, host.model = host.model, replace(host.model, kind=None, problem="no such directory", hint="look")
    async with running(host) as run:
        failed = await run.until_state("failed")
        assert (failed["reason"], failed["hint"]) == ("no such directory", "look")
        host.model = good
        run.agent.wake()
        await run.until(lambda: run.routed)


async def test_a_vanished_model_disturbs_nobody_who_serves(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        await run.until(lambda: run.routed)
        host.model = replace(host.model, kind=None, problem="no such directory")
        await run.agent.reload(allow_outage=False)
        await run.next_word()
        await host.engine().count(2)
        assert (run.read()["state"], run.routed) == ("ready", True)


async def test_a_refusing_proxy_is_told_and_the_instances_go_on(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    host.proxy.refuses = "worker_processes"
    async with running(host) as run:
        await run.until(lambda: "nginx refuses it" in json.dumps(run.agent.document()["proxy"]))
        ready = await run.until_state("ready")
        assert not ready["in_rotation"]


async def test_the_status_is_json_before_the_first_pass(host: DaemonHost) -> None:
    host.configure()
    agent = host.start_agent()
    assert json.loads(json.dumps(agent.document()))["instances"] == []
    host.configure(BAD)
    with pytest.raises(ConfigError):
        await agent.reload(allow_outage=False)


async def test_a_pass_that_waits_for_long_is_no_reason_for_the_watchdog(host: DaemonHost) -> None:
    host.configure()
    host.environment = {"WATCHDOG_USEC": "100000"}
    host.proxy.answering.clear()
    async with running(host) as run:
        await run.until(lambda: host.said.count("WATCHDOG=1") >= 3)
        assert host.proxy.installed == []
        host.proxy.answering.set()
        await run.until(lambda: host.proxy.installed != [])
