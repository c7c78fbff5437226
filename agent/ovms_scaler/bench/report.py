# SPDX-License-Identifier: Apache-2.0
"""The report as one page of HTML that needs nothing from elsewhere, in light, in dark and on paper."""

import time
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from ovms_scaler.bench import report_plots, rows
from ovms_scaler.bench.plots import draw

Document = Mapping[str, Any]
_COLUMNS = 4
_TEMPLATES = Path(__file__).parent / "templates"


def render_report(document: Document) -> str:
    """The page of a report document."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        document=document,
        style=(_TEMPLATES / "report.css").read_text(encoding="utf-8"),
        when=time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(document["at"])),
        tiles=list_tiles(document["measurements"]),
        figures=[
            {"title": plot.title, "svg": draw(plot), "lines": plot.lines}
            for plot in report_plots.list_plots(document)
        ],
        curve_plot=_draw_curve(document),
        tables=[make_table(several) for several in _beside(document["measurements"])],
        machine=list_machine(document),
    )


def _finalize(value: object) -> object:
    """What is put into the page: nothing that steers a terminal, turns text around, or is no text at all."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return type(value)("".join(map(_visible, value)))


def _visible(character: str) -> str:
    is_plain = character in "\t\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    return character if is_plain else ascii(character)[1:-1]


def list_tiles(measurements: Sequence[Document]) -> list[tuple[str, str, str]]:
    """What is looked for first: title, figure and unit; of one run only."""
    if len(measurements) != 1:
        return []
    summary = measurements[0]["summary"]

    def at(key: str, share: str) -> str:
        spread = summary[key]
        if spread is None:
            return "-"
        value = spread[share] * 1000
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"

    return [
        ("Output throughput", f"{summary['output_tokens_per_sec']:,.0f}", "tok/s"),
        ("Requests", f"{summary['requests_per_sec']:,.2f}", "req/s"),
        ("Median TTFT", at("ttft_sec", "median"), "ms"),
        ("P99 TTFT", at("ttft_sec", "p99"), "ms"),
        ("Median TPOT", at("tpot_sec", "median"), "ms"),
        ("P99 latency", at("latency_sec", "p99"), "ms"),
        ("Failed", f"{summary['failed_requests']:,}", f"of {_asked(summary):,}"),
    ]


def make_table(measurements: Sequence[Document]) -> dict[str, Any]:
    """Sections of rows of results, then of the machine; each row has one figure for each measurement."""
    results = [rows.result_sections(one["summary"]) for one in measurements]
    machine = [rows.resource_sections(one["resources"], one["summary"]) for one in measurements]
    return {
        "labels": [one["label"] for one in measurements],
        "results": _side_by_side(results),
        "machine": _side_by_side(machine),
    }


def _beside(measurements: Sequence[Document]) -> list[Sequence[Document]]:
    """As many as fit beside each other on paper."""
    return [measurements[index : index + _COLUMNS] for index in range(0, len(measurements), _COLUMNS)]


def list_machine(document: Document) -> list[tuple[str, str]]:
    """What the figures are of; what is not known says so."""
    machine, software = document["machine"], document["software"]
    shown = [
        ("Host", machine["hostname"]),
        ("CPU", machine["cpu_model"]),
        ("CPUs", machine["cpus"]),
        ("NUMA nodes", document["nodes"]),
        ("GPUs", document["gpus"]),
        ("System", machine["system"]),
        ("Kernel", machine["kernel"]),
        ("CPU governor", machine["governor"]),
        ("SMT", machine["smt"]),
        ("Transparent huge pages", machine["transparent_hugepage"]),
        ("NUMA balancing", machine["numa_balancing"]),
        ("Engine", software["engine"]),
        ("ovms-scaler", software["ovms_scaler"]),
        ("Configuration (SHA-256)", software["config_sha256"]),
        ("Proxy's generation", software["generation"]),
        ("URL", document["endpoint"]["url"]),
    ]
    return [(title, rows.UNKNOWN if value in (None, "") else str(value)) for title, value in shown]


def _side_by_side(every: Sequence[Sequence[rows.Section]]) -> list[dict[str, Any]]:
    """Rows by title, as not every measurement has each; in the order in which they first come."""
    sections: dict[str, dict[str, list[str]]] = {}
    for index, several in enumerate(every):
        for section in several:
            own = sections.setdefault(section.title, {})
            for title, figure in section.rows:
                own.setdefault(title.rstrip(":"), [""] * len(every))[index] = figure
    return [{"title": title, "rows": list(own.items())} for title, own in sections.items()]


def _draw_curve(document: Document) -> str:
    plot = report_plots.curve_plot(document)
    return "" if plot is None else draw(plot)


def _asked(summary: Document) -> int:
    return sum(int(summary[f"{name}_requests"]) for name in ("successful", "failed", "unfinished"))
