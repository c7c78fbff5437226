# SPDX-License-Identifier: Apache-2.0
"""Follows each running engine: asks it at intervals, warms it once, and reports what changes.

A busy engine is not taken for one that hangs. Language models are computed by other threads than those that
answer GETs (drogon_http_server.cpp in OVMS), which answer within milliseconds however many requests wait;
embeddings, images and classic models share theirs with them, and are late with a probe then. So silence
proves a hang only when no CPU time is used meanwhile, or after ``stall_sec``.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ovms_scaler.core.facts import Health, Probe
from ovms_scaler.core.progress import has_worked
from ovms_scaler.core.record import Record, parse_datagram
from ovms_scaler.core.spec_health import HealthRules
from ovms_scaler.core.target import Wanted
from ovms_scaler.daemon.inference import Inference
from ovms_scaler.daemon.ports import EnginePort

# Later than this after a probe's deadline it was the agent that did not run, and the engine is asked again.
_LATE_SEC = 0.2


@dataclass(slots=True, kw_only=True)
class _Watch:
    """``cpu_sec`` is the CPU time that the engine had used when it answered last, at ``answered_sec``."""

    key: tuple[object, ...]
    wanted: Wanted
    health: Health
    inference: Inference
    task: asyncio.Task[None]
    cpu_sec: float | None = None
    answered_sec: float = field(default_factory=time.monotonic)

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
        read_cpu_sec: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        """``connect`` opens an engine by port and deadline in seconds; ``changed`` is called on news.

        ``read_cpu_sec`` tells the seconds of CPU time that a unit has used, None when it is not known.
        """
        self._connect = connect
        self._changed = changed
        self._read_cpu_sec = read_cpu_sec
        self._watches: dict[str, _Watch] = {}
        self._record = Record()
        self.nonsense = 0  # datagrams that the proxy cannot have written

    def read(self, instance: str) -> Health | None:
        watch = self._watches.get(instance)
        return watch.health if watch is not None else None

    def note_datagram(self, data: bytes) -> None:
        """Take in what the proxy says of a request that has ended."""
        answer = parse_datagram(data)
        if answer is None:
            self.nonsense += 1
            return
        suspects = self._record.note(answer, now_sec=time.monotonic())
        for watch in self._watches.values() if suspects else ():
            if watch.wanted.instance.port in suspects:
                self._suspect(watch)

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
            if present is not None and present.health.invocation_id == invocation:
                # What was found out about this process holds under other rules, too.
                known = present.health
                health = replace(health, fault=known.fault, faulty_since_sec=known.faulty_since_sec)
            self._watches[instance] = _Watch(
                key=key,
                wanted=wanted,
                health=health,
                inference=self._check(instance, wanted, rules),
                task=asyncio.create_task(self._watch(instance, wanted, rules), name=f"health of {instance}"),
            )

    def _check(self, instance: str, wanted: Wanted, rules: HealthRules) -> Inference:
        return Inference(
            wanted,
            rules,
            self._record,
            connect=self._connect,
            read_cpu_sec=self._read_cpu_sec,
            judged=lambda fault, works=None: self._judge(instance, fault, works=works),
        )

    def _judge(self, instance: str, fault: str, *, works: bool | None) -> None:
        health = self._watches[instance].health
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
                began = time.monotonic()
                probe, detail = await engine.probe(wanted.expected)
                if probe is Probe.silent and time.monotonic() - began > rules.timeout_sec + _LATE_SEC:
                    continue
                self._note(instance, probe, detail, rules)
                if probe is Probe.available and not self._watches[instance].health.warmed:
                    await self._warm(instance, wanted, engine)
                elif probe is Probe.available:
                    await self._look(self._watches[instance], engine)
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
        if watch.health.fault:
            self._suspect(watch)
        await watch.inference.look(engine)

    def _note(self, instance: str, probe: Probe, detail: str, rules: HealthRules) -> None:
        watch, now = self._watches[instance], time.monotonic()
        health = watch.health
        cpu_sec = self._read_cpu_sec(watch.wanted.instance.unit) if health.warmed else None
        if probe is Probe.available:
            watch.cpu_sec, watch.answered_sec = cpu_sec, now
            # Nothing to explain, but for a first generation that failed.
            detail = health.detail if health.probe is Probe.available else ""
            works = health.works if health.fault else None
            self._set(instance, replace(health, probe=probe, failures=0, detail=detail, works=works))
            return
        failures = health.failures + 1 if health.warmed else 0
        silent_sec = now - watch.answered_sec
        works = has_worked(watch.cpu_sec, cpu_sec, in_sec=silent_sec)
        if works and silent_sec > rules.stall_sec:
            works = False  # it spins
        since = now if failures == 1 and not health.fault else health.faulty_since_sec
        self._set(
            instance,
            replace(
                health, probe=probe, failures=failures, detail=detail, works=works, faulty_since_sec=since
            ),
        )

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
