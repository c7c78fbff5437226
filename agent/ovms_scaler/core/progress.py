# SPDX-License-Identifier: Apache-2.0
"""Whether an engine gets on with what it has in work, or has nothing, judged from looks at its counters."""

from dataclasses import dataclass

# Less CPU time than this share of one core is no work: idle threads of a server poll, too.
WORK_SHARE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Of OVMS's metrics, summed over all models: requests in work, and answers or parts of them given."""

    graphs: int
    responses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Since when it has been idle, or stuck with requests in work; None for neither."""

    counters: Counters
    cpu_sec: float | None
    at_sec: float
    idle_since_sec: float | None = None
    stuck_since_sec: float | None = None


def has_worked(before_sec: float | None, after_sec: float | None, *, in_sec: float) -> bool | None:
    """Whether CPU time went from ``before_sec`` to ``after_sec`` by work; None when it is not known."""
    if before_sec is None or after_sec is None:
        return None
    return after_sec - before_sec > WORK_SHARE * in_sec


def look(known: Progress | None, counters: Counters, cpu_sec: float | None, *, at_sec: float) -> Progress:
    """The next look. Unknown CPU time counts as work: one that may be busy is not stuck."""
    now = Progress(counters=counters, cpu_sec=cpu_sec, at_sec=at_sec)
    idle = counters.graphs == 0
    if known is None or known.counters.responses != counters.responses:
        return Progress(
            counters=counters, cpu_sec=cpu_sec, at_sec=at_sec, idle_since_sec=at_sec if idle else None
        )
    if idle:
        since = known.idle_since_sec if known.idle_since_sec is not None else at_sec
        return Progress(counters=counters, cpu_sec=cpu_sec, at_sec=at_sec, idle_since_sec=since)
    if has_worked(known.cpu_sec, cpu_sec, in_sec=at_sec - known.at_sec) is not False:
        return now
    since = known.stuck_since_sec if known.stuck_since_sec is not None else known.at_sec
    return Progress(counters=counters, cpu_sec=cpu_sec, at_sec=at_sec, stuck_since_sec=since)


def parse_metrics(text: str) -> Counters | None:
    """OVMS's ``GET /metrics`` (Prometheus text format); None when the counters are not in it."""
    found = {"ovms_current_graphs": 0.0, "ovms_responses": 0.0}
    seen = False
    for line in text.splitlines():
        name = line.partition("{")[0]
        if name not in found:
            continue
        try:
            found[name] += float(line.rpartition(" ")[2])
            seen = seen or name == "ovms_current_graphs"
        except ValueError:
            return None
    if not seen:
        return None
    return Counters(graphs=int(found["ovms_current_graphs"]), responses=int(found["ovms_responses"]))
