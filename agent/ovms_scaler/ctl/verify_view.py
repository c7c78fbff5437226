# SPDX-License-Identifier: Apache-2.0
"""What was compared with the plan, for people and programs: who is as planned, and what is not."""

from typing import Any

from rich.console import RenderableType

from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.ctl.tables import cell, indented, make_table, stack
from ovms_scaler.verification import Checked, Report


def report_document(report: Report) -> dict[str, Any]:
    """What ``verify --json`` prints."""
    return {
        "instances": [_document(one, report) for one in report.checked],
        "drifts": [
            {
                "subject": one.subject,
                "what": one.what,
                "planned": one.planned,
                "found": one.found,
                "hint": one.hint,
            }
            for one in report.drifts
        ],
        "unseen": list(report.unseen),
    }


def _document(checked: Checked, report: Report) -> dict[str, Any]:
    process = checked.seen.process
    instance = checked.wanted.instance
    memory = process.memory if process is not None else None
    listening = process.listening if process is not None else None
    threads = process.threads if process is not None else ()
    return {
        "id": instance.id,
        "skipped": checked.skipped,
        "drifts": sum(one.subject == instance.id for one in report.drifts),
        "pid": process.pid if process is not None else None,
        "threads": len(threads),
        "cpus": format_cpu_list(cpu for thread in threads for cpu in thread.cpus),
        "policies": sorted(memory.policies) if memory is not None else None,
        "memory_by_node": (
            {str(node): size for node, size in sorted(memory.bytes_by_node.items())}
            if memory is not None
            else None
        ),
        "memory_share": memory.share(instance.memory_nodes) if memory is not None else None,
        "listening": None if listening is None else [f"{one.address}:{one.port}" for one in listening],
    }


def render_report(report: Report) -> RenderableType:
    """The kernel's word on each instance, then every drift with what to type."""
    parts: list[RenderableType] = []
    if report.checked:
        shown = make_table(
            "Instance",
            "Threads",
            "CPUs",
            "Memory",
            "There",
            "Listens",
            "Drifts",
            right=("Threads", "There", "Drifts"),
        )
        for document in (_document(one, report) for one in report.checked):
            share, count = document["memory_share"], document["drifts"]
            shown.add_row(
                cell(document["id"]),
                cell(document["threads"] or None),
                cell(document["cpus"]),
                cell(", ".join(document["policies"] or ())),
                cell(None if share is None else f"{share:.0%}"),
                cell(" ".join(document["listening"] or ())),
                cell(count, "red") if count else cell(document["skipped"] or "none"),
            )
        parts += [shown, ""]
    for drift in report.drifts:
        parts += [
            cell(f"{drift.subject}: {drift.what}", "red"),
            indented(f"planned: {drift.planned}"),
            indented(f"found:   {drift.found}"),
            indented(f"next: {drift.hint}", "bold"),
        ]
    parts += ["", cell("Not looked at:", "yellow")] if report.unseen else []
    parts += [indented(text) for text in report.unseen]
    parts += [] if report.drifts or report.unseen else [cell("All is as planned.", "green")]
    return stack(*parts)
