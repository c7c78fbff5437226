# SPDX-License-Identifier: Apache-2.0
"""What a real nginx makes of instances that fail: nobody is asked more than needed, nobody is lost."""

import asyncio
from collections import Counter

import pytest
from proxy_lab import (
    CHAT,
    Answer,
    Engine,
    Proxy,
    engines,
    free_port,
    member,
    proxy,
    render,
    send,
    upstream,
    wait_for_requests,
)

from ovms_scaler.core import nginx

PATH = "/v3/chat/completions"
FOUR = ("a-numa0", "a-numa1", "a-numa2", "a-numa3")


async def _install(running: Proxy, asked: list[Engine]) -> int:
    """The port of a front for all of them."""
    port = free_port()
    front = nginx.Front(listen=(f"127.0.0.1:{port}",), upstreams=(upstream("a", asked),))
    await running.nginx.install(render(running.directory, (front,), {"a": tuple(map(member, asked))}))
    return port


async def _burst(port: int, *, clients: int = 16, each: int = 5) -> list[Answer]:
    async def ask() -> list[Answer]:
        return [await send(port, PATH) for _ in range(each)]

    return [
        answer for answers in await asyncio.gather(*(ask() for _ in range(clients))) for answer in answers
    ]


def _assert_unavailable(answer: Answer) -> None:
    assert (answer.status, answer.error_code, answer.headers["retry-after"]) == (503, "unavailable", "5")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("dead", [1, 2, 3])
async def test_nothing_is_lost_while_routes_to_dead_instances_are_still_there(dead: int) -> None:
    async with proxy() as running, engines(*FOUR) as four:
        port = await _install(running, four)
        for engine in four[:dead]:
            await engine.stop()
        assert Counter(answer.status for answer in await _burst(port)) == {200: 80}


@pytest.mark.parametrize("dead", [1, 2, 3])
async def test_requests_whose_instance_dies_under_them_are_answered_by_those_that_live(dead: int) -> None:
    async with proxy() as running, engines(*FOUR) as four:
        port = await _install(running, four)
        hold = asyncio.Event()
        for engine in four:
            engine.hold = hold
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(send(port, PATH, body=b"y" * 200_000)) for _ in range(64)]
            await wait_for_requests(four, 64)
            for engine in four[:dead]:
                await engine.stop()
            hold.set()
        assert Counter(task.result().status for task in asked) == {200: 64}
        assert {body for engine in four for body in engine.bodies} == {b"y" * 200_000}


@pytest.mark.parametrize("count", [1, 2, 4])
async def test_all_instances_dead_is_a_503_from_the_first_request_on(count: int) -> None:
    async with proxy() as running, engines(*FOUR[:count]) as dead:
        port = await _install(running, dead)
        for engine in dead:
            await engine.stop()
        for answer in [await send(port, PATH), *await _burst(port, each=2)]:
            _assert_unavailable(answer)


async def test_many_dead_instances_end_in_our_own_words() -> None:
    # More than nginx follows redirects for one request.
    names = [f"a-numa{number}" for number in range(40)]
    async with proxy() as running, engines(*names) as dead:
        port = await _install(running, dead)
        for engine in dead:
            await engine.stop()
        for answer in await _burst(port, clients=1, each=8):
            _assert_unavailable(answer)


async def test_a_request_reaches_two_instances_at_most_whatever_else_is_gone() -> None:
    async with proxy() as running, engines(*FOUR) as four:
        port = await _install(running, four)
        await four[0].stop()
        for engine in four[1:]:
            engine.is_crashing = True
        answer = await send(port, PATH)
        assert (answer.status, answer.error_code) == (502, "instance_failed")
        assert sum(len(engine.requests) for engine in four) == 2


@pytest.mark.parametrize("resets", [1, 2])
async def test_a_reset_or_two_do_not_cost_the_only_instance_its_next_requests(resets: int) -> None:
    async with proxy() as running, engines(FOUR[0]) as (only,):
        port = await _install(running, [only])
        only.is_crashing = True
        for _ in range(resets):
            _assert_unavailable(await send(port, PATH))
        only.is_crashing = False
        assert Counter(answer.status for answer in await _burst(port)) == {200: 80}


async def test_what_an_instance_answers_never_takes_it_out() -> None:
    async with proxy() as running, engines(*FOUR[:2]) as both:
        port = await _install(running, both)
        # As engines say that not every model of theirs is ready, to whoever asks.
        for engine in both:
            engine.status, engine.text = 503, '{"error": "Server is not ready"}'
        for _ in range(20):
            answer = await send(port, "/v2/health/ready", method="GET")
            assert (answer.status, answer.body) == (503, b'{"error": "Server is not ready"}')
        for engine in both:
            engine.status = 200
        assert Counter(answer.status for answer in await _burst(port)) == {200: 80}


async def test_an_instance_that_lives_again_is_asked_again() -> None:
    async with proxy() as running, engines(*FOUR[:2]) as (first, second):
        port = await _install(running, [first, second])
        await first.stop()
        await _burst(port)
        await first.start()
        async with asyncio.timeout(10):
            answers = {first.instance: False}
            while not answers[first.instance]:
                answers[(await send(port, PATH)).headers["x-ovms-instance"]] = True
        assert second.bodies.count(CHAT) >= 80
