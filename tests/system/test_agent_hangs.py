# SPDX-License-Identifier: Apache-2.0
"""A file server or a driver that does not answer hinders nobody who does not need it, and is named."""

import subprocess
import time
from collections.abc import Iterator

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Traffic
from system.hanging import hanging

SERVER = "/mnt/server"
CHAT = agent_host.pool("chat", instances=1, keys='reserve_cpus = "1"')
BOTH = CHAT + agent_host.pool("late", instances=1, path=SERVER, keys='reserve_cpus = "0"\nlisten = "8001"')
SILENT = f"the model {SERVER!r} does not answer"


@pytest.fixture
def host(installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, CHAT, in_rotation=1) as booted:
        booted.run("mkdir", SERVER)
        yield booted


def begin_reload(host: Host) -> "subprocess.Popen[str]":
    command = host.command("ovms-scalerctl", "reload")
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_file_server_that_is_away_hinders_only_who_needs_it(host: Host) -> None:
    agent = agent_host.read_agent_pid(host)
    with hanging(host, SERVER):
        host.write(agent_host.CONFIG, BOTH)
        reload = begin_reload(host)
        try:
            # An engine that ends meanwhile is taken out of rotation and comes back.
            before = agent_host.read_pids(host)
            agent_host.kill(host, before["chat-numa0"])
            agent_host.wait_until_routed(host, 0)
            assert reload.poll() is None
            agent_host.wait_until_routed(host, 1)
            _, said = reload.communicate(timeout=60)
        finally:
            reload.kill()
        assert reload.returncode == 1
        assert f"cannot take the configuration, the one in force stays: {SILENT}" in said
        assert "`findmnt`" in said
        status = agent_host.wait_for_status(host, lambda found: SILENT in found["problems"], "it to be told")
        assert [one["id"] for one in status["instances"]] == ["chat-numa0"]
        assert agent_host.read_agent_pid(host) == agent
        # An agent that starts now does without the one model, and ends although a thread of it is kept.
        before = agent_host.read_pids(host)
        began = time.monotonic()
        host.run("systemctl", "restart", agent_host.AGENT)
        assert time.monotonic() - began < 20
        agent_host.wait_until_routed(host, 1)
        late = agent_host.wait_for_state(host, "late-numa0", "failed")
        assert late["reason"] == f"cannot serve {SERVER!r}: it does not answer"
        assert agent_host.read_pids(host) == before
        agent_host.wait_for_answer(host)
    host.run("cp", "-rT", "/srv/models/tiny", SERVER)
    agent_host.wait_until_routed(host, 2)
    agent_host.wait_for_answer(host, port=8001)
    assert agent_host.read_pids(host)["chat-numa0"] == before["chat-numa0"]
    assert agent_host.read_status(host)["problems"] == []


def test_file_server_that_goes_away_takes_no_engine_with_it(host: Host) -> None:
    host.run("cp", "-rT", "/srv/models/tiny", SERVER)
    agent_host.reload(host, BOTH)
    agent_host.wait_until_routed(host, 2)
    agent, before = agent_host.read_agent_pid(host), agent_host.read_pids(host)
    with hanging(host, SERVER):
        # The other engine ends, and is out and back while the one has its model in memory and serves on.
        agent_host.kill(host, before["chat-numa0"])
        agent_host.wait_until_routed(host, 1)
        agent_host.wait_until_routed(host, 2)
        agent_host.wait_for_answer(host, port=8001)
        agent_host.wait_for_status(host, lambda found: SILENT in found["problems"], "it to be told")
        assert agent_host.read_agent_pid(host) == agent
        host.run("systemctl", "restart", agent_host.AGENT)
        agent_host.wait_until_routed(host, 2)
        agent_host.wait_for_answer(host, port=8001)
        assert agent_host.read_pids(host)["late-numa0"] == before["late-numa0"]
    agent_host.wait_for_status(host, lambda found: not found["problems"], "the trouble to be over")
    agent_host.wait_until_routed(host, 2)
    assert agent_host.read_pids(host)["late-numa0"] == before["late-numa0"]


def test_machine_that_does_not_answer_at_the_start_is_told_and_waited_for(host: Host) -> None:
    before = agent_host.read_footprint(host)
    with Traffic(host) as traffic:
        with hanging(host, "/sys/devices/system/node"):
            host.run("systemctl", "restart", agent_host.AGENT)
            text = host.properties(agent_host.AGENT, "StatusText")["StatusText"]
            assert text == (
                "no configuration in force: the topology of this machine (/sys, /proc) does not answer"
            )
            refused = agent_host.reload(host)
            assert refused.returncode == 1
            assert "cannot take the configuration, and none is in force: the topology" in refused.stderr
            assert "`journalctl -k`" in refused.stderr
            traffic.wait_for_answers(host)
            agent = agent_host.read_agent_pid(host)
        agent_host.wait_until_routed(host, 1)
        agent_host.wait_for_status(host, lambda found: not found["problems"], "the trouble to be over")
        assert agent_host.read_agent_pid(host) == agent
    traffic.assert_unharmed()
    assert agent_host.read_footprint(host) == before
