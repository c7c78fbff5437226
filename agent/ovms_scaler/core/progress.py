# SPDX-License-Identifier: Apache-2.0
"""Whether an engine gets on with what it has in work, or has nothing, judged from looks at its counters."""

import math
from dataclasses import dataclass

# Less CPU time than this share of one core is no work: idle threads of a server poll, too.
WORK_SHARE = 0.01
# A GPU that is awake for less than this share of the time does no work: being looked at wakes it, too.
GPU_SHARE = 0.1
# Errors since the last look back, at least as many as answers, before an engine is worth a closer look.
MANY_ERRORS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Of OVMS's metrics, summed over all models: requests in work, answers or parts of them, and errors."""

    graphs: int
    responses: int
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What an engine has used so far, in seconds; None for what cannot be read.

    ``cpu_sec`` is CPU time of all its threads; ``gpu_idle_sec`` is for how long each part of its cards has
    been idle, empty for an engine on CPUs alone.
    """

    cpu_sec: float | None = None
    gpu_idle_sec: tuple[float, ...] | None = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Since when it has been idle; or since when requests are in work and nothing of an answer came (quiet),
    and since when it was not seen to compute either (still). None for what is not so.

    ``still_use`` is what it had used by then. ``works`` is whether it has computed since: False for surely
    not, None when it may have, unseen.
    """

    counters: Counters
    idle_since_sec: float | None = None
    quiet_since_sec: float | None = None
    still_since_sec: float | None = None
    still_use: Use = Use()
    works: bool | None = None


def has_worked(before: Use, after: Use, *, in_sec: float) -> bool | None:
    """Whether the engine computed in between; None when it may have, unseen: a card computes by itself."""
    cpu = _has_used_cpu(before, after, in_sec=in_sec)
    old, new = before.gpu_idle_sec, after.gpu_idle_sec
    if cpu or old is None or new is None or len(old) != len(new):
        return cpu or None
    is_awake = any(last - first < (1 - GPU_SHARE) * in_sec for first, last in zip(old, new, strict=True))
    return is_awake or cpu


def _has_used_cpu(before: Use, after: Use, *, in_sec: float) -> bool | None:
    if before.cpu_sec is None or after.cpu_sec is None:
        return None
    return after.cpu_sec - before.cpu_sec > WORK_SHARE * in_sec


def look(known: Progress | None, counters: Counters, use: Use, *, at_sec: float) -> Progress:
    """The next look."""
    moved = known is None or _answers(known.counters) != _answers(counters)
    if counters.graphs == 0:
        since = known.idle_since_sec if known is not None and not moved else None
        return Progress(counters=counters, idle_since_sec=at_sec if since is None else since)
    if known is None or moved or known.still_since_sec is None:
        return Progress(counters=counters, quiet_since_sec=at_sec, still_since_sec=at_sec, still_use=use)
    works = has_worked(known.still_use, use, in_sec=at_sec - known.still_since_sec)
    return Progress(
        counters=counters,
        quiet_since_sec=known.quiet_since_sec,
        still_since_sec=at_sec if works else known.still_since_sec,
        still_use=use if works else known.still_use,
        works=works,
    )


def _answers(counters: Counters) -> tuple[int, int]:
    return counters.responses, counters.errors


def errs(before: Counters, after: Counters) -> bool:
    """Whether errors were not the exception in between; some of them may be the clients' own."""
    errors = after.errors - before.errors
    return errors >= MANY_ERRORS and errors >= after.responses - before.responses


def parse_metrics(text: str) -> Counters | None:
    """OVMS's ``GET /metrics`` (Prometheus text format); None when the counters are not in it.

    Values that are no finite number are as if they were missing.
    """
    found = {"ovms_current_graphs": 0.0, "ovms_responses": 0.0, "ovms_graph_error": 0.0}
    seen = False
    for line in text.splitlines():
        name = line.partition("{")[0]
        if name not in found:
            continue
        try:
            value = float(line.rpartition(" ")[2])
        except ValueError:
            return None
        if not math.isfinite(value):
            return None
        found[name] += value
        seen = seen or name == "ovms_current_graphs"
    if not seen:
        return None
    graphs, responses, errors = (int(value) for value in found.values())
    return Counters(graphs=graphs, responses=responses, errors=errors)
