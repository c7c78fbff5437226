# SPDX-License-Identifier: Apache-2.0
"""What a client makes of a front that fails in one way or another."""

import asyncio
import errno
import os
import resource
import socket
from unittest import mock

import pytest
from bench_lab import CHUNKED, DONE, STREAM, Caller, Front, Script, event, serving, text, usage

from ovms_scaler.bench.client import Client, Exchange, render_body
from ovms_scaler.bench.outcome import Failure, Kind


async def ask(front: Front, **changes: object) -> Exchange:
    endpoint = front.endpoint(**changes)
    client = Client(endpoint)
    try:
        body = render_body(endpoint, prompt="Hello", max_tokens=2, temperature=0.5, ignore_eos=True)
        return await client.ask(body)
    finally:
        await client.close()


async def fail(script: Script, **changes: object) -> Failure:
    async with serving() as front:
        front.script = script
        exchange = await ask(front, **changes)
    assert exchange.failure is not None
    return exchange.failure


async def test_what_is_asked_and_what_came() -> None:
    async with serving() as front:
        exchange = await ask(front)
    assert exchange.failure is None
    assert exchange.instance == "chat-numa0"
    assert (exchange.answer.input_tokens, exchange.answer.generated_tokens) == (7, 2)
    assert exchange.answer.first_at is not None
    assert exchange.sent_at < exchange.answer.first_at <= exchange.end_at
    assert front.bodies == [
        {
            "model": "org/tiny",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 2,
            "temperature": 0.5,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }
    ]


async def test_the_key_is_sent_and_nowhere_shown() -> None:
    endpoint = Front(port=1).endpoint(api_key="secret")
    assert endpoint.headers() == {"Authorization": "Bearer secret"}
    assert "secret" not in repr(endpoint)


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    exchange = await ask(Front(port=port))
    assert exchange.failure is not None
    assert exchange.failure.kind is Kind.refused


async def test_what_the_client_itself_lacks_is_not_the_servers_fault() -> None:
    async with serving() as front:
        endpoint = front.endpoint()
        client = Client(endpoint)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = os.open("/dev/null", os.O_RDONLY)
        os.close(spare)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
        try:
            exchange = await client.ask(b"{}")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await client.close()
    assert exchange.failure == Failure(kind=Kind.own_limit, message="Too many open files")


async def test_no_port_left_is_not_the_servers_fault() -> None:
    """The kernel has one port to give, and it is taken."""
    async with serving() as front:
        error = OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        endpoint = front.endpoint()
        client = Client(endpoint)
        loop = asyncio.get_running_loop()
        with mock.patch.object(loop, "sock_connect", side_effect=error):
            exchange = await client.ask(b"{}")
        await client.close()
    assert exchange.failure is not None
    assert exchange.failure.kind is Kind.own_limit


async def test_a_name_that_nobody_knows() -> None:
    exchange = await ask(Front(), url="http://nobody.invalid:1/v3")
    assert exchange.failure is not None
    assert exchange.failure.kind is Kind.unreachable


async def test_reset_before_an_answer() -> None:
    async def script(caller: Caller) -> None:
        caller.reset()

    assert (await fail(script)).kind is Kind.no_answer


async def test_closed_before_an_answer() -> None:
    async def script(caller: Caller) -> None:
        caller.writer.close()

    assert (await fail(script)).kind is Kind.no_answer


@pytest.mark.parametrize("events", [(), (text("one "),), (text("one "), text("two"), usage(7, 2))])
async def test_reset_in_mid_stream(events: tuple[bytes, ...]) -> None:
    async def script(caller: Caller) -> None:
        await caller.send(CHUNKED)
        for one in events:
            await caller.chunk(one)
        caller.reset()

    assert (await fail(script)).kind is Kind.cut


async def test_closed_in_mid_stream() -> None:
    async def script(caller: Caller) -> None:
        await caller.send(CHUNKED)
        await caller.chunk(text("one "))
        caller.writer.close()

    failure = await fail(script)
    assert (failure.kind, failure.message) == (Kind.cut, "the connection ended in the middle of the answer")


async def test_a_whole_answer_that_stops_in_the_middle_is_cut_too() -> None:
    async def script(caller: Caller) -> None:
        await caller.answer(text("one "))

    failure = await fail(script)
    assert (failure.kind, failure.message) == (Kind.cut, "the stream ended without [DONE]")


