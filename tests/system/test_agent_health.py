# SPDX-License-Identifier: Apache-2.0
"""Engines that run and do not infer: found out, out of rotation, killed, and back when they are well."""

from collections.abc import Iterator

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Traffic

FIRST, SECOND = "chat-numa0.0", "chat-numa0.1"
# What this file says is wrong with the first engine only.
ILLNESS = "/run/lab/illness"
OVERRIDE = f"/etc/systemd/system/ovms@{FIRST}.service.d/90-lab.conf"
# Engines that use CPU time while they generate, as real ones do.
BUSY = {**agent_host.ENVIRONMENT, "OVMS_STANDIN_BURN": "1"}
HEALTH = """
[health]
stall_sec = 4
canary_interval_sec = 2
canary_timeout_sec = 2
repair_attempts = 20
"""

pytestmark = agent_host.on_bookworm


@pytest.fixture(name="host", scope="module")
def host_with_two(installed_image: Image) -> Iterator[Host]:
    with Host.boot(installed_image, binds=agent_host.BINDS) as host:
        host.run("mkdir", "-p", "/run/lab")
        host.write(OVERRIDE, f"[Service]\nEnvironment=OVMS_STANDIN_FAULTS={ILLNESS}\n")
        host.write(agent_host.CONFIG, agent_host.pool(environment=BUSY) + HEALTH)
        host.run("systemctl", "enable", "--now", agent_host.AGENT)
        agent_host.wait_until_routed(host, 2)
        yield host


def wait_until_killed(host: Host, pid: int) -> None:
    host.wait_for(lambda: agent_host.read_pids(host).get(FIRST) not in (pid, None), 60, "another process")


def test_one_that_answers_with_errors_is_ejected_and_repaired(host: Host) -> None:
    pid = agent_host.read_pids(host)[FIRST]
    with Traffic(host) as traffic:
        traffic.wait_for_answers(host, by=FIRST)
        host.write(ILLNESS, "errors")
        wait_until_killed(host, pid)
        traffic.wait_for_answers(host, by=SECOND)
        agent_host.wait_until_routed(host, 1)
        host.run("rm", ILLNESS)
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host, by=FIRST)
    assert (traffic.counts["lost"], traffic.counts["cut"]) == ([], [])
    assert traffic.counts["status"].keys() == {"200", "400"}
    assert SECOND in agent_host.read_pids(host)


def test_no_unary_request_is_lost_to_a_busy_one_that_stands_still(host: Host) -> None:
    pids = agent_host.read_pids(host)
    with Traffic(host, stream="no") as traffic:
        traffic.wait_for_answers(host, by=FIRST)
        host.run("kill", "-STOP", str(pids[FIRST]))
        wait_until_killed(host, pids[FIRST])
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host, by=FIRST)
    traffic.assert_unharmed()
    assert agent_host.read_pids(host)[SECOND] == pids[SECOND]


def test_a_client_that_sends_bad_requests_only_ejects_nobody(host: Host) -> None:
    pids = agent_host.read_pids(host)
    for _ in range(200):
        body = {"model": agent_host.MODEL, "prompt": 7}
        assert host.http("POST", "/v3/completions", port=8000, body=body).status == 400
    agent_host.wait_until_routed(host, 2)
    assert agent_host.read_pids(host) == pids


def test_one_that_hangs_while_nobody_asks_is_found_and_repaired(host: Host) -> None:
    pid = agent_host.read_pids(host)[FIRST]
    host.write(ILLNESS, "wedge")
    wait_until_killed(host, pid)
    host.run("rm", ILLNESS)
    agent_host.wait_until_routed(host, 2)
    assert "it gave no token within 4 s" in host.journal(agent_host.AGENT)


def test_no_unary_request_is_lost_to_one_that_hangs_with_requests_in_work(host: Host) -> None:
    pids = agent_host.read_pids(host)
    with Traffic(host, stream="no") as traffic:
        traffic.wait_for_answers(host, by=FIRST)
        host.write(ILLNESS, "wedge")
        wait_until_killed(host, pids[FIRST])
        host.run("rm", ILLNESS)
        agent_host.wait_until_routed(host, 2)
        traffic.wait_for_answers(host, by=FIRST)
    traffic.assert_unharmed()
    assert agent_host.read_pids(host)[SECOND] == pids[SECOND]
    assert "requests in work got no further for 4 s" in host.journal(agent_host.AGENT)


def test_the_record_is_for_the_proxy_only(host: Host) -> None:
    shown = host.run("stat", "-c", "%U:%G %a", "/run/ovms-scaler/access/log.sock").stdout.strip()
    assert shown == "root:ovms-scaler-proxy 720"
    assert "connect() failed" not in host.journal(agent_host.PROXY)
