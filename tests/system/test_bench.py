# SPDX-License-Identifier: Apache-2.0
"""bench on a host: an instance dies under it, instances are drained, configurations take turns."""

import json
from collections.abc import Iterator

import pytest
from lab.host import Host
from lab.image import Image
from system.agent_host import (
    CONFIG,
    ENVIRONMENT,
    Document,
    find_instance,
    kill,
    on_bookworm,
    pool,
    read_pids,
    read_status,
    running_host,
    wait_for_status,
    wait_until_routed,
)

ONE, OTHER = "chat-numa0.0", "chat-numa0.1"
UNIT = "lab-bench.service"
REPORT, PAGE = "/run/lab/bench.json", "/run/lab/bench.html"
# Of 100 tokens at 10 ms each.
LOAD = ("--num-prompts", "60", "--max-concurrency", "8", "--output-len", "100", "--workers", "2", "--json")


@pytest.fixture(scope="module")
def host(installed_image: Image) -> Iterator[Host]:
    with running_host(installed_image, pool(), in_rotation=2) as booted:
        yield booted


def begin(host: Host, *arguments: str) -> None:
    """Start it as a service, so that what it prints and how it ends can be looked at."""
    host.run("rm", "-f", REPORT)
    output = (f"--property=StandardOutput=truncate:{REPORT}", "--property=StandardError=journal")
    settings = ("--quiet", "--property=RemainAfterExit=yes", "--property=KillMode=mixed", *output)
    host.run("systemd-run", f"--unit={UNIT}", *settings, "ovms-scalerctl", "bench", *arguments)


def end(host: Host) -> tuple[int, Document]:
    """Wait for its end: its exit status, and the report."""

    def is_over() -> bool:
        return host.properties(UNIT, "SubState")["SubState"] in ("exited", "failed")

    host.wait_for(is_over, 120, "bench to end")
    status = int(host.properties(UNIT, "ExecMainStatus")["ExecMainStatus"])
    text = host.read(REPORT)
    host.run("systemctl", "stop", UNIT, check=False)
    host.run("systemctl", "reset-failed", UNIT, check=False)
    return status, json.loads(text)


def wait_for_streams(host: Host, port: int, count: int) -> None:
    """Wait until so many requests are under way at an instance."""
    host.wait_for(f"test $(ss -Htn state established sport = :{port} | wc -l) -ge {count}", 30, "streams")


def test_an_instance_that_dies_in_the_middle_is_told_as_it_was(host: Host) -> None:
    wait_until_routed(host, 2)
    begin(host, *LOAD, "--html", PAGE)
    wait_for_streams(host, find_instance(read_status(host), OTHER)["port"], 4)
    kill(host, read_pids(host)[OTHER])
    status, report = end(host)
    (measurement,) = report["measurements"]
    summary = measurement["summary"]
    assert status == 1
    assert summary["successful_requests"] + summary["failed_requests"] == 60
    # What it had begun to answer was cut; whoever came later was answered by the other one.
    cut = {error["label"]: error for error in summary["errors"]}
    assert list(cut) == ["cut in mid-stream"]
    assert 1 <= cut["cut in mid-stream"]["count"] <= 8
    assert set(cut["cut in mid-stream"]["instances"]) == {OTHER}
    assert summary["instances"][ONE] > summary["instances"].get(OTHER, 0)
    # The engine's own count: 100 tokens each.
    assert summary["generated_tokens"] == summary["successful_requests"] * 100
    assert summary["tpot_sec"]["median"] >= 0.009
    assert "Failed requests over time" in host.read(PAGE)
    wait_until_routed(host, 2)


@on_bookworm
def test_a_curve_drains_and_takes_back(host: Host) -> None:
    wait_until_routed(host, 2)
    before = read_pids(host)
    begin(host, *LOAD, "--scale", "1,2", "--num-prompts", "24")
    status, report = end(host)
    assert (status, report["trouble"], report["left"]) == (0, "", [])
    points = {point["instances"]: point["names"] for point in report["curve"]["points"]}
    assert points == {1: [ONE], 2: [ONE, OTHER]}
    for measurement in report["measurements"]:
        assert set(measurement["summary"]["instances"]) == set(measurement["instances"])
    document = read_status(host)
    assert document["orders"]["drained"] == {}
    assert all(entry["in_rotation"] for entry in document["instances"])
    after = read_pids(host)
    # The one that was kept was left alone.
    assert (before[ONE] == after[ONE], before[OTHER] == after[OTHER]) == (True, False)


@on_bookworm
def test_a_curve_beside_one_unbound_instance(host: Host) -> None:
    wait_until_routed(host, 2)
    before = host.read(CONFIG)
    begin(host, *LOAD, "--scale", "1,2", "--against-whole", "--allow-outage", "--num-prompts", "24")
    status, report = end(host)
    assert (status, report["trouble"], report["left"]) == (0, "", [])
    groups = {one["group"]: set(one["summary"]["instances"]) for one in report["measurements"]}
    assert list(groups)[:2] == ["2 instances", "1 instance"]
    # One instance took the place of both, and did the load of both.
    (unbound,) = groups['placement = "whole"']
    assert unbound not in (ONE, OTHER)
    # A simulated engine is as fast wherever it runs, and takes as many requests as it gets.
    assert report["whole_ratio"]["mean"] == pytest.approx(1, rel=0.3)
    assert "one unbound instance" in report["whole_text"]
    assert host.read(CONFIG) == before
    wait_until_routed(host, 2)
    assert {entry["id"] for entry in read_status(host)["instances"]} == {ONE, OTHER}


@on_bookworm
def test_what_was_drained_is_taken_back_after_a_sigterm(host: Host) -> None:
    wait_until_routed(host, 2)
    begin(host, *LOAD, "--scale", "1", "--num-prompts", "10000")
    wait_for_status(host, lambda found: find_instance(found, OTHER)["state"] == "drained", "a drain")
    wait_for_streams(host, find_instance(read_status(host), ONE)["port"], 8)
    host.run("systemctl", "kill", "--kill-who=main", "--signal=TERM", UNIT)
    status, report = end(host)
    assert status == 130
    assert report["is_interrupted"]
    assert read_status(host)["orders"]["drained"] == {}
    wait_until_routed(host, 2)


@on_bookworm
def test_two_configurations_take_turns_and_the_first_is_put_back(host: Host) -> None:
    wait_until_routed(host, 2)
    before = host.read(CONFIG)
    host.write("/run/lab/fast.toml", before)
    host.write("/run/lab/slow.toml", pool(environment={**ENVIRONMENT, "OVMS_STANDIN_TPOT_MS": "30"}))
    files = ("/run/lab/fast.toml", "/run/lab/slow.toml")
    begin(host, *LOAD, "--num-prompts", "24", "--compare", *files, "--rounds", "3", "--allow-outage")
    status, report = end(host)
    assert (status, report["trouble"], report["left"]) == (0, "", [])
    labels = [measurement["group"] for measurement in report["measurements"]]
    first, second = "A (fast.toml)", "B (slow.toml)"
    assert labels == [first, second, second, first, first, second]
    verdicts = {verdict["name"]: verdict for verdict in report["comparison"]["verdicts"]}
    assert verdicts["tpot_median_sec"]["better"] == "A"
    assert verdicts["tpot_median_sec"]["ratio"]["mean"] == pytest.approx(3, rel=0.2)
    assert host.read(CONFIG) == before
    assert "bench" not in host.run("ls", "-A", "/etc/ovms-scaler").stdout
    wait_until_routed(host, 2)