async def test_without_a_length_the_end_of_the_connection_is_no_end_of_the_answer() -> None:
    async def script(caller: Caller) -> None:
        await caller.send(STREAM + "Connection: close\r\n\r\n")
        await caller.send(text("one "))

    assert (await fail(script)).kind is Kind.cut


async def test_what_comes_after_the_end_does_not_matter() -> None:
    async def script(caller: Caller) -> None:
        await caller.send(CHUNKED)
        await caller.chunk(text("one ") + usage(7, 1) + DONE)
        caller.reset()

    async with serving() as front:
        front.script = script
        assert (await ask(front)).failure is None


async def test_no_usage() -> None:
    async def script(caller: Caller) -> None:
        await caller.answer(text("one"), DONE)

    failure = await fail(script)
    assert failure.kind is Kind.no_usage
    assert "include_usage" in failure.message


async def test_an_answer_with_neither_text_nor_tokens_is_none() -> None:
    async def script(caller: Caller) -> None:
        await caller.answer(usage(7, 0), DONE)

    failure = await fail(script)
    assert (failure.kind, failure.label) == (Kind.empty, "empty answer")


async def test_text_of_no_tokens_cannot_be_counted() -> None:
    async def script(caller: Caller) -> None:
        await caller.answer(text("one"), usage(0, 0), DONE)

    failure = await fail(script)
    assert (failure.kind, failure.label) == (Kind.no_count, "usage says 0 tokens")


async def test_tokens_without_text_are_an_answer() -> None:
    """Half a letter, or nothing but the end of text."""

    async def script(caller: Caller) -> None:
        await caller.answer(usage(7, 1), DONE)

    async with serving() as front:
        front.script = script
        exchange = await ask(front)
    assert (exchange.failure, exchange.answer.first_at) == (None, None)


async def test_too_slow() -> None:
    async def script(caller: Caller) -> None:
        await caller.send(CHUNKED)
        await caller.chunk(text("one"))
        await caller.writer.wait_closed()

    failure = await fail(script, timeout_sec=0.1)
    assert (failure.kind, failure.message) == (Kind.timeout, "no end within 0.1 s")


@pytest.mark.parametrize(
    ("status", "document", "label"),
    [
        (503, {"error": {"message": "full", "code": "unavailable"}}, "rejected: HTTP 503 (unavailable)"),
        (404, {"error": "graph is not found"}, "HTTP 404"),
        (401, {"error": {"message": "no key", "code": "invalid_api_key"}}, "HTTP 401 (invalid_api_key)"),
        (500, "<html>", "HTTP 500"),
        (301, "", "HTTP 301"),
    ],
)
async def test_errors_of_http(status: int, document: object, label: str) -> None:
    async def script(caller: Caller) -> None:
        await caller.tell(status, document)

    failure = await fail(script)
    assert (failure.kind, failure.status, failure.label) == (Kind.status, status, label)


async def test_an_answer_that_is_no_stream() -> None:
    async def script(caller: Caller) -> None:
        await caller.tell(200, {"choices": []})

    failure = await fail(script)
    assert (failure.kind, failure.message) == (
        Kind.nonsense,
        "the answer is application/json, not text/event-stream",
    )


async def test_garbage_in_the_stream() -> None:
    async def script(caller: Caller) -> None:
        await caller.answer(text("one"), event("\x00garbage"), DONE)

    assert (await fail(script)).kind is Kind.nonsense


async def test_what_is_no_http() -> None:
    async def script(caller: Caller) -> None:
        await caller.send("SSH-2.0-OpenSSH_9.2\r\n\r\n")

    assert (await fail(script)).kind in (Kind.nonsense, Kind.no_answer)


async def test_a_name_of_an_instance_is_text_with_bounds() -> None:
    async def script(caller: Caller) -> None:
        name = b"\x80<" + b"x" * 4000
        await caller.send(CHUNKED.encode().replace(b"chat-numa0", name))
        await caller.chunk(text("one ") + usage(7, 1) + DONE)
        await caller.send("0\r\n\r\n")

    async with serving() as front:
        front.script = script
        exchange = await ask(front)
    assert exchange.instance.startswith("\\udc80<xxx")
    assert len(exchange.instance) < 100


async def test_an_error_in_mid_stream_is_the_servers_own_word() -> None:
    async def script(caller: Caller) -> None:
        await caller.answer(text("one"), event({"error": {"message": "out of memory"}}))

    failure = await fail(script)
    assert (failure.kind, failure.message) == (Kind.reported, "out of memory")
