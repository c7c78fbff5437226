# SPDX-License-Identifier: Apache-2.0
"""The report for people, in the form of vLLM's benchmark."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from ovms_scaler.bench import rows
from ovms_scaler.ctl import output, tables
from ovms_scaler.ctl.tables import cell, indented, make_table

Document = Mapping[str, Any]
WIDTH = 50


def show_report(document: Document) -> None:
    """Print it to standard output."""
    measurements = document["measurements"]
    output.show(f"{document['endpoint']['model']} at {document['endpoint']['url']}")
    load = document["load"]
    tables.show(cell(f"{load['loop']}; {document['prompts']}; seed {load['seed']}"))
    if len(measurements) == 1:
        for line in render_result(measurements[0]):
            output.show(line)
        tables.show(*_failed(measurements[0]["summary"]), "=" * WIDTH)
    else:
        tables.show("", _runs_table(measurements))
    if document["curve"] is not None:
        tables.show("", _curve_table(document["curve"]), "")
        tables.show(*_sentences([document["load_text"], document["knee_text"], document["whole_text"]]))
        tables.show(*_sentences(document["curve"]["notes"], "bold yellow"))
    if document["comparison"] is not None:
        names = document["comparison"]["names"]
        tables.show("", *(cell(f"{key}: {name}") for key, name in names.items()), "")
        tables.show(*(cell(verdict["text"]) for verdict in document["comparison"]["verdicts"]))
        tables.show(*_sentences(document["comparison"]["notes"], "bold yellow"))
    _show_warnings(document)


def render_result(measurement: Document) -> Iterable[str]:
    """The lines of one measurement but for its end; those that vLLM prints, too, are as it prints them."""
    summary = measurement["summary"]
    first, *others = rows.result_sections(summary)
    yield _heading(first.title, "=")
    yield from _lines(first.rows)
    for section in others:
        yield _heading(section.title, "-")
        yield from _lines(section.rows)
    for section in rows.resource_sections(measurement["resources"], summary):
        yield _heading(section.title, "-")
        yield from _lines(section.rows)


def _failed(summary: Document) -> Iterable[RenderableType]:
    """Each way to fail and an example of it, which may be long."""
    if summary["errors"]:
        yield _heading("Failed Requests", "-")
        yield from map(cell, _lines(rows.error_rows(summary)))
        for error in summary["errors"]:
            if error["message"]:
                yield indented(f"{error['label']}, for example: {error['message']}")


def _heading(title: str, filler: str) -> str:
    spaced = f" {title} " if filler == "=" else title
    return f"{spaced:{filler}^{WIDTH}}"


def _lines(pairs: Iterable[tuple[str, str]]) -> Iterable[str]:
    for title, figure in pairs:
        yield f"{title:<40} {figure}"


def _runs_table(measurements: Sequence[Document]) -> RenderableType:
    figures = ("tok/s", "req/s", "TTFT ms", "TPOT ms", "P99 s", "Failed")
    shown = make_table("Measured", *figures, right=figures)
    for one in measurements:
        summary = one["summary"]
        shown.add_row(
            cell(one["label"]),
            cell(f"{summary['output_tokens_per_sec']:.1f}"),
            cell(f"{summary['requests_per_sec']:.2f}"),
            cell(_time(summary["ttft_sec"], "median", 1000)),
            cell(_time(summary["tpot_sec"], "median", 1000)),
            cell(_time(summary["latency_sec"], "p99", 1)),
            cell(summary["failed_requests"], "red" if summary["failed_requests"] else ""),
        )
    return shown


def _curve_table(curve: Document) -> RenderableType:
    columns = ("Instances", "Clients", "tok/s", "Times one", "Efficiency", "Each further")
    shown = make_table(*columns, right=columns)
    for point in curve["points"]:
        shown.add_row(
            cell(point["instances"]),
            cell(point["clients"]),
            cell(f"{point['output_tokens_per_sec']['mean']:.1f}"),
            cell(None if point["speedup"] is None else f"{point['speedup']:.2f}"),
            cell(_percent(point["efficiency"])),
            cell(_marginal(point["marginal"])),
        )
    return shown


def _show_warnings(document: Document) -> None:
    tables.show(*_sentences(document["notes"], "bold yellow"))
    if document["trouble"]:
        tables.show(cell("Ended early:", "bold red"), indented(document["trouble"]))
    for text in document["left"]:
        tables.show(cell("Not put back:", "bold red"), indented(text))
    if document["left"]:
        tables.show(indented("next: ovms-scalerctl status", "bold"))


def _sentences(texts: Iterable[str], style: str = "") -> list[RenderableType]:
    return [cell(text, style) for text in texts if text]


def _time(spread: Document | None, share: str, factor: float) -> str | None:
    return None if spread is None else f"{spread[share] * factor:.1f}"


def _marginal(found: Document | None) -> str | None:
    if found is None or found["low"] is None:
        return None if found is None else _percent(found["mean"])
    return f"{found['mean'] * 100:.0f} % ({found['low'] * 100:.0f} to {found['high'] * 100:.0f})"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share * 100:.0f} %"
