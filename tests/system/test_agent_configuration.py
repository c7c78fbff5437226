# SPDX-License-Identifier: Apache-2.0
"""A configuration that cannot be used changes nothing but what is said about it."""

from collections.abc import Callable, Iterator

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Traffic, find_instance

GOOD = agent_host.pool()
BAD = GOOD.replace("instances_per_node = 2", 'instances_per_node = 0\nplacment = "numa"')


@pytest.fixture(scope="module")
def host(installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, GOOD, in_rotation=2) as booted:
        yield booted


def assert_bad_file_is_reported(host: Host) -> None:
    document = agent_host.read_status(host)
    assert "instances_per_node" in document["config"]["error"]
    assert len([entry for entry in document["instances"] if entry["in_rotation"]]) == 2
    shown = host.run("ovms-scalerctl", "status", check=False)
    assert shown.returncode == 1
    assert "instances_per_node" in shown.stdout + shown.stderr
    assert "not valid" in host.properties(agent_host.AGENT, "StatusText")["StatusText"]


def test_bad_file_is_refused_and_the_old_one_serves_on(host: Host) -> None:
    before = agent_host.read_footprint(host)
    with Traffic(host) as traffic:
        refused = agent_host.reload(host, BAD)
        assert refused.returncode == 1
        # All that is wrong, each with its file and the rule.
        assert f"{agent_host.CONFIG}: pool[0].instances_per_node" in refused.stderr
        assert 'did you mean "placement"' in refused.stderr
        assert host.run("systemctl", "reload", agent_host.AGENT, check=False).returncode != 0
        assert 'did you mean "placement"' in host.journal(agent_host.AGENT)
        assert_bad_file_is_reported(host)
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    assert agent_host.read_footprint(host) == before


def test_agent_restarted_on_a_bad_file_goes_on_with_the_accepted_one(host: Host) -> None:
    before = agent_host.read_footprint(host)
    host.write(agent_host.CONFIG, BAD)
    with Traffic(host) as traffic:
        host.run("systemctl", "restart", agent_host.AGENT)
        agent_host.wait_until_routed(host, 2)
        assert_bad_file_is_reported(host)
        traffic.wait_for_answers(host)
        host.write(agent_host.CONFIG, GOOD)
        host.run("systemctl", "reload", agent_host.AGENT)
    traffic.assert_unharmed()
    assert agent_host.read_status(host)["config"]["error"] == ""
    assert "not valid" not in host.properties(agent_host.AGENT, "StatusText")["StatusText"]
    assert agent_host.read_footprint(host) == before


def pools(late: str) -> str:
    """Two pools on a core each; the second serves another model at another port."""
    return agent_host.pool("chat", instances=1, keys='reserve_cpus = "1"') + agent_host.pool(
        "late", instances=1, path=late, keys='reserve_cpus = "0"\nlisten = "8001"'
    )


@agent_host.on_bookworm
def test_missing_model_hinders_its_own_pool_until_it_appears(
    boot: Callable[..., Host], installed_image: Image
) -> None:
    host = boot(installed_image, binds=agent_host.BINDS)
    host.write(agent_host.CONFIG, pools("/srv/models/late"))
    host.run("systemctl", "enable", "--now", agent_host.AGENT)
    agent_host.wait_until_routed(host, 1)
    agent_host.wait_for_answer(host)
    late = find_instance(agent_host.read_status(host), "late-numa0")
    assert late["state"] == "failed"
    assert "'/srv/models/late'" in late["reason"]
    assert "No such file or directory" in late["reason"]
    assert agent_host.ask(host, port=8001).status == 503
    before = agent_host.read_pids(host)
    host.run("cp", "-r", "/srv/models/tiny", "/srv/models/late")
    agent_host.wait_until_routed(host, 2, timeout_sec=20)
    agent_host.wait_for_answer(host, port=8001)
    assert agent_host.read_pids(host)["chat-numa0"] == before["chat-numa0"]


@agent_host.on_bookworm
def test_graph_for_another_device_is_reported_and_not_started(
    boot: Callable[..., Host], installed_image: Image
) -> None:
    host = boot(installed_image, binds=agent_host.BINDS)
    graph = (agent_host.BINDS["/srv/models/tiny"].parent / "model-with-graph" / "graph.pbtxt").read_text()
    host.run("cp", "-r", "/srv/models/tiny", "/srv/models/graph")
    host.write("/srv/models/graph/graph.pbtxt", graph.replace("../model", "./").replace("CPU", "GPU"))
    host.write(agent_host.CONFIG, pools("/srv/models/graph"))
    host.run("systemctl", "enable", "--now", agent_host.AGENT)
    agent_host.wait_until_routed(host, 1)
    late = find_instance(agent_host.read_status(host), "late-numa0")
    assert late["state"] == "failed"
    assert "GPU" in late["reason"]
    assert late["hint"]
    assert "late-numa0" not in agent_host.read_pids(host)
    agent_host.wait_for_answer(host)
