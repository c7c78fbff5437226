# SPDX-License-Identifier: Apache-2.0
"""The report as one document, from which JSON, tables and the page are made."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovms_scaler.bench.client import Endpoint
from ovms_scaler.bench.dataset import Sample
from ovms_scaler.bench.load import Load
from ovms_scaler.bench.prompts import describe_newness
from ovms_scaler.bench.running import Findings, findings_document

Document = dict[str, Any]

_METHOD = (
    "Every latency counts from the moment when the request was to be sent, not from when it was: a client "
    "that waits for a slow server would leave out those requests that suffer most.",
    "In a closed loop a request is to be sent as soon as the answer before it has ended, connection and "
    "all; so a slow server is asked less, as with users that wait. Only an open loop shows what happens to "
    "users that do not.",
    "Tokens are those that the engine reports (stream_options.include_usage), never the number of chunks.",
    "TTFT is the time to the first event with text. TPOT is the time from the first to the last event "
    "with text, by all tokens but one. ITL is the time between two events with text. Latency is the time "
    "to the end of the stream.",
    "Percentiles interpolate linearly between the two nearest figures (definition 7 of Hyndman and Fan, "
    "as in numpy).",
    "Requests that failed are counted by how they failed, and are in no latency and no throughput.",
    "Each request has a connection of its own, and its connecting is part of its latency.",
    "CPU, memory and GPU use are those that the agent measures, of windows that lie within the run; they "
    "include the client where it runs on the same machine.",
)
_LOCAL = (
    "NOT MEASURED: what a network between clients and the server adds. The load came from the same "
    "machine, over its loopback, and took CPU time from the engines (see Client)."
)


_USER = re.compile(r"(?<=://)[^/?#\s]*@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the figures are of. ``is_local`` tells that client and server share a machine."""

    version: str
    at: float
    command: Sequence[str]
    endpoint: Endpoint
    load: Load
    sample: Sample | None
    engine: str | None
    machine: Mapping[str, Any]
    nodes: str | None
    gpus: str | None
    config_sha256: str | None
    generation: str | None
    is_local: bool


def make_document(findings: Findings, context: Context) -> Document:
    """All of it, as JSON."""
    found = findings_document(findings)
    title = "Serving benchmark"
    if found["comparison"] is not None:
        title = "Comparison of two configurations"
    elif found["curve"] is not None:
        title = "Scaling benchmark"
    return {
        "title": title,
        "version": context.version,
        "at": context.at,
        "command_line": shlex.join(map(hide_user, context.command)),
        "endpoint": {"url": context.endpoint.url, "model": context.endpoint.model},
        "load": context.load.document(),
        "prompts": describe_prompts(context.load, context.sample),
        "dataset": _dataset(context.sample),
        "machine": dict(context.machine),
        "is_local": context.is_local,
        "nodes": context.nodes,
        "gpus": context.gpus,
        "software": {
            "engine": context.engine,
            "ovms_scaler": context.version,
            "config_sha256": context.config_sha256,
            "generation": context.generation,
        },
        "method": [*_METHOD, *_prompts_method(context), *((_LOCAL,) if context.is_local else ())],
        "load_text": _describe_load(found["curve"], context.load),
        "knee_text": _describe_knee(found["curve"]),
        "whole_text": _describe_whole(found["curve"], found["whole_ratio"]),
        **found,
        "notes": [*gather_notes(found["measurements"]), *_note_few(context.sample), *findings.notes],
    }


def hide_user(text: str) -> str:
    """The text without what stands in a URL before the host."""
    return _USER.sub("...@", text)


