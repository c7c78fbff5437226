# SPDX-License-Identifier: Apache-2.0
"""The agent's own metrics: every one from the documents, and none of what is unknown."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from ovms_scaler.core.lifecycle import State
from ovms_scaler.core.metrics import REASONS, Family, engine_families, families_of
from ovms_scaler.core.tally import Tally

BUCKETS = {"0.1": 3, "1": 5, "+Inf": 6}
FRONT: Mapping[str, Any] = {
    "requests_total": 9, "errors_total": 1, "rejected_total": 2, "retried_total": 3, "incomplete_total": 4,
    "in_flight": 5, "ttfb_histogram": {"buckets": BUCKETS, "sum_sec": 7.5},
}  # fmt: skip
INSTANCE: Mapping[str, Any] = {
    "id": "chat-numa0", "state": "ready", "since": 1785117127.0, "in_rotation": True, "outdated": False,
    "weight": 32, "restarts": 4, "pool": "chat", "device": "CPU", "node": 0, "port": 8003,
    "upstream": "chat",
}  # fmt: skip
MEASURED: Mapping[str, Any] = {
    "id": "chat-numa0", "requests_total": 9, "errors_total": 1, "in_flight": 5, "cpu_sec_total": 12.5,
    "memory_bytes": 4096, "memory_by_node": {"0": 4095, "1": 1},
    "gpus": [{"address": "0000:03:00.0", "busy_share": 0.5, "memory_bytes": 1024}],
    "ttfb_histogram": {"buckets": BUCKETS, "sum_sec": 7.5},
}  # fmt: skip
NODE = {"id": 0, "cpu_share": 0.25, "memory_used_bytes": 10, "memory_bytes": 100}
GPU = {"address": "0000:03:00.0", "busy_share": 0.5, "memory_used_bytes": 1024}


def status(*instances: Mapping[str, Any], **parts: Any) -> dict[str, Any]:
    return {
        "instances": list(instances),
        "proxy": {"listen": ["8000"], "state": "active", "error": "", "old_workers": 1, "cut_requests": 2},
        "config": {"error": ""},
        "problems": [],
        "orders": {"paused_since": None},
        "observed_sec": 100.0,
        **parts,
    }


def measures(*instances: Mapping[str, Any], **parts: Any) -> dict[str, Any]:
    return {"front": FRONT, "instances": list(instances), "nodes": [NODE], "gpus": [GPU], **parts}


def read(families: list[Family]) -> dict[str, dict[str, float]]:
    """Values by name and labels, as Prometheus prints these."""
    found: dict[str, dict[str, float]] = {}
    for family in families:
        for one in family.samples:
            labels = ",".join(f"{name}={text}" for name, text in sorted(one.labels.items()))
            assert labels not in found.setdefault(family.name + one.suffix, {})
            found[family.name + one.suffix][labels] = one.value
    return found


def take(
    status_now: Mapping[str, Any] | None = None,
    measured: Mapping[str, Any] | None = None,
    tally: Tally | None = None,
) -> dict[str, dict[str, float]]:
    families = families_of(
        status_now or status(INSTANCE),
        measured or measures(MEASURED),
        tally or Tally(),
        version="0.1.0",
        now_sec=102.5,
    )
    assert len({family.name for family in families}) == len(families)
    return read(families)


def test_agent() -> None:
    tally = Tally()
    tally.passes.note(0.2)
    tally.note_event({"event": "paused", "level": "error"})
    found = take(tally=tally)
    assert found["build_info"] == {"version=0.1.0": 1}
    assert found["observation_age_seconds"] == {"": 2.5}
    assert found["problems"] == {"": 0}
    assert (found["config_valid"], found["paused"]) == ({"": 1}, {"": 0})
    assert found["events_total"] == {
        "level=info": 0,
        "level=warning": 0,
        "level=error": 1,
        "level=critical": 0,
    }
    assert found["pass_duration_seconds_count"] == {"": 1}
    assert found["pass_duration_seconds_bucket"]["le=0.1"] == 0
    assert found["pass_duration_seconds_bucket"]["le=0.25"] == 1


def test_agent_in_trouble() -> None:
    found = take(
        status(
            problems=["one", "two"], config={"error": "no TOML"}, orders={"paused_since": 1785117127.0},
            proxy={**status()["proxy"], "state": "failed", "error": "no"},
        )
    )  # fmt: skip
    names = ("problems", "config_valid", "paused", "proxy_up", "proxy_failing")
    assert [found[name][""] for name in names] == [2, 0, 1, 0, 1]


@pytest.mark.parametrize(("listen", "state"), [([], "inactive"), (["8000"], None)])
def test_a_proxy_that_need_not_run_or_is_not_known_is_not_down(listen: list[str], state: str | None) -> None:
    proxy = {"listen": listen, "state": state, "error": "", "old_workers": 0, "cut_requests": 0}
    assert "proxy_up" not in take(status(proxy=proxy))


def test_front() -> None:
    tally = Tally(proxy_changes=6)
    found = take(tally=tally)
    assert (found["proxy_up"], found["proxy_failing"]) == ({"": 1}, {"": 0})
    assert (found["proxy_changes_total"], found["proxy_old_workers"]) == ({"": 6}, {"": 1})
    assert found["front_cut_requests_total"] == {"": 2}
    names = ("requests", "errors", "rejected", "retried", "incomplete")
    assert [found[f"front_{name}_total"][""] for name in names] == [9, 1, 2, 3, 4]
    assert found["front_in_flight"] == {"": 5}
    assert found["front_time_to_first_byte_seconds_bucket"] == {"le=0.1": 3, "le=1": 5, "le=+Inf": 6}
    assert found["front_time_to_first_byte_seconds_count"] == {"": 6}
    assert found["front_time_to_first_byte_seconds_sum"] == {"": 7.5}


def test_instances() -> None:
    tally = Tally()
    tally.kills["chat-numa0"] = 3
    found = take(tally=tally)
    name = "instance=chat-numa0"
    assert found["instance_info"] == {f"device=CPU,{name},node=0,pool=chat,port=8003,upstream=chat": 1}
    assert found["instance_state"] == {f"{name},state={state}": float(state == "ready") for state in State}
    expected = {
        "state_since_timestamp_seconds": 1785117127.0, "in_rotation": 1, "outdated": 0, "weight": 32,
        "restarts_total": 4, "kills_total": 3, "requests_total": 9, "errors_total": 1, "in_flight": 5,
        "cpu_seconds_total": 12.5, "memory_bytes": 4096, "time_to_first_byte_seconds_count": 6,
    }  # fmt: skip
    assert {key: found[f"instance_{key}"] for key in expected} == {
        key: {name: value} for key, value in expected.items()
    }
    assert found["instance_node_memory_bytes"] == {f"{name},node=0": 4095, f"{name},node=1": 1}
    gpu = f"gpu=0000:03:00.0,{name}"
    assert found["instance_gpu_busy_ratio"] == {gpu: 0.5}
    assert found["instance_gpu_memory_bytes"] == {gpu: 1024}


def test_an_instance_that_is_no_longer_wanted_has_no_upstream() -> None:
    gone = {**INSTANCE, **dict.fromkeys(("pool", "device", "node", "port", "upstream", "weight", "since"))}
    found = take(status(gone))
    assert found["instance_info"] == {"device=,instance=chat-numa0,node=,pool=,port=,upstream=": 1}
    assert "instance_weight" not in found
    assert "instance_state_since_timestamp_seconds" not in found


def test_hardware() -> None:
    tally = Tally()
    tally.hangs["0000:18:00.0"] = 2
    found = take(tally=tally)
    assert found["node_cpu_busy_ratio"] == {"node=0": 0.25}
    assert (found["node_memory_used_bytes"], found["node_memory_bytes"]) == ({"node=0": 10}, {"node=0": 100})
    assert found["gpu_busy_ratio"] == {"gpu=0000:03:00.0": 0.5}
    assert found["gpu_memory_used_bytes"] == {"gpu=0000:03:00.0": 1024}
    # A counter that begins with 1 would hide its first increase; one that has gone is not forgotten.
    assert found["gpu_hangs_total"] == {"gpu=0000:03:00.0": 0, "gpu=0000:18:00.0": 2}


def test_what_is_unknown_has_no_sample() -> None:
    def forget(document: Mapping[str, Any], *but: str) -> dict[str, Any]:
        return {key: document[key] if key in but else None for key in document}

    found = take(
        status(INSTANCE),
        measures(
            forget({**MEASURED, "gpus": [forget(GPU | {"memory_bytes": 1}, "address")]}, "id", "gpus"),
            front=forget(FRONT),
            nodes=[forget(NODE, "id")],
            gpus=[forget(GPU, "address")],
        ),
    )
    measured = ("front_", "instance_requests", "instance_cpu", "instance_memory", "instance_time", "node_")
    left = {name for name in found if name.startswith((*measured, "instance_gpu", "instance_node", "gpu_"))}
    assert left == {"front_cut_requests_total", "gpu_hangs_total"}


def test_nothing_to_serve() -> None:
    found = take(status(), measures(nodes=[], gpus=[]))
    assert not [name for name in found if name.startswith(("instance_", "node_", "gpu_"))]


def test_names_are_those_that_prometheus_recommends() -> None:
    """Snake case, base units at the end, counters by kind (prometheus.io/docs/practices/naming)."""
    families = families_of(status(INSTANCE), measures(MEASURED), Tally(), version="1", now_sec=0.0)
    for family in families:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", family.name)
        assert not family.name.endswith(("_total", "_info", "_count", "_sum", "_bucket"))
        assert not re.search(r"_(sec|ms|kib|percent|share)(_|$)", family.name)
        assert family.kind in ("counter", "gauge", "histogram", "info")
        assert family.doc.endswith(".")


def test_engines() -> None:
    found = read(
        list(
            engine_families(
                ["chat-numa0", "chat-numa1"],
                {"chat-numa0"},
                {("chat-numa1", "invalid"): 2, ("gone", "x"): 1},
            )
        )
    )
    assert found["engine_metrics_up"] == {"instance=chat-numa0": 1, "instance=chat-numa1": 0}
    failures = found["engine_metrics_failures_total"]
    assert len(failures) == 2 * len(REASONS)
    assert {labels for labels, count in failures.items() if count} == {"instance=chat-numa1,reason=invalid"}
