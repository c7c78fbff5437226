# SPDX-License-Identifier: Apache-2.0
"""Three quarters of an hour of the agent's metrics, made by its own code: all is well, then nothing is."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.openmetrics.exposition import generate_latest

from ovms_scaler.core.metrics import engine_families, families_of
from ovms_scaler.core.tally import Tally
from ovms_scaler.daemon.engine_metrics import parse_engine_metrics
from ovms_scaler.daemon.metrics import render_metrics

STEP_SEC = 30
CALM_STEPS = 50
STEPS = 90
TARGET = "127.0.0.1:8002"
INSTANCES = {"chat-numa0": "chat", "chat-numa1": "chat", "fast-gpu-0000:03:00.0": "fast"}
GPU = "0000:03:00.0"
_SAMPLE = re.compile(r"^(?P<name>[a-z_]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")


def render_scene(end_sec: float, server: str) -> str:
    """As Prometheus would have recorded it (honor_labels: true), in OpenMetrics, up to ``end_sec``."""
    lines: list[str] = []
    for step in range(STEPS):
        at_sec = end_sec - (STEPS - 1 - step) * STEP_SEC
        lines += _record(render_step(step), at_sec, server, comments=step == 0)
        lines.append(f"up{{{_target(server)}}} {int(step < CALM_STEPS)} {at_sec:.3f}")
    return "\n".join([*lines, "# EOF", ""])


def _target(server: str) -> str:
    return f'job="ovms-scaler",server="{server}",instance="{TARGET}"'


def _record(text: str, at_sec: float, server: str, *, comments: bool) -> Iterator[str]:
    for line in text.splitlines():
        if line.startswith("#"):
            if comments and line != "# EOF":
                yield line
            continue
        found = _SAMPLE.fullmatch(line)
        assert found is not None, line
        labels = [f'job="ovms-scaler",server="{server}"', *filter(None, [found["labels"]])]
        if not re.search(r'(?:^|,)instance="', found["labels"] or ""):
            labels.append(f'instance="{TARGET}"')
        yield f"{found['name']}{{{','.join(labels)}}} {found['value']} {at_sec:.3f}"


def render_step(step: int) -> str:
    """What the agent would say at that moment."""
    tally = _tally(step)
    engines = {name: parse_engine_metrics(_engine_text(step)) for name in INSTANCES}
    if step >= CALM_STEPS:
        del engines["chat-numa0"]
    own = families_of(_status(step), _measures(step), tally, version="0.1.0", now_sec=1000.0)
    own += engine_families(INSTANCES, engines, {})
    return render_metrics(generate_latest, own, engines).decode()


def _tally(step: int) -> Tally:
    bad = max(0, step - CALM_STEPS)
    tally = Tally(proxy_changes=2 + bad)
    for _ in range(step + 1):
        tally.passes.note(0.02 if step < CALM_STEPS else 3.0)
    tally.events.update({"info": 20 + step, "warning": bad})
    tally.kills["chat-numa1"] = bad // 4
    tally.hangs[GPU] = bad // 10
    return tally


def _status(step: int) -> Mapping[str, Any]:
    well = step < CALM_STEPS
    bad = max(0, step - CALM_STEPS)

    def instance(number: int, name: str, upstream: str) -> Mapping[str, Any]:
        failed = not well and name != "chat-numa0"
        return {
            "id": name, "state": "failed" if failed else "ready", "since": 1785117127.0,
            "in_rotation": not failed, "outdated": False, "weight": 1, "restarts": bad // 4 if failed else 0,
            "pool": upstream, "device": "GPU" if "gpu" in name else "CPU", "node": number % 2,
            "port": 8003 + number, "upstream": upstream,
        }  # fmt: skip

    return {
        "instances": [instance(number, name, pool) for number, (name, pool) in enumerate(INSTANCES.items())],
        "proxy": {
            "listen": ["8000"], "state": "active" if well else "failed", "error": "" if well else "no",
            "old_workers": bad, "cut_requests": bad,
        },
        "config": {"error": "" if well else "is not TOML"},
        "problems": [] if well else ["No space left on device"],
        "orders": {"paused_since": None if well else 1785117127.0},
        "observed_sec": 998.0 if well else 900.0,
    }  # fmt: skip


def _measures(step: int) -> Mapping[str, Any]:
    bad = max(0, step - CALM_STEPS)
    requests = 120 * step
    slow = 60 * bad
    histogram = {
        "buckets": {"0.1": (requests - slow) // 2, "5": requests - slow, "50": requests, "+Inf": requests},
        "sum_sec": 0.4 * requests + 30 * slow,
    }

    def instance(number: int, name: str) -> Mapping[str, Any]:
        gpus = [{"address": GPU, "busy_share": 0.8, "memory_bytes": 6 << 30}] if "gpu" in name else []
        return {
            "id": name, "requests_total": requests // 3, "errors_total": bad, "in_flight": 4 + number,
            "cpu_sec_total": 16.0 * step, "memory_bytes": 9 << 30,
            "memory_by_node": {str(number % 2): 9 << 30}, "gpus": gpus, "ttfb_histogram": histogram,
        }  # fmt: skip

    return {
        "front": {
            "requests_total": requests, "errors_total": 30 * bad, "rejected_total": 20 * bad,
            "retried_total": 3 + bad, "incomplete_total": step // 8, "in_flight": 15,
            "ttfb_histogram": histogram,
        },
        "instances": [instance(number, name) for number, name in enumerate(INSTANCES)],
        "nodes": [
            {"id": node, "cpu_share": 0.6, "memory_used_bytes": 20 << 30, "memory_bytes": 256 << 30}
            for node in (0, 1)
        ],
        "gpus": [{"address": GPU, "busy_share": 0.8, "memory_used_bytes": 6 << 30}],
    }  # fmt: skip


def _engine_text(step: int) -> str:
    graph = 'method="Stream",name="org/tiny"'
    return f"""\
# HELP ovms_current_graphs Number of graphs currently in-process.
# TYPE ovms_current_graphs gauge
ovms_current_graphs{{name="org/tiny"}} 4
# HELP ovms_requests_accepted Number of accepted requests which were passed to the graph.
# TYPE ovms_requests_accepted counter
ovms_requests_accepted{{api="V3",interface="REST",{graph}}} {40 * step}
# HELP ovms_graph_error Number of errors in graph execution.
# TYPE ovms_graph_error counter
ovms_graph_error{{api="V3",interface="REST",{graph}}} {max(0, step - CALM_STEPS)}
# HELP ovms_graph_processing_time_us Time spent in the graph.
# TYPE ovms_graph_processing_time_us histogram
ovms_graph_processing_time_us_count{{{graph}}} {40 * step}
ovms_graph_processing_time_us_sum{{{graph}}} {80000000 * step}
ovms_graph_processing_time_us_bucket{{{graph},le="1000000"}} {10 * step}
ovms_graph_processing_time_us_bucket{{{graph},le="5000000"}} {40 * step}
ovms_graph_processing_time_us_bucket{{{graph},le="+Inf"}} {40 * step}
"""
