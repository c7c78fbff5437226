# SPDX-License-Identifier: Apache-2.0
"""A machine or a model that never answers: what runs goes on being looked after, and who asks is told."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import pytest
from daemon_host import CONFIG, LIMIT_SEC, SERVING, DaemonHost, Running, running

from ovms_scaler.daemon import intent
from ovms_scaler.errors import DeadlineError, HostError

OTHER = CONFIG.replace('name = "chat"', 'name = "code"')
A = "0000:03:00.0"
ON_A = f"card-gpu-{A}"
# CPUs of the first node serve, and the card that is near the second.
WITH_CARD = CONFIG.replace(
    "[health]",
    'nodes = "0"\n[[pool]]\nname = "card"\nmodel_name = "org/tiny"\nmodel_path = "/srv/models/tiny"\n'
    'placement = "gpu"\nnodes = "1"\n[health]',
)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, it is waited for; only a pass waits for no look."""
    monkeypatch.setattr(intent, "MOMENT_SEC", 0.0)
    monkeypatch.setattr(intent, "PATIENCE_SEC", LIMIT_SEC)


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """What hangs is not waited for."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(intent, "PATIENCE_SEC", 0.01)
        yield


async def serve(host: DaemonHost, run: Running) -> None:
    host.engine().body = host.engine(1).body = SERVING
    await run.until(lambda: run.routed and run.read()["state"] == "ready")


@contextlib.asynccontextmanager
async def serving(host: DaemonHost) -> AsyncIterator[Running]:
    """An agent with an instance in rotation."""
    host.configure()
    async with running(host) as run:
        await serve(host, run)
        yield run


@contextlib.asynccontextmanager
async def silent(host: DaemonHost) -> AsyncIterator[tuple[Running, int]]:
    """The same, of a machine that answers no more; and how often it was asked until then."""
    async with serving(host) as run:
        host.answers.clear()
        yield run, host.asked


async def pass_until(run: Running, holds: Callable[[], bool]) -> None:
    """One pass after the other until it holds."""
    async with asyncio.timeout(LIMIT_SEC):
        while not holds():
            run.agent.wake()
            await run.next_word()


def problems(run: Running) -> str:
    return json.dumps(run.agent.document()["problems"])


# While it runs


async def test_passes_go_on_while_the_machine_does_not_answer(host: DaemonHost) -> None:
    host.configure(WITH_CARD)
    host.nodes = 2
    host.plug(A, node=1)
    async with running(host) as run:
        await serve(host, run)
        await run.until(lambda: run.read(ON_A).get("in_rotation") is True)
        host.answers.clear()
        asked = host.asked
        host.pull(A)
        run.agent.note_devices()
        await host.until_asked(asked + 1)
        # An engine that dies is noticed, and comes back, although nobody knows what the machine is now.
        host.engine().body = None
        host.units.die("ovms@chat-numa0.service")
        await run.until(lambda: not run.routed)
        host.units.restart_elapsed("ovms@chat-numa0.service")
        host.engine().body = SERVING
        await run.until(lambda: run.routed)
        with impatient():
            await pass_until(run, lambda: "the machine or a model does not answer" in problems(run))
        assert (host.asked, run.read(ON_A)["state"]) == (asked + 1, "ready")
        host.answers.set()
        await run.until_state("waiting", ON_A)
        assert problems(run) == "[]"


async def test_word_of_devices_during_a_look_leads_to_another(host: DaemonHost) -> None:
    async with silent(host) as (run, asked):
        run.agent.note_devices()
        await host.until_asked(asked + 1)
        run.agent.note_devices()
        run.agent.note_devices()
        host.answers.set()
        await host.until_asked(asked + 2)
        await run.next_word()
        assert host.asked == asked + 2


async def test_a_look_that_finds_nothing_new_leads_to_no_other(host: DaemonHost) -> None:
    async with serving(host) as run:
        asked = host.asked
        run.agent.poll_devices()
        run.agent.wake()
        await host.until_asked(asked + 1)
        await host.engine().count(3)
        assert host.asked == asked + 1


async def test_a_problem_of_an_earlier_configuration_goes_with_it(host: DaemonHost) -> None:
    host.configure()
    good, host.model = host.model, replace(host.model, kind=None, problem="no such directory")
    async with running(host) as run:
        await run.until_state("failed")
        host.trouble = HostError("cannot read /sys")
        await pass_until(run, lambda: "cannot read /sys" in problems(run))
        host.trouble, host.model = None, good
        await run.agent.reload(allow_outage=False)
        assert problems(run) == "[]"


async def test_what_nobody_foresaw_ends_the_agent(host: DaemonHost) -> None:
    async with serving(host) as run:
        host.trouble = ZeroDivisionError()
        run.agent.note_devices()
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(run.passes, LIMIT_SEC)


async def test_no_thread_is_a_problem_and_no_end(host: DaemonHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.configure()

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with running(host) as run:
        await serve(host, run)
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", refuse)
            with pytest.raises(HostError, match="no more threads"):
                await run.agent.reload(allow_outage=False)
            run.agent.note_devices()
            await run.until(lambda: "no more threads" in problems(run))
        await pass_until(run, lambda: problems(run) == "[]")


# A reload


async def test_a_reload_that_hangs_is_given_up_for_good(host: DaemonHost) -> None:
    async with serving(host) as run:
        host.answers.clear()
        host.configure(OTHER)
        with impatient(), pytest.raises(DeadlineError) as caught:
            await run.agent.reload(allow_outage=False)
        assert caught.value.message == (
            "cannot take the configuration, the one in force stays: the machine or a model does not answer"
        )
        assert str(caught.value.hint).endswith("; then: systemctl reload ovms-scaler")
        with impatient(), pytest.raises(DeadlineError):  # nor does the next one wait for it for ever
            await run.agent.reload(allow_outage=True)
        run.agent.note_devices()
        await host.engine().count(3)
        assert host.asked == 2
        host.answers.set()
        await pass_until(run, lambda: host.resolved == [True, True, False])
        assert run.routed
        assert run.read("code-numa0") == {}
        assert str(run.agent.document()["config"]).count("does not answer") == 1
        await run.until(lambda: host.said[-1].endswith("; the configuration on disk is not taken"))
        await run.agent.reload(allow_outage=False)
        await run.until(lambda: run.read("code-numa0").get("in_rotation") is True)
        assert run.agent.document()["config"] == {"file": str(host.config_file), "error": "", "hint": ""}


async def test_of_two_reloads_at_once_the_later_one_lasts(host: DaemonHost) -> None:
    async with silent(host) as (run, asked):
        first = asyncio.create_task(run.agent.reload(allow_outage=True))
        await host.until_asked(asked + 1)
        host.configure(OTHER)
        second = asyncio.create_task(run.agent.reload(allow_outage=False))
        host.answers.set()
        await asyncio.gather(first, second)
        assert host.asked == asked + 2
        await run.until(lambda: run.read("code-numa0").get("in_rotation") is True)


async def test_a_look_for_an_earlier_configuration_never_replaces_a_later_one(host: DaemonHost) -> None:
    async with silent(host) as (run, asked):
        run.agent.note_devices()
        await host.until_asked(asked + 1)
        host.configure(OTHER)
        reload = asyncio.create_task(run.agent.reload(allow_outage=False))
        host.answers.set()
        await reload
        await run.until(lambda: run.read("code-numa0").get("in_rotation") is True)
        # What devices there are is asked once more, as nobody knows what the look had seen of them.
        await host.until_asked(asked + 3)
        assert host.resolved[-3:] == [False, True, False]


async def test_word_of_devices_during_a_reload_that_fails_is_heeded_at_once(host: DaemonHost) -> None:
    async with silent(host) as (run, asked):
        reload = asyncio.create_task(run.agent.reload(allow_outage=False))
        await host.until_asked(asked + 1)
        run.agent.note_devices()
        await run.next_word()
        host.trouble = HostError("cannot read /sys")
        host.answers.set()
        with pytest.raises(HostError, match="cannot read /sys"):
            await reload
        await host.until_asked(asked + 2)


# The start


async def test_start_says_what_it_waits_for_and_goes_on_when_it_comes(host: DaemonHost) -> None:
    host.configure()
    host.answers.clear()
    async with contextlib.AsyncExitStack() as stack:
        with impatient():
            run = await stack.enter_async_context(running(host))
        assert await run.next_word() == (
            "READY=1\nSTATUS=no configuration in force: the machine or a model does not answer"
        )
        with impatient(), pytest.raises(DeadlineError, match="configuration, and none is in force: "):
            await run.agent.reload(allow_outage=False)
        run.agent.wake()
        await run.next_word()
        host.engine().body = SERVING
        host.answers.set()
        await run.until(lambda: run.routed)
        assert host.asked == 1
        assert run.agent.document()["config"] == {"file": str(host.config_file), "error": "", "hint": ""}
        assert problems(run) == "[]"


async def test_start_is_tried_again_until_it_is_answered(host: DaemonHost) -> None:
    """And the agent that comes back finds what it left, as it does where it is answered at once."""
    async with serving(host):
        pass
    await host.health.close()
    calls = list(host.units.calls)
    host.trouble = DeadlineError("the topology of this machine does not answer")
    async with running(host) as run:
        word = await run.next_word()
        assert word.endswith("no configuration in force: the topology of this machine does not answer")
        run.agent.wake()
        await run.next_word()
        assert run.agent.document()["instances"] == []
        host.trouble = None
        run.agent.wake()
        await run.until(lambda: run.routed)
        assert host.resolved[-1] is False
    assert host.units.calls == calls
