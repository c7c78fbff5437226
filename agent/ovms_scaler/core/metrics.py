# SPDX-License-Identifier: Apache-2.0
"""The agent's own metrics, from the documents that people are shown. What is unknown has no sample."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ovms_scaler.core.event import LEVELS
from ovms_scaler.core.lifecycle import State
from ovms_scaler.core.tally import Tally

PREFIX = "ovms_scaler_"
# Why the metrics of an engine are left out.
REASONS = ("no_answer", "too_large", "invalid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """``suffix`` belongs to the name, as ``_bucket``."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


@dataclass(slots=True, kw_only=True)
class Family:
    """One metric; ``kind`` in the words of Prometheus, ``name`` without PREFIX and without ``_total``."""

    name: str
    kind: str
    doc: str
    samples: list[Sample] = field(default_factory=list)

    def add(self, value: float | None, **labels: object) -> None:
        """One sample; None is unknown, and left out."""
        if value is not None:
            texts = {name: str(text) for name, text in labels.items()}
            suffix = "_total" if self.kind == "counter" else "_info" if self.kind == "info" else ""
            self.samples.append(Sample(labels=texts, value=float(value), suffix=suffix))

    def add_histogram(
        self, buckets: Iterable[tuple[str, float]], sum_of_all: float, **labels: object
    ) -> None:
        """``buckets``: how many were at most so much, by increasing bound, "+Inf" at last."""
        texts = {name: str(text) for name, text in labels.items()}
        count = 0.0
        for bound, count in buckets:
            self.samples.append(Sample(labels={**texts, "le": bound}, value=count, suffix="_bucket"))
        self.samples.append(Sample(labels=texts, value=count, suffix="_count"))
        self.samples.append(Sample(labels=texts, value=sum_of_all, suffix="_sum"))


def families_of(
    status: Mapping[str, Any], measures: Mapping[str, Any], tally: Tally, *, version: str, now_sec: float
) -> list[Family]:
    """Every family; ``now_sec`` is of the clock of the status' ``observed_sec``."""
    return [
        *_agent(status, tally, version, now_sec),
        *_front(status["proxy"], measures["front"], tally),
        *_instances(status["instances"], tally),
        *_measured(measures["instances"]),
        *_hardware(measures["nodes"], measures["gpus"], tally),
    ]


def _one(name: str, kind: str, doc: str, value: float | None, **labels: object) -> Family:
    family = Family(name=name, kind=kind, doc=doc)
    family.add(value, **labels)
    return family


def _agent(status: Mapping[str, Any], tally: Tally, version: str, now_sec: float) -> Iterator[Family]:
    yield _one("build", "info", "The version of the agent.", 1, version=version)
    passes = Family(
        name="pass_duration_seconds",
        kind="histogram",
        doc="Passes of the agent: a look at the host, a plan, and what was done of it.",
    )
    passes.add_histogram(tally.passes.cumulative(), tally.passes.sum_sec)
    yield passes
    age = "How long ago the look at the host began that the status is about."
    yield _one("observation_age_seconds", "gauge", age, now_sec - status["observed_sec"])
    yield _one("problems", "gauge", "What hinders the agent itself.", len(status["problems"]))
    valid = not status["config"]["error"]
    yield _one("config_valid", "gauge", "Whether the configuration on disk is valid.", valid)
    paused = status["orders"]["paused_since"] is not None
    yield _one("paused", "gauge", "Whether the agent was ordered to do nothing.", paused)
    events = Family(name="events", kind="counter", doc="Entries in the log of the agent.")
    for level in LEVELS[1:]:
        events.add(tally.events[level], level=level)
    yield events


def _front(proxy: Mapping[str, Any], front: Mapping[str, Any], tally: Tally) -> Iterator[Family]:
    # Where nothing is to be served there is no proxy.
    is_known = proxy["listen"] and proxy["state"] is not None
    yield _one(
        "proxy_up", "gauge", "Whether the proxy runs.", proxy["state"] == "active" if is_known else None
    )
    failing = "Whether the proxy did not take the files that it was given last."
    yield _one("proxy_failing", "gauge", failing, bool(proxy["error"]))
    changes = "How often the proxy was given new files, and took them."
    yield _one("proxy_changes", "counter", changes, tally.proxy_changes)
    old = "Workers of the proxy that only finish what they have begun."
    yield _one("proxy_old_workers", "gauge", old, proxy["old_workers"])
    cut = "Answers that old workers of the proxy cut, as they took too long."
    yield _one("front_cut_requests", "counter", cut, proxy["cut_requests"])
    for name, doc in (
        ("requests", "Requests that infer and have ended."),
        ("errors", "Requests that were answered with a server error, or not at all."),
        ("rejected", "Requests that were turned away at once, as no instance was ready or had room."),
        ("retried", "Requests that another instance was asked for, too."),
        ("incomplete", "Requests whose answers broke off."),
    ):
        yield _one(f"front_{name}", "counter", doc, front[f"{name}_total"])
    yield _one("front_in_flight", "gauge", "Requests that instances are working on.", front["in_flight"])
    yield _ttfb("front", [({}, front)])


def _ttfb(of: str, measured: Iterable[tuple[Mapping[str, str], Mapping[str, Any]]]) -> Family:
    family = Family(
        name=f"{of}_time_to_first_byte_seconds",
        kind="histogram",
        doc="Time until the answer began, of requests that were answered well.",
    )
    for labels, one in measured:
        if (found := one["ttfb_histogram"]) is not None:
            family.add_histogram(found["buckets"].items(), found["sum_sec"], **labels)
    return family


