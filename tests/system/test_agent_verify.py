# SPDX-License-Identifier: Apache-2.0
"""verify in a booted host: nothing is found where all is as planned, and everything that was planted is."""

import json
from collections.abc import Callable, Iterator

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Document, find_instance

FIRST, SECOND = "chat-numa0.0", "chat-numa0.1"
UNIT = f"ovms@{FIRST}.service"
ROUTE = f"/run/ovms-scaler-proxy/routes/chat/{FIRST}.conf"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/mine.conf"


@pytest.fixture
def host(boot: Callable[..., Host], installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, agent_host.pool(), in_rotation=2) as booted:
        yield booted


def verify(host: Host, *arguments: str) -> tuple[int, Document]:
    done = host.run("ovms-scalerctl", "verify", "--json", *arguments, check=False)
    return done.returncode, dict(json.loads(done.stdout))


def list_drifts(document: Document) -> list[tuple[str, str]]:
    return [(one["subject"], one["what"]) for one in document["drifts"]]


def read_first_thread(host: Host, pid: int) -> str:
    """A thread of the process that is not its first."""
    return host.run("ls", f"/proc/{pid}/task").stdout.split()[-1]


def test_nothing_is_found_where_all_is_as_planned(host: Host) -> None:
    status, document = verify(host)
    assert (status, document["drifts"], document["unseen"]) == (0, [], [])
    planned = json.loads(host.run("ovms-scalerctl", "plan", "--json").stdout)["instances"]
    found = {one["id"]: one for one in document["instances"]}
    for one in planned:
        assert found[one["id"]]["cpus"] == one["cpus"]
        assert found[one["id"]]["policies"] == [f"bind:{one['memory_nodes']}"]
        assert found[one["id"]]["listening"] == [f"127.0.0.1:{one['port']}"]
    shown = host.run("ovms-scalerctl", "verify").stdout
    assert shown.endswith("All is as planned.\n")
    # The agent is not needed for that.
    host.run("systemctl", "stop", agent_host.AGENT)
    alone = host.run("ovms-scalerctl", "verify", "--json")
    assert json.loads(alone.stdout)["drifts"] == []
    assert "compared with what it planned last" in alone.stderr
    # Others than root are told what they cannot see, and nothing wrong.
    other = host.run("runuser", "-u", "nobody", "--", "ovms-scalerctl", "verify", "--json")
    document = json.loads(other.stdout)
    assert document["drifts"] == []
    assert "proxy: run this as root" in document["unseen"]
    host.run("systemctl", "start", agent_host.AGENT)


def test_everything_that_is_planted_is_named(host: Host) -> None:
    # The agent would put the files right.
    host.run("ovms-scalerctl", "pause")
    pids = agent_host.read_pids(host)
    plans = {
        one["id"]: one
        for one in json.loads(host.run("ovms-scalerctl", "plan", "--json").stdout)["instances"]
    }
    thread = read_first_thread(host, pids[FIRST])
    host.run("taskset", "--pid", "--cpu-list", plans[SECOND]["cpus"], thread)
    status, document = verify(host)
    assert (status, list_drifts(document)) == (
        1,
        [(FIRST, "CPUs of its threads"), (FIRST, "cores of its own")],
    )
    assert thread in document["drifts"][0]["found"]
    host.run("taskset", "--pid", "--cpu-list", plans[FIRST]["cpus"], thread)

    host.write(DROP_IN, "[Service]\nNice=5\n")
    host.run("systemctl", "daemon-reload")
    assert list_drifts(verify(host, FIRST)[1]) == [(FIRST, "drop-ins of its unit")]
    assert verify(host)[1]["drifts"][0]["found"] == DROP_IN
    host.run("rm", DROP_IN)
    host.run("systemctl", "daemon-reload")

    text = host.read(ROUTE)
    host.write(ROUTE, text.replace("weight=1 ", "weight=9 "))
    found = list_drifts(verify(host)[1])
    assert found == [("proxy", ROUTE), ("proxy", "/run/ovms-scaler-proxy/generation.conf")]
    host.write(ROUTE, text)

    graph = f"/run/ovms-scaler/instances/{SECOND}/graph.pbtxt"
    text = host.read(graph)
    host.write(graph, text + "# mine\n")
    assert list_drifts(verify(host, SECOND)[1]) == [(SECOND, graph)]
    host.write(graph, text)

    assert verify(host)[0] == 0
    assert agent_host.read_pids(host) == pids


@agent_host.on_bookworm
def test_instance_that_ended_is_named_and_one_that_is_drained_is_not(host: Host) -> None:
    host.run("ovms-scalerctl", "drain", FIRST, "--wait")
    status, document = verify(host)
    assert (status, document["drifts"]) == (0, [])
    assert find_instance(document, FIRST)["skipped"] == "drained"
    host.run("ovms-scalerctl", "undrain", FIRST, "--wait")
    host.run("ovms-scalerctl", "pause")
    agent_host.close_gate(host)
    agent_host.kill(host, agent_host.read_pids(host)[FIRST])
    host.wait_for(lambda: verify(host)[0] == 1, 30, "the end to be named")
    agent_host.open_gate(host)
