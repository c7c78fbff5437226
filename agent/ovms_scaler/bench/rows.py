# SPDX-License-Identifier: Apache-2.0
"""The rows of the report, in the words and the order of vLLM's benchmark, which the OVMS guides show.

Its rows come first and are its own to the letter, so that what reads one reads the other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ovms_scaler.core.quantities import format_bytes

Document = Mapping[str, Any]
UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Rows below a title; the first one of all has the title of the whole."""

    title: str
    rows: tuple[tuple[str, str], ...]


def result_sections(summary: Document) -> tuple[Section, ...]:
    """What a summary's document says."""
    return (
        Section(title="Serving Benchmark Result", rows=_result_rows(summary)),
        Section(title="Time to First Token", rows=_time_rows("TTFT", summary["ttft_sec"])),
        Section(
            title="Time per Output Token (excl. 1st token)", rows=_time_rows("TPOT", summary["tpot_sec"])
        ),
        Section(title="Inter-token Latency", rows=_time_rows("ITL", summary["itl_sec"])),
        Section(title="End-to-end Latency", rows=_latency_rows(summary["latency_sec"])),
    )


def resource_sections(resources: Document, summary: Document) -> tuple[Section, ...]:
    """What the machine did meanwhile, average and maximum; the client is part of the machine, too."""
    client = summary["client"]
    rows = [*_node_rows(resources), *_gpu_rows(resources), *_network_rows(resources)]
    own = [
        ("Processes of the client:", str(client["workers"])),
        ("CPU of the client (cores):", _number(client["cores"], 2)),
        ("P99 of sending too late (ms):", _milliseconds(client["late_p99_sec"])),
        ("P99 of reading too late (ms):", _milliseconds(client["lag_p99_sec"])),
    ]
    return (
        Section(title="Machine (average, maximum)", rows=tuple(rows)),
        Section(title="Client", rows=tuple(own)),
    )


def error_rows(summary: Document) -> tuple[tuple[str, str], ...]:
    """Each way to fail, how often, and which instances were to answer."""
    rows = []
    for error in summary["errors"]:
        by = ", ".join(f"{name} {count}" for name, count in error["instances"].items())
        rows.append((f"{error['label']}:", f"{error['count']} ({by})" if by else str(error["count"])))
    return tuple(rows)


def _result_rows(summary: Document) -> tuple[tuple[str, str], ...]:
    rows = [
        ("Successful requests:", f"{summary['successful_requests']}"),
        ("Benchmark duration (s):", _number(summary["duration_sec"], 2)),
        ("Total input tokens:", f"{summary['input_tokens']}"),
        ("Total generated tokens:", f"{summary['generated_tokens']}"),
        ("Request throughput (req/s):", _number(summary["requests_per_sec"], 2)),
        ("Output token throughput (tok/s):", _number(summary["output_tokens_per_sec"], 2)),
        ("Total Token throughput (tok/s):", _number(summary["total_tokens_per_sec"], 2)),
        ("Failed requests:", f"{summary['failed_requests']}"),
    ]
    if summary["unfinished_requests"]:
        rows.append(("Unfinished requests:", f"{summary['unfinished_requests']}"))
    for title, key in (
        ("Input tokens per request:", "input_len"),
        ("Generated tokens per request:", "output_len"),
    ):
        if (spread := summary[key]) is not None:
            rows.append((title, f"{spread['mean']:.1f}"))
    return tuple(rows)


def _time_rows(name: str, spread: Document | None) -> tuple[tuple[str, str], ...]:
    titles = (("Mean", "mean"), ("Median", "median"), ("P95", "p95"), ("P99", "p99"))
    return tuple(
        (f"{title} {name} (ms):", _milliseconds(spread[key] if spread else None)) for title, key in titles
    )


def _latency_rows(spread: Document | None) -> tuple[tuple[str, str], ...]:
    titles = (("Mean", "mean"), ("P50", "median"), ("P95", "p95"), ("P99", "p99"))
    return tuple(
        (f"{title} latency (ms):", _milliseconds(spread[key] if spread else None)) for title, key in titles
    )


def _node_rows(resources: Document) -> Iterator[tuple[str, str]]:
    if not resources["nodes"]:
        yield "CPU, memory and GPU use:", UNKNOWN
    for name, levels in resources["nodes"].items():
        yield f"CPU of node {name}:", _levels(levels["cpu_share"], _share)
        yield f"Memory of node {name}:", _levels(levels["memory_used_bytes"], format_bytes)


def _gpu_rows(resources: Document) -> Iterator[tuple[str, str]]:
    for name, levels in resources["gpus"].items():
        yield f"GPU {name}:", _levels(levels["busy_share"], _share)
        yield f"Memory of GPU {name}:", _levels(levels["memory_used_bytes"], format_bytes)


def _network_rows(resources: Document) -> Iterator[tuple[str, str]]:
    if not resources["network"]:
        yield "Network:", UNKNOWN
    for name, levels in resources["network"].items():
        yield f"Network {name}, received:", _levels(levels["receive_bytes_per_sec"], _rate)
        yield f"Network {name}, sent:", _levels(levels["transmit_bytes_per_sec"], _rate)


def _levels(level: Document | None, show: Any) -> str:
    return UNKNOWN if level is None else f"{show(level['average'])}, {show(level['maximum'])}"


def _share(value: float) -> str:
    return f"{value * 100:.1f} %"


def _rate(value: float) -> str:
    """In megabits per second, as networks are sold."""
    return f"{value * 8 / 1e6:.2f} Mbit/s"


def _milliseconds(value: float | None) -> str:
    return UNKNOWN if value is None else _number(value * 1000, 2)


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"
