# SPDX-License-Identifier: Apache-2.0
"""Follows each running engine: asks it at intervals, warms it once, and reports what changes.

A busy engine is not taken for one that hangs. Language models are computed by other threads than those that
answer GETs (drogon_http_server.cpp in OVMS), which answer within milliseconds however many requests wait;
embeddings, images and classic models share theirs with them, and are late with a probe then. So silence
proves a hang when nothing was computed while that very probe waited, and else only after a time.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ovms_scaler.core.facts import Health, Probe
from ovms_scaler.core.lifecycle import is_believed
from ovms_scaler.core.probation import Probation
from ovms_scaler.core.progress import Use, has_worked
from ovms_scaler.core.record import Answer, Record, parse_datagram
from ovms_scaler.core.spec_health import HealthRules
from ovms_scaler.core.target import Wanted
from ovms_scaler.daemon.inference import UNSEEN_SEC, Inference
from ovms_scaler.daemon.meter import Meter
from ovms_scaler.daemon.ports import EnginePort

# Later than this after a probe's deadline it was the agent that did not run, and the engine is asked again.
_LATE_SEC = 0.2
# For one that computes, though threads that do nothing else answer its probes: the machine may be slow.
SLOW_SEC = 10.0
# How often one model of an engine that serves is asked whether it is ready.
READY_SEC = 5.0
# Datagrams that the proxy cannot have written are worth telling of for so long.
_NONSENSE_SEC = 600.0


@dataclass(slots=True, kw_only=True)
class _Watch:
    """``use`` is what the engine had used at ``use_sec``, before the present probe; ``unready`` is a model
    that was available and not ready, ``turn`` counts whose turn it is to be asked."""

    key: tuple[object, ...]
    wanted: Wanted
    health: Health
    inference: Inference
    probation: Probation
    task: asyncio.Task[None]
    use: Use = field(default_factory=Use)
    use_sec: float = 0.0
    answered_sec: float = field(default_factory=time.monotonic)
    ready_sec: float = field(default_factory=time.monotonic)
    unready: str = ""
    turn: int = 0

    def next_ready(self) -> tuple[str, ...]:
        """Models to ask whether they are ready: all before the first generation, then one now and then."""
        expected, now = self.wanted.expected, time.monotonic()
        if not self.health.warmed:
            return expected
        if self.unready in expected:
            return (self.unready,)
        if now - self.ready_sec < READY_SEC or not expected:
            return ()
        self.ready_sec = now
        self.turn += 1
        return (expected[self.turn % len(expected)],)

    def begin(self, meter: Meter) -> None:
        """A probe begins. After one without an answer, what was read then is as good."""
        if self.health.warmed and self.health.probe is not Probe.silent:
            self.use, self.use_sec = meter.read_cpu(self.wanted.instance), time.monotonic()

    def computed(self, meter: Meter, rules: HealthRules) -> bool | None:
        """Whether the engine computes, or may, so that silence proves nothing; None when that is unknown."""
        now, before = time.monotonic(), self.use
        shares_threads = set(self.wanted.expected) != set(self.wanted.warm)
        if shares_threads:
            self.use = meter.read(self.wanted.instance)
        else:  # cards delay no probe
            before = replace(before, gpu_idle_sec=())
            self.use = replace(meter.read_cpu(self.wanted.instance), gpu_idle_sec=())
        works = has_worked(before, self.use, in_sec=now - self.use_sec)
        self.use_sec = now
        if works is False:
            return False
        if not shares_threads:
            patience_sec, may_work = SLOW_SEC, works
        else:
            patience_sec, may_work = rules.busy_sec if works else min(UNSEEN_SEC, rules.busy_sec), True
        return may_work if now - self.answered_sec < patience_sec else None

    def cancel(self) -> tuple[asyncio.Task[None], ...]:
        self.task.cancel()
        return (self.task, *self.inference.close())


class HealthWatch:
    """One task for each engine process that runs; a new process of an instance is judged from scratch."""

    def __init__(
        self,
        connect: Callable[[int, float], EnginePort],
        changed: Callable[[], None],
        *,
        meter: Meter | None = None,
    ) -> None:
        """``connect`` opens an engine by port and deadline in seconds; ``changed`` is called on news.

        Without a ``meter`` nobody is seen to compute.
        """
        self._connect = connect
        self._changed = changed
        self._meter = meter or Meter()
        self._watches: dict[str, _Watch] = {}
        self._record = Record()
        self.nonsense = 0  # datagrams that the proxy cannot have written
        self._nonsense_sec = float("-inf")

    def read(self, instance: str) -> Health | None:
        watch = self._watches.get(instance)
        return watch.health if watch is not None else None

    def note_datagram(self, data: bytes) -> Answer | None:
        """Take in what the proxy says of a request that has ended, and return it; None for nonsense."""
        answer = parse_datagram(data)
        if answer is None:
            self.nonsense += 1
            self._nonsense_sec = time.monotonic()
            return None
        suspects = self._record.note(answer, now_sec=time.monotonic())
        for watch in self._watches.values() if suspects else ():
            if watch.wanted.instance.port in suspects:
                self._suspect(watch)
        return answer

    def describe_nonsense(self) -> str:
        """What is wrong with the proxy's record lately, "" for nothing."""
        if time.monotonic() - self._nonsense_sec > _NONSENSE_SEC:
            return ""
        return f"the proxy's record of requests has lines that are none: {self.nonsense} so far"

    def _suspect(self, watch: _Watch) -> None:
        if watch.health.warmed:
            watch.inference.suspect(
                other.wanted.instance.port
                for other in self._watches.values()
                if other.wanted.upstream == watch.wanted.upstream
            )

    def follow(
        self, running: Mapping[str, tuple[Wanted, str]], rules: HealthRules, *, warmed: frozenset[str]
    ) -> None:
        """Watch exactly these instances: id -> what is wanted of it, and its invocation id.

        Those in ``warmed`` served before the agent came and are believed to until a probe says otherwise.
        """
        for instance in self._watches.keys() - running.keys():
            self._watches.pop(instance).cancel()
        for instance, (wanted, invocation) in running.items():
            key = (invocation, wanted.instance.port, wanted.expected, rules)
            present = self._watches.get(instance)
            # A task that has ended met with something unforeseen: it is in the log, and another one goes on.
            if present is not None and present.key == key and not present.task.done():
                continue
            adopted = instance in warmed
            if present is not None:
                present.cancel()
                adopted = adopted or (present.health.warmed and present.health.invocation_id == invocation)
            health = Health(
                invocation_id=invocation,
                probe=Probe.available if adopted else Probe.refused,
                warmed=adopted,
                detail="" if adopted else "not asked yet",
            )
            probation = Probation(successes=rules.successes)
            if present is not None and present.health.invocation_id == invocation:
                # What was found out about this process holds under other rules, too.
                known, probation = present.health, present.probation
                probation.successes = rules.successes
                health = replace(
                    health, fault=known.fault, doubt=known.doubt, faulty_since_sec=known.faulty_since_sec
                )
            self._watches[instance] = _Watch(
                key=key,
                wanted=wanted,
                health=health,
                inference=self._check(instance, wanted, rules, health.fault),
                probation=probation,
                task=asyncio.create_task(self._watch(instance, wanted, rules), name=f"health of {instance}"),
            )

    def _check(self, instance: str, wanted: Wanted, rules: HealthRules, fault: str) -> Inference:
        return Inference(
            wanted,
            rules,
            self._record,
            connect=self._connect,
            meter=self._meter,
            judged=lambda fault, works=None: self._judge(instance, fault, works=works),
            fault=fault,
        )

    def _judge(self, instance: str, fault: str, *, works: bool | None) -> None:
        health = self._watches[instance].health
        if fault:
            self._watches[instance].probation.note_out(now_sec=time.monotonic())
        since = time.monotonic() if fault and not health.fault else health.faulty_since_sec
        self._set(instance, replace(health, fault=fault, works=works, faulty_since_sec=since))

    async def close(self) -> None:
        tasks = [task for watch in self._watches.values() for task in watch.cancel()]
        self._watches.clear()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, instance: str, wanted: Wanted, rules: HealthRules) -> None:
        engine = self._connect(wanted.instance.port, rules.timeout_sec)
        try:
            while True:
                watch, began = self._watches[instance], time.monotonic()
                watch.begin(self._meter)
                ready = watch.next_ready()
                probe, detail = await engine.probe(wanted.expected, ready=ready)
                if probe is Probe.silent and time.monotonic() - began > rules.timeout_sec + _LATE_SEC:
                    continue
                # Asked until it is ready, as /v1/config alone would have it back at the next probe.
                watch.unready = ready[0] if ready and probe is Probe.loading else ""
                self._note(instance, probe, detail, rules)
                if probe is Probe.available and not self._watches[instance].health.warmed:
                    await self._warm(instance, wanted, engine)
                elif probe is Probe.available:
                    await self._look(watch, engine)
                if probe is not Probe.silent:
                    await asyncio.sleep(_until_next_tick(rules.interval_sec))
        finally:
            await engine.close()

    async def _warm(self, instance: str, wanted: Wanted, engine: EnginePort) -> None:
        """Pay for loading the weights, which the engine does at its first request, before any client."""
        for model in wanted.warm:
            answered, detail = await engine.warm(model)
            if not answered:
                why = f"its first generation failed: {detail}"
                self._set(instance, replace(self._watches[instance].health, detail=why))
                return
        self._record.forget(wanted.instance.port)  # what is in there is about an earlier process
        self._set(instance, replace(self._watches[instance].health, warmed=True, detail=""))

    async def _look(self, watch: _Watch, engine: EnginePort) -> None:
        """One that is not believed to infer is asked again and again: it may do so once more."""
        port = watch.wanted.instance.port
        if watch.health.fault or self._record.is_suspect(port, now_sec=time.monotonic()):
            self._suspect(watch)
        await watch.inference.look(engine)

    def _note(self, instance: str, probe: Probe, detail: str, rules: HealthRules) -> None:
        watch, now = self._watches[instance], time.monotonic()
        health = watch.health
        if probe is Probe.available:
            watch.answered_sec = now
            # Nothing to explain, but for a first generation that failed.
            detail = health.detail if health.probe is Probe.available else ""
            works = health.works if health.fault else None
            doubt = health.doubt if health.fault else watch.probation.note_good(now_sec=now)
            health = replace(health, probe=probe, failures=0, detail=detail, works=works, doubt=doubt)
            self._set(instance, health)
            return
        failures = health.failures + 1 if health.warmed else 0
        works = watch.computed(self._meter, rules) if probe is Probe.silent and health.warmed else None
        since = now if failures == 1 and not health.fault else health.faulty_since_sec
        health = replace(
            health, probe=probe, failures=failures, detail=detail, works=works, faulty_since_sec=since
        )
        if health.warmed and not is_believed(health, failures=rules.failures):
            watch.probation.note_out(now_sec=now)
        else:
            watch.probation.note_bad()
        self._set(instance, health)

    def _set(self, instance: str, health: Health) -> None:
        watch = self._watches[instance]
        if watch.health != health:
            watch.health = health
            self._changed()


def _until_next_tick(interval_sec: float) -> float:
    """Seconds until all engines are asked again, together: most of a probe's cost is waking up for it.

    Measured: 5 ms of CPU for one after a second's sleep, 0.2 ms for each that follows at once.
    """
    return interval_sec - asyncio.get_running_loop().time() % interval_sec
