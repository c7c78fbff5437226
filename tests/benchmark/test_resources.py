# SPDX-License-Identifier: Apache-2.0
"""What the machine did during a run, and what of it is not known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ovms_scaler.bench.machine import hash_files, read_machine_facts
from ovms_scaler.bench.resources import (
    Level,
    Samples,
    Traffic,
    collect,
    parse_net_dev,
    read_traffic,
    sampled,
)
from ovms_scaler.errors import UnreachableError

NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls
    lo: 1000 10 0 0 0 0 0 0 1000 10 0 0 0 0 0 0
enp1s0f0: 5000 10 0 0 0 0 0 0 700 10 0 0 0 0 0 0
 veth0:7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0
nonsense
"""


def measures(at: float, cpu_share: float | None, *, requests: int | None = 0) -> dict[str, Any]:
    return {
        "at": at,
        "window_sec": 10.0,
        "use_span_sec": 5.0,
        "front": {"requests_total": requests},
        "nodes": [{"id": 0, "cpu_share": cpu_share, "memory_used_bytes": 100, "memory_bytes": 200}],
        "gpus": [{"address": "0000:03:00.0", "busy_share": None, "memory_used_bytes": None}],
        "instances": [{"id": "chat-numa0", "cpu_cores": 3.5, "memory_bytes": 50}],
    }


def test_only_windows_within_the_run_count() -> None:
    # The run is from 100 to 120: the second and third look are of it alone.
    samples = Samples(
        measures=[measures(104, 0.1), measures(106, 0.8), measures(112, 0.6), measures(121, 0.2)]
    )
    found = collect(samples, began_at=100.0, duration_sec=20.0)
    share = found.nodes["0"]["cpu_share"]
    assert share is not None
    assert [share.average, share.maximum] == pytest.approx([0.7, 0.8])
    assert found.instances["chat-numa0"]["cpu_cores"] == Level(average=3.5, maximum=3.5)
    assert found.missing == ""


def test_what_is_not_known_is_not_zero() -> None:
    found = collect(Samples(measures=[measures(106, None)]), began_at=100.0, duration_sec=20.0)
    assert found.nodes["0"]["cpu_share"] is None
    assert found.gpus["0000:03:00.0"] == {"busy_share": None, "memory_used_bytes": None}
    assert found.network == {}


def test_a_short_run_is_not_measured() -> None:
    found = collect(Samples(measures=[measures(103, 0.5)]), began_at=100.0, duration_sec=4.0)
    assert found.nodes == {}
    assert found.missing == "the run was shorter than the 5 s over which the agent measures"


def test_requests_of_others_are_seen_by_the_front() -> None:
    samples = Samples(measures=[measures(100, 0.5, requests=1000), measures(110, 0.5, requests=1300)])
    assert collect(samples, began_at=100.0, duration_sec=20.0).front_requests == 300
    samples.measures[1] = measures(110, 0.5, requests=None)
    assert collect(samples, began_at=100.0, duration_sec=20.0).front_requests is None


def test_the_network() -> None:
    traffic = [
        Traffic(at=0.0, bytes_by_interface={"lo": (0, 0)}),
        Traffic(at=1.0, bytes_by_interface={"lo": (100, 10)}),
        Traffic(at=2.0, bytes_by_interface={"lo": (500, 20)}),
        Traffic(at=2.1, bytes_by_interface={"lo": (600, 21)}),
    ]
    levels = collect(Samples(traffic=traffic), began_at=0.0, duration_sec=2.1).network["lo"]
    # The last step is too short to be a maximum.
    received = levels["receive_bytes_per_sec"]
    assert received is not None
    assert [received.average, received.maximum] == pytest.approx([600 / 2.1, 400.0])
    assert levels["transmit_bytes_per_sec"] == Level(average=10.0, maximum=10.0)


def test_counters_of_the_kernel() -> None:
    assert parse_net_dev(NET_DEV) == {"lo": (1000, 1000), "enp1s0f0": (5000, 700), "veth0": (7, 8)}
    assert parse_net_dev("") == {}


def test_only_devices_and_the_loopback_count(tmp_path: Path) -> None:
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/dev").write_text(NET_DEV)
    for name in ("lo", "veth0", "enp1s0f0/device"):
        (tmp_path / "sys/class/net" / name).mkdir(parents=True)
    assert set(read_traffic(tmp_path).bytes_by_interface) == {"lo", "enp1s0f0"}
    assert read_traffic(tmp_path / "nothing").bytes_by_interface == {}


async def test_an_agent_that_goes_away_is_told() -> None:
    def read() -> Mapping[str, Any]:
        raise UnreachableError("cannot reach the agent: it was ended")

    async with sampled(read) as samples:
        pass
    assert collect(samples, began_at=0.0, duration_sec=1.0).missing == "cannot reach the agent: it was ended"


async def test_it_looks_at_the_beginning_and_at_the_end() -> None:
    looks = iter([measures(100, 0.1, requests=5), measures(101, 0.1, requests=9)])
    async with sampled(lambda: next(looks)) as samples:
        pass
    assert collect(samples, began_at=0.0, duration_sec=1.0).front_requests == 4
    assert len(samples.traffic) == 2


async def test_nobody_to_ask_is_told() -> None:
    async with sampled(None, without="the front is elsewhere") as samples:
        pass
    found = collect(samples, began_at=0.0, duration_sec=1.0)
    assert (found.missing, found.network) == ("the front is elsewhere", {})


def test_facts_of_a_machine(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Intel(R) Xeon(R) 6972P\n")
    huge = tmp_path / "sys/kernel/mm/transparent_hugepage"
    huge.mkdir(parents=True)
    (huge / "enabled").write_text("always [madvise] never\n")
    facts = read_machine_facts(tmp_path)
    assert facts["cpu_model"] == "Intel(R) Xeon(R) 6972P"
    assert facts["transparent_hugepage"] == "madvise"
    assert facts["governor"] is None


def test_a_configuration_has_its_hash(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    assert hash_files([one]) == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    assert hash_files([one, two]) is None
