# SPDX-License-Identifier: Apache-2.0
"""The processes of the client: hands each request to one of them, and collects what came of it."""

import asyncio
import contextlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ovms_scaler.bench import open_files
from ovms_scaler.bench.client import Endpoint
from ovms_scaler.bench.load import Ask, Load
from ovms_scaler.bench.outcome import Failure, Kind, Outcome, parse_outcome
from ovms_scaler.bench.pause import wait
from ovms_scaler.bench.run import Run, WorkerReport
from ovms_scaler.bench.worker import LINE_BYTES, read_cpu_sec
from ovms_scaler.errors import HostError

# Between the moment when everything is handed out and the first request.
LEAD_SEC = 0.1
# How long a process may take to end, to give up or to report, and to take in all that it was told.
END_SEC = 5.0
TAKE_IN_SEC = 60.0


@dataclass(slots=True, kw_only=True)
class _Process:
    process: asyncio.subprocess.Process
    under_way: dict[int, float] = field(default_factory=dict)
    # By the number of the question: an answer may come when nobody waits for it any more.
    reports: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    sync: int = 0
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    reader: asyncio.Task[None] | None = None
    is_gone: bool = False


@dataclass(slots=True, kw_only=True)
class _Turn:
    """A run under way."""

    waiting: deque[Ask]
    total: int
    begins_at: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    unfinished: int = 0
    given_up: list[float] = field(default_factory=list)
    is_stopped: bool = False
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def give_up(self, due_sec: Sequence[float | None]) -> None:
        """So many requests have no end; those without a time were not due yet."""
        self.unfinished += len(due_sec)
        now = self.clock()
        self.given_up += [due for due in due_sec if due is not None and due < now]
        self.settle()

    def settle(self) -> None:
        if len(self.outcomes) + self.unfinished >= self.total:
            self.is_over.set()

    def clock(self) -> float:
        """Seconds since the beginning; before it, 0."""
        return max(0.0, time.monotonic() - self.begins_at) if self.begins_at else 0.0


