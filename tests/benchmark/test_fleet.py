# SPDX-License-Identifier: Apache-2.0
"""Processes of the client against a front that stalls, and processes that die."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_lab import CHUNKED, DONE, Caller, good, load, serving, text, usage

from ovms_scaler.bench import fleet as fleets
from ovms_scaler.bench import open_files
from ovms_scaler.bench.fleet import Fleet
from ovms_scaler.bench.lengths import parse_lengths
from ovms_scaler.bench.load import Load, make_asks
from ovms_scaler.bench.outcome import Kind, Outcome
from ovms_scaler.bench.run import Run
from ovms_scaler.bench.summary import list_notes, summarise
from ovms_scaler.bench.worker import list_lags
from ovms_scaler.errors import HostError, InputError

STALL_SEC = 0.6
LINGER_SEC = 0.2


def children() -> list[int]:
    """The processes of fleets: those of this test, as none is left by another."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found if b"bench.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def send(fleet: Fleet, mine: Load, stop: asyncio.Event | None = None) -> Run:
    asks = make_asks(mine, nonce="n")
    return await fleet.run(asks, window=mine.window, stop=stop or asyncio.Event())


async def test_a_stall_shows_in_all_requests_that_were_due_in_it() -> None:
    """With one request at once hardly any is *sent* during the stall; those that were due tell of it."""
    stalls = asyncio.Event()

    async def script(caller: Caller) -> None:
        if caller.number == 0:
            stalls.set()
            await asyncio.sleep(STALL_SEC)  # what is tested is that it takes time
        await good(caller)

    async with serving() as front:
        front.script = script
        mine = load(num_prompts=30, request_rate=100.0, max_concurrency=1)
        async with Fleet(front.endpoint(), mine, 1) as fleet:
            run = await send(fleet, mine)
    assert len(run.outcomes) == 30
    due_in_it = [one for one in run.outcomes if one.due_sec < STALL_SEC / 2]
    assert len(due_in_it) > 5
    for one in due_in_it:
        assert one.ttft_sec is not None
        assert one.ttft_sec >= STALL_SEC - one.due_sec
    # The server was the reason, not the client.
    assert max(one.late_sec for one in run.outcomes) < STALL_SEC / 2


async def test_a_closed_loop_has_so_many_under_way_and_no_more() -> None:
    under_way = most = 0
    full = asyncio.Event()

    async def script(caller: Caller) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 3:
            full.set()
        await full.wait()
        await good(caller)
        under_way -= 1

    async with serving() as front:
        front.script = script
        mine = load(num_prompts=12, max_concurrency=3)
        told: list[Outcome] = []
        async with Fleet(front.endpoint(), mine, 2) as fleet:
            asks = make_asks(mine, nonce="n")
            run = await fleet.run(asks, window=3, stop=asyncio.Event(), told=told.append)
            again = await fleet.run(asks[:3], window=3, stop=asyncio.Event())
    assert most == 3
    assert sorted(one.id for one in told) == [one.id for one in run.outcomes] == list(range(12))
    assert all(one.is_good for one in run.outcomes)
    assert len(run.workers) == 2
    # Another run of the same processes has a clock of its own.
    assert len(again.outcomes) == 3
    assert all(0.0 <= one.due_sec <= one.end_sec <= again.duration_sec for one in again.outcomes)
    # Each was due when a client became free, which is when another was through with its answer.
    free = {one.free_sec for one in run.outcomes}
    due = [one.due_sec for one in run.outcomes]
    assert due[:3] == [0.0] * 3
    assert len(set(due[3:])) == 9
    assert set(due[3:]) < free


async def test_what_a_server_needs_after_an_answer_is_not_the_next_ones_latency() -> None:
    """The sleep is the planted slowness of the server, after [DONE]."""

    async def script(caller: Caller) -> None:
        await caller.send(CHUNKED)
        await caller.chunk(text("one") + usage(7, 2) + DONE)
        await asyncio.sleep(LINGER_SEC)
        await caller.send("0\r\n\r\n")

    async with serving() as front:
        front.script = script
        mine = load(num_prompts=6, max_concurrency=2)
        async with Fleet(front.endpoint(), mine, 1) as fleet:
            run = await send(fleet, mine)
    assert all(one.tail_sec >= LINGER_SEC * 0.9 for one in run.outcomes)
    # Due after the tail of the one before, whatever the machine does meanwhile.
    assert {one.due_sec for one in run.outcomes[2:]} < {one.free_sec for one in run.outcomes}
    assert any(note.startswith("CONNECTIONS STAY OPEN") for note in list_notes(summarise(run)))


@pytest.mark.parametrize("is_fixed", [True, False])
async def test_how_long_an_answer_had_to_be_is_known(*, is_fixed: bool) -> None:
    async with serving() as front:
        mine = load(ignore_eos=is_fixed, output_len=parse_lengths("3"))
        async with Fleet(front.endpoint(), mine, 1) as fleet:
            run = await send(fleet, mine)
    # They have two tokens.
    assert summarise(run).short_answers == (10 if is_fixed else 0)


async def test_a_process_that_dies_is_no_error_of_the_server_and_the_rest_is_sent() -> None:
    hanging = asyncio.Event()

    async def script(caller: Caller) -> None:
        if caller.number < 4:
            if caller.number == 3:
                hanging.set()
            await caller.writer.wait_closed()
        await good(caller)

    async with serving() as front:
        front.script = script
        mine = load(num_prompts=20, max_concurrency=4)
        async with Fleet(front.endpoint(timeout_sec=0.5), mine, 2) as fleet:
            running = asyncio.create_task(send(fleet, mine))
            await hanging.wait()
            os.kill(children()[0], signal.SIGKILL)
            run = await running
    kinds = [one.failure.kind if one.failure else None for one in run.outcomes]
    # Two had been given to each; what the other process has is the server's doing.
    assert (kinds.count(Kind.client), kinds.count(Kind.timeout), kinds.count(None)) == (2, 2, 16)
    assert summarise(run).client.limit == "one of its processes died"


