# SPDX-License-Identifier: Apache-2.0
"""Many requests at once are served, not rejected; what is beyond the waiting room hears so at once."""

from collections.abc import Callable

from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import ENVIRONMENT

pytestmark = agent_host.on_bookworm

# Slow enough that all are in flight together.
SLOW = {**ENVIRONMENT, "OVMS_STANDIN_TTFT_MS": "1000"}


def test_370_in_flight_on_each_instance_are_served(installed_image: Image) -> None:
    config = agent_host.pool(environment=SLOW)
    with agent_host.running_host(installed_image, config, in_rotation=2) as host:
        agent_host.wait_for_answer(host)
        counts = agent_host.burst(host, 2 * 370, stream="every second", max_tokens=4)
        assert (counts["lost"], counts["cut"]) == ([], [])
        assert counts["status"] == {"200": 740}
        # Least connections: neither gets much more than its share.
        assert sorted(counts["instances"]) == ["chat-numa0.0", "chat-numa0.1"]
        assert min(counts["instances"].values()) > 300


def test_1000_at_once_on_one_instance_are_served(boot: Callable[..., Host], installed_image: Image) -> None:
    config = agent_host.pool(instances=1, environment=SLOW)
    with agent_host.running_host(installed_image, config, in_rotation=1) as host:
        agent_host.wait_for_answer(host)
        counts = agent_host.burst(host, 1000)
        assert (counts["lost"], counts["cut"]) == ([], [])
        assert counts["status"] == {"200": 1000}
        # The engine works on 256 at a time, the others waited in it.
        assert counts["slowest_sec"] > 3.0


def test_beyond_the_waiting_room_clients_are_turned_away_at_once(installed_image: Image) -> None:
    slower = {**ENVIRONMENT, "OVMS_STANDIN_TTFT_MS": "1500"}
    config = agent_host.pool(
        instances=1, environment=slower, keys="waiting_room = 8", ovms="rest_workers = 5"
    )
    with agent_host.running_host(installed_image, config, in_rotation=1) as host:
        agent_host.wait_for_answer(host)
        counts = agent_host.burst(host, 40)
        assert (counts["lost"], counts["cut"]) == ([], [])
        # Four in work, eight that wait.
        assert counts["status"] == {"200": 12, "503": 28}
        assert counts["retry_after"] == {"5": 28}
        assert counts["slowest_refusal_sec"] < 1.0


def test_answers_that_outlast_the_time_of_old_workers_are_cut_and_counted(installed_image: Image) -> None:
    slow = {**ENVIRONMENT, "OVMS_STANDIN_TPOT_MS": "1000"}
    config = agent_host.pool(instances=1, environment=slow) + "[proxy]\nshutdown_timeout_sec = 5\n"
    with agent_host.running_host(installed_image, config, in_rotation=1) as host:
        agent_host.wait_for_answer(host)
        with agent_host.Traffic(host, burst=4, stream="all", max_tokens=60) as traffic:
            asked = "ss -Htn state established dport = :8003 | wc -l"
            host.wait_for(f'test "$({asked})" -ge 4', 30, "four answers under way")
            agent_host.reload(host, config + "retry_after_sec = 7\n")
            found = agent_host.wait_for_status(host, lambda it: it["proxy"]["old_workers"], "old workers")
            assert found["proxy"]["cut_requests"] == 0
            found = agent_host.wait_for_status(
                host, lambda it: it["proxy"]["cut_requests"] and not it["proxy"]["old_workers"], "the cut"
            )
        assert found["proxy"]["cut_requests"] == len(traffic.counts["cut"]) == 4
