# SPDX-License-Identifier: Apache-2.0
"""Ports that another program holds and addresses that are not there: said, survived, and tried again."""

from collections.abc import Callable, Iterator

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Traffic

FIRST, SECOND = "chat-numa0.0", "chat-numa0.1"


def start(host: Host, config: str) -> None:
    host.run("mkdir", "-p", "/run/lab")
    host.write(agent_host.CONFIG, config)
    host.run("systemctl", "enable", "--now", agent_host.AGENT)


def listening(port: str) -> str:
    return agent_host.pool(keys=f'listen = "{port}"')


def wait_for_proxy_error(host: Host, text: str) -> None:
    agent_host.wait_for_status(
        host, lambda found: text in found["proxy"]["error"], f"the proxy's error to say {text!r}"
    )


def wait_until_proxy_is_well(host: Host) -> None:
    agent_host.wait_for_status(host, lambda found: not found["proxy"]["error"], "the proxy's error to go")


@agent_host.on_bookworm
def test_engine_whose_port_is_taken_is_reported_and_comes_when_it_is_free(
    boot: Callable[..., Host], installed_image: Image
) -> None:
    host = boot(installed_image, binds=agent_host.BINDS)
    agent_host.occupy(host, "squatter", "127.0.0.1", 8003)
    start(host, agent_host.pool())
    agent_host.wait_until_routed(host, 1)
    found = agent_host.wait_for_state(host, FIRST, "starting", reason="exit status 1")
    assert found["hint"] == f"journalctl -u {found['unit']}"
    assert "address already in use" in host.journal(found["unit"])
    assert agent_host.ask(host).headers["x-ovms-instance"] == SECOND
    host.run("systemctl", "stop", "squatter")
    agent_host.wait_until_routed(host, 2)


@agent_host.on_bookworm
def test_front_whose_port_is_taken_at_first_start_comes_when_it_is_free(
    boot: Callable[..., Host], installed_image: Image
) -> None:
    host = boot(installed_image, binds=agent_host.BINDS)
    agent_host.occupy(host, "squatter", "0.0.0.0", 8000)
    start(host, agent_host.pool())
    wait_for_proxy_error(host, "bind() to 0.0.0.0:8000 failed (98: Address already in use)")
    assert host.run("ovms-scalerctl", "status", check=False).returncode == 1
    host.run("systemctl", "stop", "squatter")
    agent_host.wait_until_routed(host, 2)
    agent_host.wait_for_answer(host)
    wait_until_proxy_is_well(host)


@pytest.fixture(scope="module")
def host(installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, agent_host.pool(), in_rotation=2) as booted:
        yield booted


def read_configuration(host: Host) -> str:
    return host.read("/run/ovms-scaler-proxy/nginx.conf")


def test_new_front_whose_port_is_taken_leaves_the_old_one_until_it_is_free(host: Host) -> None:
    before, engines = read_configuration(host), agent_host.read_pids(host)
    agent_host.occupy(host, "squatter", "0.0.0.0", 8010)
    with Traffic(host) as traffic:
        assert agent_host.reload(host, listening("8010")).returncode == 0
        wait_for_proxy_error(host, "0.0.0.0:8010 failed (98: Address already in use)")
        assert read_configuration(host) == before
        traffic.wait_for_answers(host)
    traffic.assert_unharmed()
    host.run("systemctl", "stop", "squatter")
    # It would be tried again by itself after half a minute.
    agent_host.reload(host)
    wait_until_proxy_is_well(host)
    agent_host.wait_for_answer(host, port=8010)
    agent_host.reload(host, agent_host.pool())
    host.wait_for(lambda: read_configuration(host) == before, 30, "the old front to come back")
    assert agent_host.read_pids(host) == engines


def test_configuration_that_nginx_refuses_is_rolled_back_and_reported(host: Host) -> None:
    before = agent_host.read_footprint(host)
    with Traffic(host) as traffic:
        # An address that this host does not have.
        assert agent_host.reload(host, listening("10.255.255.1:8000")).returncode == 0
        wait_for_proxy_error(host, "10.255.255.1:8000 failed (99: Cannot assign requested address)")
        assert read_configuration(host).count("listen 8000 ") == 1
        # Who is in rotation does not depend on it: a killed engine leaves and comes back.
        agent_host.kill(host, before["engines"][FIRST])
        agent_host.wait_for_state(host, FIRST, "ready", timeout_sec=60)
        traffic.wait_for_answers(host, by=FIRST)
        host.run("systemctl", "restart", agent_host.AGENT)
        wait_for_proxy_error(host, "Cannot assign requested address")
        agent_host.reload(host, agent_host.pool())
        wait_until_proxy_is_well(host)
    assert traffic.counts["lost"] == []
    assert agent_host.ask(host).status == 200
    assert read_configuration(host).count("listen 8000 ") == 1
    assert agent_host.read_pids(host)[SECOND] == before["engines"][SECOND]