def gather_notes(measurements: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to know of the figures: each kind of note once, with the measurements that have it."""
    by_kind: dict[str, tuple[str, list[str]]] = {}
    for one in measurements:
        for note in one["notes"]:
            # Notes of a kind differ by their figures only, which come behind.
            by_kind.setdefault(note.partition(":")[0], (note, []))[1].append(one["label"])
    if len(measurements) == 1:
        return [text for text, _ in by_kind.values()]
    return [f"{text} ({_where(labels, len(measurements))})" for text, labels in by_kind.values()]


def _where(labels: Sequence[str], count: int) -> str:
    return f"in all {count} measurements" if len(labels) == count else f"in {'; '.join(labels)}"


def describe_prompts(load: Load, sample: Sample | None) -> str:
    """Where texts and lengths come from, in a few words."""
    prefix = f", behind {load.shared_prefix} shared words" if load.shared_prefix else ""
    if sample is not None:
        answers = f", answers of {load.output_len} tokens" if load.output_len else ""
        return f"conversations of {load.dataset_path}{answers}{prefix}"
    return f"synthetic prompts of {load.input_len} words, answers of {load.output_len} tokens{prefix}"


def _prompts_method(context: Context) -> list[str]:
    sample, load = context.sample, context.load
    if sample is None:
        said = [
            f"Prompts are random words, {load.input_len} of them, and "
            f"{describe_newness(load.input_len.low)}. How many tokens they were, chat template included, is "
            "in the results."
        ]
    else:
        said = [
            f"Of {sample.total} conversations in the dataset {sample.usable} can be used; the seed chose "
            "among them. Lengths of recorded answers are estimated at 4 characters for a token. Each "
            "prompt begins with three random words of its own, so that no prefix cache can answer."
        ]
    if load.shared_prefix:
        said.append(
            f"All prompts of a run begin with the same {load.shared_prefix} words, as was asked for."
        )
    ends = (
        "the engine is told to ignore the end of text (ignore_eos), so that answers have the length asked "
        "for; where some were shorter, a note says so"
    )
    said.append(
        f"Temperature {load.temperature:g}; "
        + (ends if load.ignore_eos else "answers end as the model wants.")
    )
    return said


def _note_few(sample: Sample | None) -> list[str]:
    """That the same was asked again and again."""
    if sample is None or sample.usable >= len(sample.conversations):
        return []
    asked = len(sample.conversations)
    times = -(-asked // sample.usable)
    return [
        f"FEW CONVERSATIONS: {sample.usable} of {sample.total} in the dataset can be used, for {asked} "
        f"requests; so each was asked up to {times} times, behind other words each time."
    ]


def _dataset(sample: Sample | None) -> Document | None:
    if sample is None:
        return None
    return {"usable": sample.usable, "total": sample.total, "refused": sample.refused}


def _describe_knee(curve: Mapping[str, Any] | None) -> str:
    if curve is None or len(curve["points"]) < 2 or not curve["is_conclusive"]:
        return ""
    if (knee := curve["knee"]) is not None:
        return f"The knee is at {knee}: the next ones each brought less than half of what one alone does."
    return (
        f"There is no knee up to {curve['points'][-1]['instances']} instances: each further one brought at "
        "least half of what one alone does."
    )


def _describe_load(curve: Mapping[str, Any] | None, load: Load) -> str:
    """Whether each instance had the same load, or each number of them."""
    if curve is None:
        return ""
    if not load.scales_clients:
        return (
            f"The load was one and the same for all numbers of instances: {load.describe()}, "
            f"{load.num_prompts:,} requests."
        )
    clients, requests = f"{load.max_concurrency} clients", f"{load.num_prompts:,} requests"
    each = "for each instance in rotation"
    what = f"{clients} and {requests} {each}" if load.scales_prompts else f"{clients} {each}, and {requests}"
    return (
        f"The load was {what}: the same for each, and more for more of them. With --max-concurrency it is "
        "one and the same for all numbers of instances."
    )


def _describe_whole(curve: Mapping[str, Any] | None, ratio: Mapping[str, Any] | None) -> str:
    if curve is None or ratio is None:
        return ""
    count = curve["points"][-1]["instances"]
    together = "1 instance does" if count == 1 else f"{count} instances together do"
    found = f'{together} {ratio["mean"]:.2f} times what one unbound instance does (placement = "whole"'
    if ratio["low"] is None:
        return f"{found}); one round cannot tell whether that is chance."
    interval = f"95 % interval {ratio['low']:.2f} to {ratio['high']:.2f}"
    if ratio["low"] <= 1 <= ratio["high"]:
        return f"{found}; no difference beyond the noise, {interval})."
    return f"{found}; {interval})."
