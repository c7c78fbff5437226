# SPDX-License-Identifier: Apache-2.0
"""Orders under load in a booted host: drain, rolling restart and pause, and no client notices."""

import json
from collections.abc import Callable, Iterator

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Traffic, find_instance

FIRST, SECOND = "chat-numa0.0", "chat-numa0.1"


@pytest.fixture
def host(boot: Callable[..., Host], installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, agent_host.pool(), in_rotation=2) as booted:
        yield booted


def test_drain_loses_nothing_and_outlives_the_agent(host: Host) -> None:
    with Traffic(host, max_tokens=40) as traffic:
        traffic.wait_for_answers(host)
        host.run("ovms-scalerctl", "drain", FIRST, "--wait")
        assert agent_host.read_pids(host).keys() == {SECOND}
        refused = host.run("ovms-scalerctl", "drain", SECOND, check=False)
        assert refused.returncode == 1
        assert "no other instance serves" in refused.stderr
        host.run("systemctl", "restart", agent_host.AGENT)
        agent_host.wait_for_state(host, FIRST, "drained")
        # It does not count as bad news.
        host.run("ovms-scalerctl", "status")
        assert agent_host.read_pids(host).keys() == {SECOND}
        host.run("ovms-scalerctl", "undrain", "chat", "--wait")
        traffic.wait_for_answers(host, by=FIRST)
    traffic.assert_unharmed()


def test_rolling_restart_replaces_every_process_and_no_client_notices(host: Host) -> None:
    before = agent_host.read_pids(host)
    with Traffic(host, max_tokens=40) as traffic:
        traffic.wait_for_answers(host)
        at_once = host.run("ovms-scalerctl", "restart", check=False)
        assert at_once.returncode == 1
        assert "one after the other with --rolling" in at_once.stderr
        done = host.run("ovms-scalerctl", "restart", "--rolling", "--wait", "--json")
        traffic.wait_for_answers(host)
    assert sorted(json.loads(done.stdout)["done"]) == [FIRST, SECOND]
    traffic.assert_unharmed()
    after = agent_host.read_pids(host)
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)
    agent_host.wait_until_routed(host, 2)


def test_drained_instance_stays_so_through_a_reboot(host: Host) -> None:
    host.run("ovms-scalerctl", "drain", FIRST, "--wait")
    host.reboot()
    agent_host.wait_until_routed(host, 1)
    agent_host.wait_for_state(host, FIRST, "drained")
    agent_host.wait_for_answer(host)
    assert agent_host.read_pids(host).keys() == {SECOND}
    assert agent_host.read_routes(host) == {SECOND}
    host.run("ovms-scalerctl", "undrain", FIRST, "--wait")
    agent_host.wait_until_routed(host, 2)


def test_reload_waits_until_every_instance_runs_as_configured(host: Host) -> None:
    before = agent_host.read_pids(host)
    host.write(agent_host.CONFIG, agent_host.pool(ovms='flags = ["--log_level", "DEBUG"]'))
    with Traffic(host, max_tokens=40) as traffic:
        traffic.wait_for_answers(host)
        done = host.run("ovms-scalerctl", "reload", "--wait", "--json")
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    assert json.loads(done.stdout) == {"done": [FIRST, SECOND], "others": {}, "trouble": ""}
    after = agent_host.read_pids(host)
    assert all(after[name] != before[name] for name in before)
    assert all("DEBUG" in agent_host.read_command(host, pid) for pid in after.values())


def test_reload_that_fails_halts_and_says_so(host: Host) -> None:
    before = agent_host.read_pids(host)
    host.write(agent_host.CONFIG, agent_host.pool(ovms='flags = ["--no_such_flag"]'))
    with Traffic(host, max_tokens=40) as traffic:
        traffic.wait_for_answers(host)
        halted = host.run("ovms-scalerctl", "reload", "--wait", check=False)
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    assert halted.returncode == 1
    assert "a usage error" in halted.stderr
    (left,) = agent_host.read_pids(host).items()
    assert left in before.items()


def test_paused_agent_leaves_everything_until_it_resumes(host: Host) -> None:
    host.run("ovms-scalerctl", "pause")
    host.run("systemctl", "restart", agent_host.AGENT)
    before = agent_host.read_footprint(host)
    waits = host.run("ovms-scalerctl", "drain", FIRST, "--wait", check=False)
    assert waits.returncode == 1
    assert "the agent is paused" in waits.stderr
    with Traffic(host) as traffic:
        shown = agent_host.wait_for_status(
            host, lambda found: found["deferred"], "the agent to say what it would do"
        )
        traffic.wait_for_answers(host, by=FIRST)
    traffic.assert_unharmed()
    assert "the agent is paused" in find_instance(shown, FIRST)["reason"]
    after = agent_host.read_footprint(host)
    for part in ("engines", "workers", "generation"):
        assert after[part] == before[part]
    host.run("ovms-scalerctl", "resume")
    agent_host.wait_for_state(host, FIRST, "drained")