async def test_without_any_process_there_is_nothing_to_say() -> None:
    async def script(caller: Caller) -> None:
        os.kill(children()[0], signal.SIGKILL)

    async with serving() as front:
        front.script = script
        mine = load()
        async with Fleet(front.endpoint(), mine, 1) as fleet:
            with pytest.raises(HostError, match="every process of the client has ended"):
                await send(fleet, mine)


async def test_when_it_is_stopped_what_was_measured_is_kept() -> None:
    stop = asyncio.Event()

    async def script(caller: Caller) -> None:
        if caller.number < 6:
            await good(caller)
            return
        if caller.number == 9:
            stop.set()
        await caller.writer.wait_closed()

    async with serving() as front:
        front.script = script
        mine = load(num_prompts=50)
        async with Fleet(front.endpoint(), mine, 2) as fleet:
            run = await send(fleet, mine, stop)
    assert run.is_interrupted
    assert (len(run.outcomes), run.unfinished) == (6, 44)
    # Four were under way.
    assert len(run.given_up) == 4
    assert all(0.0 <= due_sec <= run.duration_sec for due_sec in run.given_up)
    assert all(one.is_good for one in run.outcomes)


async def test_a_report_that_comes_too_late_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleets, "END_SEC", 0.05)
    left = 4

    def told(_: Outcome) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(children()[0], signal.SIGSTOP)

    async with serving() as front:
        mine = load(num_prompts=4)
        async with Fleet(front.endpoint(), mine, 1) as fleet:
            asks = make_asks(mine, nonce="n")
            first = await fleet.run(asks, window=2, stop=asyncio.Event(), told=told)
            os.kill(children()[0], signal.SIGCONT)
            monkeypatch.setattr(fleets, "END_SEC", 5.0)
            second = await send(fleet, mine)
    assert (len(first.outcomes), first.workers) == (4, ())
    assert (len(second.outcomes), len(second.workers)) == (4, 1)
    assert all(one.is_good for one in second.outcomes)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_process_that_hears_nothing_does_not_keep_it_from_ending(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "END_SEC", 0.05)
    stop = asyncio.Event()

    def stand_still() -> None:
        os.kill(children()[0], signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.05, stop.set)

    async with serving() as front:
        mine = load(num_prompts=9, max_concurrency=2)
        async with Fleet(front.endpoint(), mine, 1) as fleet:
            if when == "before":
                stand_still()
            run = await fleet.run(
                make_asks(mine, nonce="n"), window=2, stop=stop, told=lambda _: stand_still()
            )
    assert run.is_interrupted
    # What the other client had may have come with it.
    assert len(run.outcomes) in ((0,) if when == "before" else (1, 2))
    assert len(run.outcomes) + run.unfinished == 9


async def test_a_process_that_takes_nothing_in_is_replaced_by_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as front:
        mine = load()
        async with Fleet(front.endpoint(), mine, 2) as fleet:
            monkeypatch.setattr(fleets, "TAKE_IN_SEC", 0.1)
            os.kill(children()[0], signal.SIGSTOP)
            run = await send(fleet, mine)
    kinds = [one.failure.kind if one.failure else None for one in run.outcomes]
    assert (kinds.count(Kind.client), kinds.count(None)) == (2, 8)


async def test_a_client_that_hands_out_too_late_is_its_own_limit() -> None:
    """The next request is due when its client has its answer, whoever hears of that when.

    The sleep is the planted slowness of the client.
    """
    async with serving() as front:
        mine = load(num_prompts=12, max_concurrency=2)
        async with Fleet(front.endpoint(), mine, 2) as fleet:
            asks = make_asks(mine, nonce="n")
            run = await fleet.run(asks, window=2, stop=asyncio.Event(), told=lambda _: time.sleep(0.03))
    assert "late on average" in summarise(run).client.limit
    assert sum(one.latency_sec for one in run.outcomes) > 10 * 0.03


async def test_more_connections_than_a_process_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "read_most", lambda: 64)
    async with serving() as front:
        mine = load(num_prompts=80, max_concurrency=80)
        async with Fleet(front.endpoint(), mine, 2) as fleet:
            with pytest.raises(InputError, match="80 requests at once need 40 connections") as refused:
                await send(fleet, mine)
            # Who may come at any time needs no more than the server makes them wait.
            open_loop = load(num_prompts=80, request_rate=1000.0, max_concurrency=None)
            assert len((await send(fleet, open_loop)).outcomes) == 80
            assert len((await send(fleet, load(num_prompts=80, max_concurrency=60))).outcomes) == 80
    assert "--workers 3" in str(refused.value.hint)
    assert front.bodies[:1]


async def test_a_beat_that_was_missed_counts_as_often_as_it_was() -> None:
    """Else a second in which nothing was read would be one of fifty looks, and not half of the time."""
    lags = list_lags(0.105)
    assert lags == pytest.approx([0.105, 0.085, 0.065, 0.045, 0.025, 0.005])
    assert list_lags(0.0) == [0.0]


def test_a_process_ends_with_whoever_started_it() -> None:
    program = (
        "import asyncio, os\n"
        "from bench_lab import Front, load\n"
        "from ovms_scaler.bench.fleet import Fleet\n"
        "async def main():\n"
        "    async with Fleet(Front(port=1).endpoint(), load(), 1):\n"
        "        os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    # The process has the same standard error: what is read ends when both have.
    done = subprocess.run(
        [sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths},
        timeout=30,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stderr == b""