def _instances(instances: Iterable[Mapping[str, Any]], tally: Tally) -> list[Family]:
    info = Family(name="instance", kind="info", doc="What an instance is.")
    state = Family(name="instance_state", kind="gauge", doc="1 for the state that an instance is in.")
    since = Family(
        name="instance_state_since_timestamp_seconds", kind="gauge", doc="When it entered that state."
    )
    rotation = Family(name="instance_in_rotation", kind="gauge", doc="Whether clients are sent to it.")
    outdated = Family(
        name="instance_outdated", kind="gauge", doc="Whether it is to be started anew to take a change."
    )
    weight = Family(name="instance_weight", kind="gauge", doc="Its share of requests.")
    restarts = Family(
        name="instance_restarts",
        kind="counter",
        doc="How often systemd brought it back since it was ordered.",
    )
    kills = Family(
        name="instance_kills", kind="counter", doc="How often the agent killed it, as it hung or only erred."
    )
    for one in instances:
        name = one["id"]
        keys = ("pool", "device", "node", "port", "upstream")
        info.add(1, instance=name, **{key: "" if one[key] is None else one[key] for key in keys})
        for each in State:
            state.add(each == one["state"], instance=name, state=each.value)
        since.add(one["since"], instance=name)
        rotation.add(one["in_rotation"], instance=name)
        outdated.add(one["outdated"], instance=name)
        weight.add(one["weight"], instance=name)
        restarts.add(one["restarts"], instance=name)
        kills.add(tally.kills[name], instance=name)
    return [info, state, since, rotation, outdated, weight, restarts, kills]


def _measured(instances: Iterable[Mapping[str, Any]]) -> Iterator[Family]:
    instances = list(instances)
    for name, kind, key, doc in (
        ("requests", "counter", "requests_total", "Requests that it was given and that have ended."),
        ("errors", "counter", "errors_total", "Requests that it answered with a server error."),
        ("in_flight", "gauge", "in_flight", "Requests that it works on."),
        ("cpu_seconds", "counter", "cpu_sec_total", "CPU time of all its threads."),
        (
            "memory_bytes",
            "gauge",
            "memory_bytes",
            "Its memory, without page cache that is mapped by nobody.",
        ),
    ):
        family = Family(name=f"instance_{name}", kind=kind, doc=doc)
        for one in instances:
            family.add(one[key], instance=one["id"])
        yield family
    nodes = Family(name="instance_node_memory_bytes", kind="gauge", doc="Its memory on each NUMA node.")
    busy = Family(
        name="instance_gpu_busy_ratio", kind="gauge", doc="How much of the time a GPU worked for it."
    )
    memory = Family(name="instance_gpu_memory_bytes", kind="gauge", doc="Its memory on each GPU.")
    for one in instances:
        for node, size in (one["memory_by_node"] or {}).items():
            nodes.add(size, instance=one["id"], node=node)
        for card in one["gpus"]:
            busy.add(card["busy_share"], instance=one["id"], gpu=card["address"])
            memory.add(card["memory_bytes"], instance=one["id"], gpu=card["address"])
    yield from (
        nodes,
        busy,
        memory,
        _ttfb("instance", [({"instance": one["id"]}, one) for one in instances]),
    )


def _hardware(
    nodes: Iterable[Mapping[str, Any]], gpus: Iterable[Mapping[str, Any]], tally: Tally
) -> Iterator[Family]:
    nodes, gpus = list(nodes), list(gpus)
    for name, key, doc in (
        ("cpu_busy_ratio", "cpu_share", "How much of the CPU time of a NUMA node was used, by whomever."),
        ("memory_used_bytes", "memory_used_bytes", "Memory of a NUMA node that is in use, by whomever."),
        ("memory_bytes", "memory_bytes", "Memory of a NUMA node."),
    ):
        family = Family(name=f"node_{name}", kind="gauge", doc=doc)
        for node in nodes:
            family.add(node[key], node=node["id"])
        yield family
    for name, key, doc in (
        ("busy_ratio", "busy_share", "How much of the time a GPU worked."),
        ("memory_used_bytes", "memory_used_bytes", "Memory of a GPU that instances use."),
    ):
        family = Family(name=f"gpu_{name}", kind="gauge", doc=doc)
        for gpu in gpus:
            family.add(gpu[key], gpu=gpu["address"])
        yield family
    hangs = Family(name="gpu_hangs", kind="counter", doc="How often the driver of a GPU told that it hangs.")
    for address in sorted({gpu["address"] for gpu in gpus} | tally.hangs.keys()):
        hangs.add(tally.hangs[address], gpu=address)
    yield hangs


def engine_families(
    asked: Iterable[str], answered: Collection[str], failures: Mapping[tuple[str, str], int]
) -> tuple[Family, Family]:
    """How it went to ask engines for their own metrics; ``failures`` so far, by instance and reason."""
    up = Family(
        name="engine_metrics_up", kind="gauge", doc="Whether the metrics of an engine are among these."
    )
    failed = Family(
        name="engine_metrics_failures",
        kind="counter",
        doc="How often the metrics of an engine were left out.",
    )
    for name in asked:
        up.add(name in answered, instance=name)
        for reason in REASONS:
            failed.add(failures.get((name, reason), 0), instance=name, reason=reason)
    return up, failed
