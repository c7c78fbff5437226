# SPDX-License-Identifier: Apache-2.0
"""Engines that cannot go on: not tried again where that is hopeless or endless, and said with a way out."""

from collections.abc import Callable

from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Traffic, find_instance

FIRST, SECOND = "chat-numa0.0", "chat-numa0.1"


@agent_host.on_bookworm
def test_usage_error_is_not_retried(boot: Callable[..., Host], installed_image: Image) -> None:
    host = boot(installed_image, binds=agent_host.BINDS)
    host.write(agent_host.CONFIG, agent_host.pool(ovms='flags = ["--no_such_flag"]'))
    host.run("systemctl", "enable", "--now", agent_host.AGENT)
    found = agent_host.wait_for_state(host, FIRST, "failed", reason="exit status 64")
    assert "usage error" in found["reason"]
    assert found["hint"].startswith(f"journalctl -u ovms@{FIRST}.service")
    assert "no_such_flag" in host.journal(f"ovms@{FIRST}.service")
    for _ in range(3):
        agent_host.reload(host)
        shown = host.properties(f"ovms@{FIRST}.service", "ActiveState", "NRestarts", "ExecMainStatus")
        assert shown == {"ActiveState": "failed", "NRestarts": "0", "ExecMainStatus": "64"}
    assert host.journal(f"ovms@{FIRST}.service").count("no_such_flag") == 1
    agent_host.reload(host, agent_host.pool())
    agent_host.wait_until_routed(host, 2)


def test_crash_loop_is_quarantined_with_a_way_out(installed_image: Image) -> None:
    with agent_host.running_host(installed_image, agent_host.pool(), in_rotation=2) as host:
        # From now on its first generation ends every engine, so that one which was killed never gets warm.
        victim = agent_host.read_pids(host)[FIRST]
        host.write(agent_host.FAULT, "crash")
        agent_host.kill(host, victim)
        found = agent_host.wait_for_state(host, FIRST, "quarantined", timeout_sec=60)
        assert "it kept failing" in found["reason"]
        assert "exit status 1" in found["reason"]
        assert find_instance(agent_host.read_status(host), SECOND)["in_rotation"]
        host.run("rm", agent_host.FAULT)
        way_out = found["hint"].rpartition("then: ")[2]
        with Traffic(host) as traffic:
            host.script(way_out)
            agent_host.wait_until_routed(host, 2)
            traffic.wait_for_answers(host, by=FIRST)
        traffic.assert_unharmed()
