# SPDX-License-Identifier: Apache-2.0
"""What is measured on a booted host agrees with what clients counted, and with systemd and the kernel."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import ENVIRONMENT, Document, Traffic

pytestmark = agent_host.on_bookworm

TTFT_SEC = 0.2
SLOW = {**ENVIRONMENT, "OVMS_STANDIN_TTFT_MS": f"{TTFT_SEC * 1000:.0f}"}
NAMES = ["chat-numa0.0", "chat-numa0.1"]
CONFIG = agent_host.pool(environment=SLOW, keys="waiting_room = 8", ovms="rest_workers = 5")
ROOM = 2 * (4 + 8)


@pytest.fixture(scope="module")
def host(installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, CONFIG, in_rotation=2) as booted:
        agent_host.wait_for_answer(booted)
        yield booted


def read_measures(host: Host) -> Document:
    return dict(json.loads(host.run("ovms-scalerctl", "top", "--once", "--json").stdout))


def total(document: Document, key: str) -> int:
    return sum(one[key] for one in document["instances"])


def wait_for_requests(host: Host, count: int) -> Document:
    """The document when so many requests have been told of: datagrams are on their way for a moment."""
    found: list[Document] = []

    def holds() -> bool:
        found.append(read_measures(host))
        return bool(found[-1]["front"]["requests_total"] >= count)

    host.wait_for(holds, 30, f"{count} requests in the measures")
    return found[-1]


def test_what_clients_do_is_what_is_measured(host: Host) -> None:
    before = read_measures(host)
    with Traffic(host, workers=6) as traffic:
        traffic.wait_for_answers(host, 60)
        during = read_measures(host)
    traffic.assert_unharmed()
    after = wait_for_requests(host, before["front"]["requests_total"] + traffic.counts["sent"])
    # Not one request is lost, or counted twice.
    assert after["front"]["requests_total"] == before["front"]["requests_total"] + traffic.counts["sent"]
    assert total(after, "requests_total") - total(before, "requests_total") == traffic.counts["sent"]
    for one in after["instances"]:
        earlier = next(old for old in before["instances"] if old["id"] == one["id"])
        assert one["requests_total"] - earlier["requests_total"] == traffic.counts["instances"][one["id"]]
    assert during["front"]["requests_per_sec"] > 1
    assert 1 <= during["front"]["in_flight"] <= 6
    assert during["front"]["ttfb_sec"]["median"] >= TTFT_SEC * 0.8
    assert (after["front"]["errors_total"], after["front"]["rejected_total"]) == (0, 0)


def test_use_is_that_of_the_engines(host: Host) -> None:
    with Traffic(host, workers=6) as traffic:
        traffic.wait_for_answers(host, 20)
        document = read_measures(host)
    assert [one["id"] for one in document["instances"]] == NAMES
    for one in document["instances"]:
        shown = host.properties(f"ovms@{one['id']}.service", "CPUUsageNSec")["CPUUsageNSec"]
        assert 0 < one["cpu_sec_total"] <= int(shown) / 1e9
        assert 0 <= one["cpu_cores"] < 8
        assert one["memory_bytes"] > 1 << 20
        assert one["gpus"] == []
    (node,) = document["nodes"]
    assert 0 <= node["cpu_share"] <= 1
    assert 0 < node["memory_used_bytes"] < node["memory_bytes"]


def test_who_is_turned_away_is_counted_as_rejected(host: Host) -> None:
    before = read_measures(host)["front"]
    counts = agent_host.burst(host, 40)
    assert counts["status"]["503"] == 40 - ROOM
    after = wait_for_requests(host, before["requests_total"] + 40)["front"]
    assert after["rejected_total"] - before["rejected_total"] == 40 - ROOM
    assert after["errors_total"] == before["errors_total"]


def test_an_engine_that_is_killed_shows_as_errors_of_its_own(host: Host) -> None:
    before = read_measures(host)
    with Traffic(host, workers=6) as traffic:
        traffic.wait_for_answers(host, 20, by=NAMES[0])
        agent_host.kill(host, agent_host.read_pids(host)[NAMES[0]])
        agent_host.wait_for_state(host, NAMES[0], "starting", reason="signal 9")
        shown = host.run("ovms-scalerctl", "top", "--once").stdout
        agent_host.wait_until_routed(host, 2)
    after = wait_for_requests(host, before["front"]["requests_total"] + traffic.counts["sent"])
    assert errors_of(after, NAMES[0]) > errors_of(before, NAMES[0])
    assert errors_of(after, NAMES[1]) == errors_of(before, NAMES[1])
    assert f"{NAMES[0]} (starting for " in shown
    assert f"  next: journalctl -u ovms@{NAMES[0]}.service" in shown


def errors_of(document: Document, name: str) -> Any:
    return next(one["errors_total"] for one in document["instances"] if one["id"] == name)
