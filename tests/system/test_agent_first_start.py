# SPDX-License-Identifier: Apache-2.0
"""From an installed package to answers: nobody is asked before it can answer, each is where it belongs."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import paths
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import ENVIRONMENT, Document

CLIENT = str(paths.LAB / "client.py")
# Loading and the first generation of all, slow enough to be seen.
SLOW = agent_host.pool(environment={**ENVIRONMENT, "OVMS_STANDIN_FIRST_MS": "1500"})
# Real inference where the stand-in's OpenVINO runs, on Debian 12.
REAL = agent_host.pool(environment={})


def assert_turned_away(host: Host) -> None:
    """A client gets the error in OpenAI's form, at once."""
    began = time.monotonic()
    answer = agent_host.ask(host)
    assert time.monotonic() - began < 1.0
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["message"]


def test_clients_are_turned_away_until_an_engine_is_warm(
    boot: Callable[..., Host], host_image: Image, debs: list[Path]
) -> None:
    host = boot(host_image, binds=agent_host.BINDS)
    host.install(*debs)
    assert host.run("systemctl", "is-enabled", agent_host.AGENT, check=False).stdout == "disabled\n"
    assert host.properties(agent_host.AGENT, "ActiveState") == {"ActiveState": "inactive"}
    host.write(agent_host.CONFIG, SLOW)
    agent_host.close_gate(host)
    # Returns after the first look at the host, however long the engines load.
    host.run("systemctl", "enable", "--now", agent_host.AGENT, timeout_sec=10)
    for name, port in (("chat-numa0.0", 8003), ("chat-numa0.1", 8004)):
        agent_host.wait_for_state(host, name, "loading")
        assert host.http("GET", "/v1/config", port=port).text == "{}"
    agent_host.wait_until_routed(host, 0)
    assert agent_host.read_routes(host) == set()
    assert_turned_away(host)
    agent_host.open_gate(host)
    for name in ("chat-numa0.0", "chat-numa0.1"):
        agent_host.wait_for_state(host, name, "warming")
    assert agent_host.read_routes(host) == set()
    assert_turned_away(host)
    agent_host.wait_until_routed(host, 2)
    agent_host.wait_for_answer(host)
    assert host.run("systemctl", "is-enabled", agent_host.AGENT).stdout == "enabled\n"
    assert host.run("ovms-scalerctl", "status").stdout.count("ready") == 2


@pytest.fixture(scope="module")
def serving(installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, REAL, in_rotation=2) as host:
        yield host


def read_plan(host: Host) -> list[Document]:
    return list(json.loads(host.run("ovms-scalerctl", "plan", "--json").stdout)["instances"])


def test_kernel_confines_each_engine_as_planned(serving: Host) -> None:
    pids = agent_host.read_pids(serving)
    plan = read_plan(serving)
    assert {entry["id"] for entry in plan} == pids.keys()
    for entry in plan:
        status = serving.read(f"/proc/{pids[entry['id']]}/status")
        assert re.findall(r"^Cpus_allowed_list:\t(.*)$", status, re.MULTILINE) == [entry["cpus"]]
        mappings = serving.read(f"/proc/{pids[entry['id']]}/numa_maps").splitlines()
        # Of those that have memory: OpenVINO reserves some with a policy of its own.
        policies = {line.split()[1] for line in mappings if re.search(r" N\d+=", line)}
        assert policies == {f"bind:{entry['memory_nodes']}"}
        shown = serving.properties(entry["unit"], "CPUAffinity", "NUMAPolicy", "NUMAMask")
        assert shown == {
            "CPUAffinity": entry["cpus"],
            "NUMAPolicy": "bind",
            "NUMAMask": entry["memory_nodes"],
        }
    assert len({entry["cpus"] for entry in plan}) == len(plan)


@pytest.mark.parametrize("verb", ["chat", "stream"])
def test_openai_client_gets_an_answer_through_the_front(serving: Host, verb: str) -> None:
    url = "http://127.0.0.1:8000/v3"
    shown = serving.netns_run(sys.executable, CLIENT, url, agent_host.MODEL, verb).stdout
    words, _, count = shown.strip().rpartition("\n")
    assert words.strip()
    assert count.startswith("(")


def test_answer_names_its_instance(serving: Host) -> None:
    names = {agent_host.ask(serving).headers["x-ovms-instance"] for _ in range(8)}
    assert names == agent_host.read_pids(serving).keys()


@agent_host.on_bookworm
def test_inference_is_real_on_debian_12(serving: Host) -> None:
    assert "Stand-in engine: OpenVINO" in serving.journal("ovms@chat-numa0.0.service")
