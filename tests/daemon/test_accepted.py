# SPDX-License-Identifier: Apache-2.0
"""For how long an outage is allowed: until its configuration is reached, whoever was killed in between."""

from pathlib import Path

import pytest
from daemon_host import CONFIG, SERVING, DaemonHost, Running, running, write

from ovms_scaler.config import read_config
from ovms_scaler.daemon.accepted import OUTAGE, Accepted
from ovms_scaler.host.store import Store

UNIT = "ovms@chat-numa0.service"
CHANGED = CONFIG.replace("[health]", 'smt = "physical"\n[health]')
BUSY = (8003, 4711, "01")


async def serve(host: DaemonHost, run: Running) -> object:
    """The process that serves then."""
    await run.until(lambda: run.routed and run.read()["state"] == "ready")
    return run.read()["pid"]


async def test_an_outage_is_allowed_for_one_change(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        process = await serve(host, run)
        host.configure(CHANGED)
        await run.agent.reload(allow_outage=True)
        await run.until(lambda: run.read()["pid"] not in (None, process))
        process = await serve(host, run)
        await run.until(lambda: host.store.read_note(OUTAGE) is None)
        # What changes without a reload, such as the machine, is not what was allowed.
        host.store.write_instance({path: text + "# by hand\n" for path, text in files(host).items()})
        run.agent.wake()
        await run.until(lambda: "outage" in str(run.read().get("reason")))
        assert run.read()["pid"] == process


def files(host: DaemonHost) -> dict[str, str]:
    return host.store.read_instance("chat-numa0")


async def test_an_agent_that_comes_back_in_the_middle_goes_on(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        process = await serve(host, run)
        host.connect(BUSY)
        host.configure(CHANGED)
        await run.agent.reload(allow_outage=True)
        await run.until_state("draining")
    await host.health.close()
    async with running(host) as run:
        await run.until_state("draining")
        host.connect()
        run.agent.wake()
        await run.until(lambda: run.read()["pid"] not in (None, process))
        await serve(host, run)
    assert host.store.read_note(OUTAGE) is None


async def test_what_was_allowed_for_one_configuration_is_not_for_another(host: DaemonHost) -> None:
    host.configure()
    host.engine().body = SERVING
    async with running(host) as run:
        process = await serve(host, run)
        host.connect(BUSY)
        host.configure(CHANGED)
        await run.agent.reload(allow_outage=True)
    await host.health.close()
    host.configure(CHANGED.replace('"physical"', '"physical"\nreserve_cpus = "0"'))
    async with running(host) as run:
        await run.until(lambda: "outage" in str(run.read().get("reason")))
        assert run.read()["pid"] == process


@pytest.mark.parametrize("note", [None, [], {"file": "x"}])
def test_a_note_that_makes_no_sense_allows_nothing(tmp_path: Path, note: object) -> None:
    write(tmp_path / "config.toml", CONFIG)
    config = read_config(tmp_path / "config.toml")
    store = Store(tmp_path)
    store.write_note(OUTAGE, note)
    accepted = Accepted(store)
    accepted.recall(config)
    assert not accepted.allows_outage
    accepted.allow(config, outage=True)
    again = Accepted(store)
    again.recall(config)
    assert again.allows_outage