class Fleet:
    """So many processes, as a context manager; one run at a time."""

    def __init__(self, endpoint: Endpoint, load: Load, workers: int) -> None:
        self._endpoint = endpoint
        self._load = load
        self._count = workers
        self._asked = 0
        self._fleet: list[_Process] = []
        self._turn: _Turn | None = None
        self._told: Callable[[Outcome], None] = lambda _: None

    async def __aenter__(self) -> "Fleet":
        for _ in range(self._count):
            # -P: what lies in the current directory is not ours. In a group of its own no Ctrl-C reaches it.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "ovms_scaler.bench.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_BYTES,
                process_group=0,
            )
            one = _Process(process=process)
            self._fleet.append(one)
            one.reader = asyncio.create_task(self._listen(one))
            settings = {
                "endpoint": self._endpoint.document(),
                "temperature": self._load.temperature,
                "ignore_eos": self._load.ignore_eos,
            }
            self._tell(one, {"open": settings})
        await self._sync()
        return self

    async def __aexit__(self, *_: object) -> None:
        for one in self._fleet:
            if one.process.stdin is not None:
                one.process.stdin.close()
        for one in self._fleet:
            try:
                async with asyncio.timeout(END_SEC):
                    await one.process.wait()
            except TimeoutError:
                self._end(one)
                await one.process.wait()
        await asyncio.gather(*(one.reader for one in self._fleet if one.reader is not None))

    async def run(
        self,
        asks: Sequence[Ask],
        *,
        window: int,
        stop: asyncio.Event,
        told: Callable[[Outcome], None] = lambda _: None,
    ) -> Run:
        """Send them, at most ``window`` at once; when ``stop`` is set, what is under way is given up.

        ``told`` hears of each outcome. Raises HostError when no process is left to send anything, and
        InputError when they may not have so many connections.
        """
        open_files.check(asks, window, len(self._living()))
        turn = self._turn = _Turn(waiting=deque(asks), total=len(asks))
        self._told = told
        for _ in range(min(window, len(asks))):
            self._hand_out(turn)
        await self._sync(stop)
        turn.begins_at = time.monotonic() + LEAD_SEC
        began_at, cpu_sec = time.time() + LEAD_SEC, read_cpu_sec()
        for one in self._living():
            self._tell(one, {"begin": turn.begins_at})
        await self._until_over(turn, stop)
        duration_sec = max((one.end_sec for one in turn.outcomes), default=turn.clock())
        if turn.is_stopped:
            duration_sec = turn.clock()
        own_cpu_share = (read_cpu_sec() - cpu_sec) / (time.monotonic() - turn.begins_at + LEAD_SEC)
        reports = await asyncio.gather(*map(self._ask_report, self._living()))
        self._turn = None
        return Run(
            outcomes=tuple(sorted(turn.outcomes, key=lambda one: one.id)),
            workers=tuple(report for report in reports if report is not None),
            began_at=began_at,
            duration_sec=duration_sec,
            unfinished=turn.unfinished,
            given_up=tuple(turn.given_up),
            is_interrupted=turn.is_stopped,
            own_cpu_share=own_cpu_share,
        )

    async def _until_over(self, turn: _Turn, stop: asyncio.Event) -> None:
        await wait(turn.is_over, stop)
        if not turn.is_over.is_set():
            turn.is_stopped = True
            turn.give_up([ask.due_sec for ask in turn.waiting])
            turn.waiting.clear()
            for one in self._living():
                self._tell(one, {"stop": True})
            turn.settle()
            await wait(turn.is_over, at_most_sec=END_SEC)
            for one in self._living():
                if one.under_way:
                    self._end(one)
        if not self._living() and not turn.is_stopped:
            raise HostError(
                "cannot go on: every process of the client has ended",
                hint="was the machine out of memory? journalctl -k -g 'out of memory'",
            )

    async def _sync(self, stop: asyncio.Event | None = None) -> None:
        """Wait until each process has taken in all that it was told: it must not delay what is due.

        One that does not is ended.
        """
        ends_at = time.monotonic() + TAKE_IN_SEC
        for one in self._living():
            one.synced.clear()
            one.sync = self._number()
            self._tell(one, {"sync": one.sync})
        for one in self._living():
            await wait(one.synced, stop, max(0.0, ends_at - time.monotonic()))
            if stop is not None and stop.is_set():
                return
            if not one.synced.is_set():
                self._end(one)

    def _number(self) -> int:
        self._asked += 1
        return self._asked

    def _living(self) -> list[_Process]:
        return [one for one in self._fleet if not one.is_gone]

    def _hand_out(self, turn: _Turn, free_sec: float = 0.0) -> None:
        """The next request to whoever has fewest.

        A client of a closed loop asks again at ``free_sec``, and nobody can before. It lies in the past by
        as much as this process is late itself.
        """
        living = self._living()
        if not turn.waiting or not living:
            return
        one = min(living, key=lambda each: len(each.under_way))
        ask = turn.waiting.popleft()
        due_sec = free_sec if ask.due_sec is None else ask.due_sec
        one.under_way[ask.id] = due_sec
        told = {"id": ask.id, "due_sec": due_sec, "free_sec": max(due_sec, free_sec)}
        self._tell(one, {"ask": {**told, "prompt": ask.prompt, "max_tokens": ask.max_tokens}})

    def _tell(self, one: _Process, document: object) -> None:
        if one.process.stdin is not None and not one.process.stdin.is_closing():
            one.process.stdin.write(json.dumps(document).encode() + b"\n")

    async def _listen(self, one: _Process) -> None:
        assert one.process.stdout is not None
        try:
            while line := await one.process.stdout.readline():
                self._hear(one, json.loads(line))
        finally:
            self._lose(one)

    def _hear(self, one: _Process, said: object) -> None:
        match said:
            case {"outcome": dict(document)}:
                self._note(one, parse_outcome(document))
            case {"synced": int(number)} if number == one.sync:
                one.synced.set()
            case {"unfinished": int(number)} if self._turn is not None:
                if (due_sec := one.under_way.pop(number, None)) is not None:
                    self._turn.give_up([due_sec])
            case {"report": dict(document), "number": int(number)} if number in one.reports:
                _answer(one.reports[number], document)

    def _note(self, one: _Process, outcome: Outcome) -> None:
        turn = self._turn
        if turn is None or one.under_way.pop(outcome.id, None) is None:
            return
        turn.outcomes.append(outcome)
        self._told(outcome)
        self._hand_out(turn, outcome.free_sec)
        turn.settle()

    def _end(self, one: _Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            one.process.kill()
        self._lose(one)

    def _lose(self, one: _Process) -> None:
        """What a process had when it ended has failed, and the server is not to blame."""
        if one.is_gone:
            return
        one.is_gone = True
        one.synced.set()
        for report in one.reports.values():
            _answer(report, {})
        turn = self._turn
        if turn is None:
            return
        if turn.is_stopped:
            turn.give_up(list(one.under_way.values()))
            one.under_way.clear()
        failure = Failure(kind=Kind.client, message=f"process {one.process.pid} ended")
        now = turn.clock()
        for number, due_sec in sorted(one.under_way.items()):
            outcome = Outcome(id=number, due_sec=due_sec, sent_sec=due_sec, end_sec=now, failure=failure)
            self._note(one, outcome)
        if not self._living():
            turn.is_over.set()

    async def _ask_report(self, one: _Process) -> WorkerReport | None:
        number = self._number()
        one.reports[number] = report = asyncio.get_running_loop().create_future()
        self._tell(one, {"report": number})
        try:
            async with asyncio.timeout(END_SEC):
                document = await report
        except TimeoutError:
            return None
        finally:
            del one.reports[number]
        if not document:
            return None
        span_sec = max(document["span_sec"], 1e-9)
        return WorkerReport(
            pid=one.process.pid, cpu_share=document["cpu_sec"] / span_sec, lags=tuple(document["lags"])
        )


def _answer(report: asyncio.Future[dict[str, Any]], document: dict[str, Any]) -> None:
    if not report.done():
        report.set_result(document)
