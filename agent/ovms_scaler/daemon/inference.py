# SPDX-License-Identifier: Apache-2.0
"""Finds out whether an engine that answers probes infers.

It is asked for one token of the agent's own, a request that is known to be good, and only when there is a
reason: the proxy's record shows nothing but errors, or nobody has asked for anything for a time. One that
has requests in work is judged by its progress: a token of ours would wait behind them and prove nothing.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from ovms_scaler.core.facts import Canary
from ovms_scaler.core.progress import Progress, has_worked, look
from ovms_scaler.core.record import Record
from ovms_scaler.core.spec_health import HealthRules
from ovms_scaler.core.target import Wanted
from ovms_scaler.daemon.ports import EnginePort

# How often the engine's counters are read: nothing that is judged by them is a matter of seconds.
COUNTERS_SEC = 5.0
# Between two canaries: a client that sends nothing but bad requests costs one token in this time.
AGAIN_SEC = 5.0


class Judged(Protocol):
    """Takes why an engine is not believed to infer, "" when it is again, and whether it computes."""

    def __call__(self, fault: str, *, works: bool | None = None) -> None: ...


class Inference:
    """One engine process; ``judged`` is told of each verdict, also if it is the same as before."""

    def __init__(
        self,
        wanted: Wanted,
        rules: HealthRules,
        record: Record,
        *,
        connect: Callable[[int, float], EnginePort],
        read_cpu_sec: Callable[[str], float | None],
        judged: Judged,
    ) -> None:
        self._wanted = wanted
        self._rules = rules
        self._record = record
        self._connect = connect
        self._read_cpu_sec = read_cpu_sec
        self._judged = judged
        self._canary: asyncio.Task[None] | None = None
        self._asked_sec = float("-inf")
        self._counted_sec = float("-inf")
        self._progress: Progress | None = None

    def close(self) -> tuple[asyncio.Task[None], ...]:
        """Cancel what is under way; what to wait for."""
        if self._canary is None:
            return ()
        self._canary.cancel()
        return (self._canary,)

    def suspect(self, others: Iterable[int]) -> None:
        """Look into it, as lately it answered with errors only; ``others`` are the ports of its upstream."""
        if self._wanted.warm:
            self._ask(is_idle=False)
        elif self._record.is_convicted(self._wanted.instance.port, others, now_sec=time.monotonic()):
            self._judged("it answers with nothing but errors to clients that others answer well")

    async def look(self, engine: EnginePort) -> None:
        """Judge its progress, and ask for a token when it has been idle for long."""
        now = time.monotonic()
        if now - self._counted_sec < COUNTERS_SEC or self._is_asking:
            return
        self._counted_sec = now
        counters = await engine.read_counters()
        if counters is None:
            self._progress = None
            return
        self._progress = progress = look(self._progress, counters, self._read_cpu(), at_sec=now)
        rules = self._rules
        if progress.stuck_since_sec is not None and now - progress.stuck_since_sec >= rules.stall_sec:
            self._judged(
                f"{counters.graphs} requests in work got no further for {rules.stall_sec} s", works=False
            )
        if progress.idle_since_sec is None or not rules.canary_interval_sec:
            return
        if now - max(progress.idle_since_sec, self._asked_sec) >= rules.canary_interval_sec:
            self._ask(is_idle=True)

    @property
    def _is_asking(self) -> bool:
        return self._canary is not None and not self._canary.done()

    def _read_cpu(self) -> float | None:
        return self._read_cpu_sec(self._wanted.instance.unit)

    def _ask(self, *, is_idle: bool) -> None:
        now = time.monotonic()
        if not self._wanted.warm or self._is_asking or now - self._asked_sec < AGAIN_SEC:
            return
        self._asked_sec = now
        name = f"canary of {self._wanted.instance.id}"
        self._canary = asyncio.create_task(self._try(is_idle=is_idle), name=name)

    async def _try(self, *, is_idle: bool) -> None:
        """One token of each model; an engine that answers for one of them is not given up."""
        rules = self._rules
        engine = self._connect(self._wanted.instance.port, rules.timeout_sec)
        try:
            before = self._read_cpu()
            results = [
                await engine.try_token(model, timeout_sec=rules.canary_timeout_sec)
                for model in self._wanted.warm
            ]
            found = {result for result, _ in results}
            if Canary.answered in found:
                self._judged("")
            elif found == {Canary.refused}:
                self._judged(f"it answers a good request with an error: {results[0][1]}")
            elif is_idle and Canary.silent in found:
                counters = await engine.read_counters()
                worked = has_worked(before, self._read_cpu(), in_sec=rules.canary_timeout_sec)
                # One that got other requests meanwhile may be busy with them.
                if counters is not None and (counters.graphs <= len(results) or worked is False):
                    self._judged(
                        f"it gave no token within {rules.canary_timeout_sec} s, though it was idle",
                        works=worked,
                    )
        finally:
            await engine.close()
