# SPDX-License-Identifier: Apache-2.0
"""Finds out whether an engine that answers probes infers.

It is asked for one token of the agent's own, a request that is known to be good, and only when there is a
reason: errors, or nobody has asked for anything for a time, or what is in work gets no further. An engine
may be busy with others for minutes before the token's turn comes. So what proves a hang is not the time
alone, but that it computes nothing in that time, on CPU or GPU.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Protocol

from ovms_scaler.core.facts import Canary
from ovms_scaler.core.progress import Counters, Progress, errs, has_worked, look
from ovms_scaler.core.record import Record
from ovms_scaler.core.spec_health import HealthRules
from ovms_scaler.core.target import Wanted
from ovms_scaler.daemon.meter import Meter
from ovms_scaler.daemon.ports import EnginePort

# How often the engine's counters are read, when it has nothing in work and when it has.
COUNTERS_SEC = 5.0
BUSY_COUNTERS_SEC = 1.0
# Between two canaries: a client that sends nothing but bad requests costs one token in this time.
AGAIN_SEC = 5.0
# For one that may compute unseen, on a card that does not tell, or that cannot be asked for a token.
UNSEEN_SEC = 300.0
# Deadlines that passed by more than this did so while the agent did not run, and prove nothing.
LATE_SEC = 0.5
# Between two looks at what clients say: they may be thousands in a second.
_WEIGH_SEC = 0.2
# In a row: refusals, tokens from one that was at fault, deadlines without a token.
_TIMES = 2
# For an engine that tells no counters: something may be in work.
_UNTOLD = Counters(graphs=1, responses=-1)

Token = tuple[Canary, str]
Outcome = tuple[Canary, str, bool | None]
"""What became of a token, a sentence, and whether the engine computed meanwhile."""


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
        meter: Meter,
        judged: Judged,
        fault: str = "",
    ) -> None:
        """``fault`` is what was known of this process under other rules."""
        self._wanted = wanted
        self._rules = rules
        self._record = record
        self._connect = connect
        self._meter = meter
        self._judged = judged
        self._fault = fault
        self._is_convicted = False  # by its clients: a token that it gives does not clear it
        self._canary: asyncio.Task[None] | None = None
        self._asked_sec = self._counted_sec = self._weighed_sec = float("-inf")
        self._progress: Progress | None = None
        self._base: tuple[float, Counters] | None = None

    def close(self) -> tuple[asyncio.Task[None], ...]:
        """Cancel what is under way; what to wait for."""
        if self._canary is None:
            return ()
        self._canary.cancel()
        return (self._canary,)

    def suspect(self, others: Iterable[int]) -> None:
        """Look into it, as lately it answered with errors; ``others`` are the ports of its upstream."""
        now = time.monotonic()
        if now - self._weighed_sec >= _WEIGH_SEC:
            self._weighed_sec = now
            port, generates = self._wanted.instance.port, bool(self._wanted.warm)
            if self._record.is_convicted(port, others, now_sec=now, generates=generates):
                self._is_convicted = True
                self._tell("it answers with errors to clients that others answer well")
        self._ask()

    async def look(self, engine: EnginePort) -> None:
        """Judge its progress, and ask for a token when there is a reason."""
        now, known = time.monotonic(), self._progress
        at_work = known is not None and known.quiet_since_sec is not None and known.counters != _UNTOLD
        if now - self._counted_sec < (BUSY_COUNTERS_SEC if at_work else COUNTERS_SEC):
            return
        self._counted_sec = now
        counters = await engine.read_counters()
        read = self._meter.read if counters is not None and counters.graphs else self._meter.read_cpu
        use, now = read(self._wanted.instance), time.monotonic()
        self._progress = progress = look(known, counters or _UNTOLD, use, at_sec=now)
        if counters is None:
            self._ask_idle(progress.still_since_sec, now)
            return
        self._weigh_errors(counters, now)
        self._ask_idle(progress.idle_since_sec, now)
        self._judge(progress, now)

    def _ask_idle(self, since_sec: float | None, now: float) -> None:
        interval_sec = self._rules.canary_interval_sec
        if since_sec is not None and interval_sec and now - max(since_sec, self._asked_sec) >= interval_sec:
            self._ask()

    def _weigh_errors(self, counters: Counters, now: float) -> None:
        """What the engine itself tells of errors; it is all there is where the proxy keeps no record."""
        if self._base is not None and errs(self._base[1], counters):
            self._base = None
            self._ask()
        if self._base is None or now - self._base[0] > 2 * COUNTERS_SEC:
            self._base = now, counters

    def _judge(self, progress: Progress, now: float) -> None:
        rules, count = self._rules, progress.counters.graphs
        if progress.quiet_since_sec is None or progress.still_since_sec is None:
            return
        quiet_sec, still_sec = now - progress.quiet_since_sec, now - progress.still_since_sec
        is_sure = progress.works is False and self._wanted.warm
        stall_sec = rules.stall_sec if is_sure else min(UNSEEN_SEC, rules.busy_sec)
        if still_sec >= stall_sec:
            self._tell(f"{count} requests in work got no further for {stall_sec:g} s", works=progress.works)
        elif quiet_sec >= rules.busy_sec:
            why = f"{count} requests in work got no part of an answer for {rules.busy_sec} s"
            self._tell(f"{why}, though it computes", works=True)
        elif still_sec >= stall_sec / 2 or quiet_sec >= rules.busy_sec / 2:
            self._ask()  # one that is well shows it

    def _tell(self, fault: str, *, works: bool | None = None) -> None:
        self._fault = fault
        self._judged(fault, works=works)

    def _ask(self) -> None:
        now = time.monotonic()
        is_asking = self._canary is not None and not self._canary.done()
        if not self._wanted.warm or self._is_convicted or is_asking or now - self._asked_sec < AGAIN_SEC:
            return
        self._asked_sec = now
        name = f"canary of {self._wanted.instance.id}"
        self._canary = asyncio.create_task(self._try(), name=name)

    async def _try(self) -> None:
        """Ask until it is sure: once more after an error, or after a token from one that was at fault."""
        engine = self._connect(self._wanted.instance.port, self._rules.timeout_sec)
        try:
            seen: set[Canary] = set()
            for _ in range(_TIMES):
                result, sentence, works = await self._ask_all(engine)
                seen.add(result)
                if result is Canary.silent:
                    self._tell(sentence, works=works)
                if result not in (Canary.answered, Canary.refused) or len(seen) > 1:
                    return
                if result is Canary.answered and (self._is_convicted or not self._fault):
                    return
            self._tell(
                "" if seen == {Canary.answered} else f"it answers a good request with an error: {sentence}"
            )
        finally:
            await engine.close()

    async def _ask_all(self, engine: EnginePort) -> Outcome:
        """One token of each model; an engine that answers for one of them is not given up.

        ``silent`` is one that computed nothing in two deadlines in a row, or gave none for ever.
        """
        rules, models = self._rules, self._wanted.warm
        async with _all(engine.try_token(model, timeout_sec=rules.busy_sec) for model in models) as tokens:
            times = 0
            while True:
                before, began = self._meter.read(self._wanted.instance), time.monotonic()
                done, waiting = await asyncio.wait(tokens, timeout=rules.canary_timeout_sec)
                took_sec = time.monotonic() - began
                results = dict(token.result() for token in done)
                if not waiting or Canary.answered in results:
                    result = Canary.answered if Canary.answered in results else _only(results)
                    sentence = results.get(result, "")
                    return result, f"it gave {sentence}" if result is Canary.silent else sentence, True
                if took_sec > rules.canary_timeout_sec + LATE_SEC:
                    continue
                works = has_worked(before, self._meter.read(self._wanted.instance), in_sec=took_sec)
                times = 0 if works else times + 1
                waited_sec = times * rules.canary_timeout_sec
                is_idle = works is False or waited_sec >= UNSEEN_SEC
                if times >= _TIMES and (is_idle or await self._is_alone(engine)):
                    sentence = f"it gave no token within {waited_sec} s and was not seen to compute"
                    return Canary.silent, sentence, works

    async def _is_alone(self, engine: EnginePort) -> bool:
        """Whether it has nothing else to do."""
        counters = await engine.read_counters()
        return counters is not None and counters.graphs <= len(self._wanted.warm)


def _only(results: Iterable[Canary]) -> Canary:
    """What became of all; ``lost``, which says nothing, when they differ."""
    found = set(results)
    return found.pop() if len(found) == 1 else Canary.lost


@contextlib.asynccontextmanager
async def _all(asked: Iterable[Coroutine[None, None, Token]]) -> AsyncIterator[list[asyncio.Task[Token]]]:
    """Asks at once; what is still waited for at the end is given up."""
    tokens = [asyncio.create_task(one) for one in asked]
    try:
        yield tokens
    finally:
        for token in tokens:
            token.cancel()
        await asyncio.gather(*tokens, return_exceptions=True)
