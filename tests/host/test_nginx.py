# SPDX-License-Identifier: Apache-2.0
import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio
from proxy_lab import (
    Answer,
    Engine,
    Proxy,
    engines,
    free_port,
    member,
    proxy,
    render,
    send,
    send_raw,
    upstream,
    wait_for_requests,
)

from ovms_scaler.core import nginx
from ovms_scaler.errors import HostError, SilenceError
from ovms_scaler.host import nginx as nginx_adapter

CHAT_PATH = "/v3/chat/completions"
RELOAD = "reload ovms-scaler-proxy.service"
START = "start ovms-scaler-proxy.service"
CHECK = "start ovms-scaler-proxy-check.service"


@dataclass
class Front:
    """One front with the upstream "chat" of two engines."""

    proxy: Proxy
    port: int
    engines: list[Engine]

    def files(
        self, *members: nginx.Member, port: int | None = None, mode: nginx.ProxyMode = nginx.ProxyMode.http
    ) -> nginx.ProxyFiles:
        front = nginx.Front(
            listen=(f"127.0.0.1:{port or self.port}",), upstreams=(upstream("chat", self.engines),)
        )
        return render(self.proxy.directory, (front,), {"chat": members}, mode=mode)

    async def install(self, *members: nginx.Member) -> None:
        await self.proxy.nginx.install(self.files(*members))

    async def ask(self, *, to_end: bool = False) -> Answer:
        return await send(self.port, CHAT_PATH, to_end=to_end)


@pytest_asyncio.fixture
async def front() -> AsyncIterator[Front]:
    async with proxy() as running, engines("chat-numa0", "chat-numa1") as both:
        yield Front(running, free_port(), both)


async def test_no_member_is_a_503_at_once(front: Front) -> None:
    await front.install()
    answer = await front.ask()
    assert (answer.status, answer.error_code, answer.headers["retry-after"]) == (503, "unavailable", "5")
    assert "x-ovms-instance" not in answer.headers
    assert answer.headers["content-type"] == "application/json"


async def test_an_answer_names_its_instance_and_passes_untouched(front: Front) -> None:
    first, _ = front.engines
    first.status, first.text = 400, '{"error": "the engine\'s own words"}'
    await front.install(member(first))
    answer = await front.ask()
    assert (answer.status, answer.body.decode()) == (400, first.text)
    assert answer.headers["x-ovms-instance"] == "chat-numa0"
    assert first.bodies == [b'{"messages": []}']


async def test_requests_go_to_the_least_loaded_instance(front: Front) -> None:
    first, second = front.engines
    first.hold = asyncio.Event()
    second.hold = asyncio.Event()
    await front.install(member(first), member(second))
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(front.ask())
        await wait_for_requests(front.engines, 8)
        assert (len(first.requests), len(second.requests)) == (4, 4)
        first.hold.set()
        second.hold.set()


async def test_at_max_conns_the_overflow_is_turned_away_at_once_and_nobody_else(front: Front) -> None:
    first, second = front.engines
    first.hold = second.hold = asyncio.Event()
    await front.install(member(first, max_conns=2), member(second, max_conns=3))
    async with asyncio.TaskGroup() as group:
        held = [group.create_task(front.ask()) for _ in range(5)]
        await wait_for_requests(front.engines, 5)
        refused = await asyncio.gather(*(front.ask() for _ in range(20)))
        first.hold.set()
    assert {(answer.status, answer.error_code) for answer in refused} == {(503, "unavailable")}
    assert all("retry-after" in answer.headers for answer in refused)
    assert [task.result().status for task in held] == [200] * 5
    assert (len(first.requests), len(second.requests)) == (2, 3)


async def test_a_large_request_over_the_limit_gets_the_same_answer(front: Front) -> None:
    await front.install()
    answer = await send(front.port, CHAT_PATH, body=b"x" * 5_000_000)
    assert (answer.status, answer.error_code) == (503, "unavailable")


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param("crash", id="it crashes while it computes"),
        pytest.param("gone", id="nothing listens there"),
        pytest.param("loading", id="it says 404 because its model is still loading"),
    ],
)
async def test_a_request_that_one_instance_does_not_answer_is_passed_to_another(
    front: Front, trouble: str
) -> None:
    first, second = front.engines
    first.is_crashing, first.status = trouble == "crash", 404
    if trouble == "gone":
        await first.stop()
    await front.install(member(first), member(second))
    answers = [await send(front.port, CHAT_PATH, body=b"y" * 200_000) for _ in range(6)]
    assert {(answer.status, answer.headers["x-ovms-instance"]) for answer in answers} == {
        (200, "chat-numa1")
    }
    assert set(second.bodies) == {b"y" * 200_000}


async def test_a_request_that_kills_engines_is_tried_on_two_only() -> None:
    async with proxy() as running, engines("a-numa0", "a-numa1", "a-numa2", "a-numa3") as four:
        front, port = nginx.Front, free_port()
        files = render(
            running.directory,
            (front(listen=(f"127.0.0.1:{port}",), upstreams=(upstream("a", four),)),),
            {"a": tuple(member(engine) for engine in four)},
        )
        await running.nginx.install(files)
        # Not with the first request of all: connections that were used before must make no difference.
        assert {(await send(port, CHAT_PATH)).status for _ in range(20)} == {200}
        for engine in four:
            engine.is_crashing = True
            engine.requests.clear()
        answer = await send(port, CHAT_PATH)
        assert (answer.status, answer.error_code) == (502, "instance_failed")
        assert sum(len(engine.requests) for engine in four) == 2


async def test_the_only_instance_failing_is_unavailability(front: Front) -> None:
    first, _ = front.engines
    first.is_crashing = True
    await front.install(member(first))
    answer = await front.ask()
    assert (answer.status, answer.error_code, len(first.requests)) == (503, "unavailable", 1)


@pytest.mark.parametrize("count", [1, 2], ids=["one instance", "two instances"])
async def test_a_model_nobody_knows_is_a_404_in_the_engines_own_words(front: Front, count: int) -> None:
    for engine in front.engines:
        engine.status, engine.text = 404, '{"error": "no such graph"}'
    await front.install(*map(member, front.engines[:count]))
    answer = await front.ask()
    assert (answer.status, answer.body) == (404, b'{"error": "no such graph"}')
    assert "retry-after" not in answer.headers
    assert answer.headers["x-ovms-instance"].startswith("chat-numa")


async def test_the_only_instance_gone_after_its_404_is_unavailability(front: Front) -> None:
    first, _ = front.engines
    first.status = 404
    first.hold = asyncio.Event()
    await front.install(member(first, max_conns=1))
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(front.ask())
        await first.arrived.wait()
        first.is_crashing = True
        first.hold.set()
    assert (asked.result().status, asked.result().error_code) == (503, "unavailable")


async def test_an_engine_that_never_answers_is_a_504_asked_once() -> None:
    async with proxy() as running, engines("chat-numa0", "chat-numa1") as both:
        both[0].hold = both[1].hold = asyncio.Event()
        port = free_port()
        fronts = (nginx.Front(listen=(f"127.0.0.1:{port}",), upstreams=(upstream("chat", both),)),)
        files = render(running.directory, fronts, {"chat": tuple(map(member, both))}, read_timeout_sec=1)
        await running.nginx.install(files)
        answer = await send(port, CHAT_PATH)
        assert (answer.status, answer.error_code) == (504, "instance_timeout")
        assert len(both[0].requests) + len(both[1].requests) == 1


PASSED = (
    ("POST", "/v3/chat/completions"),
    ("POST", "/v3/v1/embeddings"),
    ("POST", "/v1/chat/completions?x=/v1/config/reload"),
    ("GET", "/v3/models"),
    ("GET", "/v3/models/meta-llama/Meta-Llama-3-8B-Instruct"),
    ("GET", "/v2/models/meta-llama%2FMeta-Llama-3-8B/ready"),
    ("GET", "/v2/models/meta-llama%2fx/versions/1/infer"),
    ("GET", "/v2/models/%C3%BC/ready"),
    ("GET", "/v2"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v1/config"),
    ("GET", "/v1/config?a=b"),
    ("OPTIONS", "/v3/chat/completions"),
)
REFUSED = (
    ("POST", "/v1/config/reload"),
    ("GET", "/v1/config/reload"),
    ("POST", "/v1/config"),
    ("POST", "/v1/config/"),
    ("GET", "/v1/config/"),
    ("POST", "/v1/config/reload?x=1"),
    ("POST", "/v1/config/reload/"),
    ("POST", "//v1/config/reload"),
    ("POST", "/v1//config/reload"),
    ("POST", "/v1/config//reload"),
    ("POST", "/./v1/config/reload"),
    ("POST", "/v1/./config/reload"),
    ("POST", "/v3/../v1/config/reload"),
    ("POST", "/v3/%2e%2e/v1/config/reload"),
    ("POST", "/v3/..%2fv1/config/reload"),
    ("POST", "/v1%2Fconfig%2Freload"),
    ("POST", "/v1/config%2Freload"),
    ("POST", "/v1/%63onfig/reload"),
    ("POST", "/%76%31/config/reload"),
    ("POST", "/v1/config/%72eload"),
    ("POST", "/v1/config%252Freload"),
    ("POST", "/v1/CONFIG/reload"),
    ("POST", "/V1/config/reload"),
    ("POST", "/v1/Config/Reload"),
    ("POST", "/v1/config;x/reload"),
    ("POST", "/v1\\config\\reload"),
    ("POST", "/v1/config/reload#"),
    ("POST", "/#/v1/config/reload"),
    ("POST", "/v3/chat#/v1/config/reload"),
    ("POST", "/x/v1/config/reload"),
    ("POST", "http://x/v1/config/reload"),
    ("POST", "http://x//v1/config/reload"),
    ("POST", "http://x/%761/config/reload"),
    ("POST", "/v3/v1/config/reload"),
    ("POST", "/v3/config/reload"),
    ("POST", "/v2/models/..%2F..%2Fv1/../config/reload"),
    ("POST", "/v2/models/%2e%2e%2f%2e%2e%2fv1%2fconfig%2freload"),
    ("GET", "/metrics"),
    ("GET", "/%6detrics"),
    ("GET", "//metrics"),
    ("GET", "/v3/../metrics"),
    ("GET", "/METRICS"),
    ("GET", "http://x/metrics"),
    ("GET", "/"),
    ("GET", "/v4/models"),
    ("GET", "/v3"),
    ("GET", "/.ovms-scaler/error"),
    ("GET", "/generation"),
)


def _targets(prefix: str, cases: tuple[tuple[str, str], ...]) -> list[tuple[str, str, str]]:
    """(method, target as the client sends it, target as the engine must get it)."""
    return [
        (
            method,
            target.replace("http://x", f"http://x{prefix}") if "://" in target else f"{prefix}{target}",
            target,
        )
        for method, target in cases
    ]


@pytest.mark.parametrize("prefix", ["", "/chat"], ids=["plain front", "front with prefixes"])
async def test_serving_paths_pass_byte_for_byte_and_nothing_else_in_any_spelling(prefix: str) -> None:
    async with proxy() as running, engines("chat-numa0") as (engine,):
        port = free_port()
        chat = upstream("chat", [engine], prefix=prefix.lstrip("/"))
        fronts = (nginx.Front(listen=(f"127.0.0.1:{port}",), upstreams=(chat,)),)
        await running.nginx.install(render(running.directory, fronts, {"chat": (member(engine),)}))
        for method, target, wanted in _targets(prefix, PASSED):
            engine.requests.clear()
            answer = await send(port, target, method=method)
            assert (answer.status, engine.requests) == (200, [f"{method} {wanted}"])
        engine.requests.clear()
        for method, target, _ in _targets(prefix, REFUSED):
            answer = await send(port, target, method=method)
            assert answer.status in (400, 404), (method, target)
            assert json.loads(answer.body)["error"]["type"] == "invalid_request_error", (method, target)
        assert engine.requests == []


async def test_two_models_at_one_address_are_told_apart_by_prefix() -> None:
    async with proxy() as running, engines("chat-numa0", "embed-numa0") as (chat, embed):
        port = free_port()
        both = (upstream("chat", [chat], prefix="chat"), upstream("embed", [embed], prefix="embed"))
        fronts = (nginx.Front(listen=(f"127.0.0.1:{port}",), upstreams=both),)
        await running.nginx.install(
            render(running.directory, fronts, {"chat": (member(chat),), "embed": (member(embed),)})
        )
        assert (await send(port, "/chat/v3/models/a%2Fb", method="GET")).headers[
            "x-ovms-instance"
        ] == "chat-numa0"
        assert (await send(port, "/embed/v3/embeddings")).headers["x-ovms-instance"] == "embed-numa0"
        refused = [
            await send(port, target)
            for target in ("/v3/models", "/chat", "/other/v3/models", "/Chat/v3/models")
        ]
        assert {answer.status for answer in refused} == {404}
        assert (chat.requests, embed.requests) == (["GET /v3/models/a%2Fb"], ["POST /v3/embeddings"])


async def test_a_port_alone_is_every_address_and_an_address_only_itself() -> None:
    async with proxy() as running, engines("a-numa0", "b-numa0", "c-numa0") as (first, second, third):
        ports = [free_port() for _ in range(3)]
        fronts = (
            nginx.Front(listen=(str(ports[0]),), upstreams=(upstream("a", [first]),)),
            nginx.Front(listen=(f"127.0.0.1:{ports[1]}",), upstreams=(upstream("b", [second]),)),
            nginx.Front(
                listen=(f"127.0.0.2:{ports[2]}", f"[::1]:{ports[2]}"), upstreams=(upstream("c", [third]),)
            ),
        )
        members = {"a": (member(first),), "b": (member(second),), "c": (member(third),)}
        await running.nginx.install(render(running.directory, fronts, members))
        for host, port in (
            ("127.0.0.1", ports[0]),
            ("127.0.0.2", ports[0]),
            ("::1", ports[0]),
            ("127.0.0.1", ports[1]),
        ):
            assert (await send(port, CHAT_PATH, host=host)).status == 200
        for host in ("127.0.0.2", "::1"):
            assert (await send(ports[2], CHAT_PATH, host=host)).status == 200
        for host, port in (("127.0.0.2", ports[1]), ("127.0.0.1", ports[2])):
            with pytest.raises(ConnectionRefusedError):
                await send(port, CHAT_PATH, host=host)


async def test_errors_of_nginx_itself_are_in_openai_form(front: Front) -> None:
    await front.install(member(front.engines[0]))
    cases = {
        b"GARBAGE\r\n\r\n": (400, "bad_request"),
        b"GET /v3/models HTTP/1.1\r\n\r\n": (400, "bad_request"),
        b"GET /v3/models HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000 + b"\r\n\r\n": (
            400,
            "bad_request",
        ),
        b"GET /v3/" + b"y" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n": (414, "uri_too_long"),
        b"GET /v3/models HTTP/2.0\r\nHost: x\r\n\r\n": (505, "http_version"),
        b"TRACE /v3/models HTTP/1.1\r\nHost: x\r\n\r\n": (405, "method_not_allowed"),
        b"POST /v3/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n": (413, "request_too_large"),
        b"POST /v3/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n": (400, "bad_request"),
    }
    for request, (status, code) in cases.items():
        answer = await send_raw(front.port, request)
        assert (answer.status, answer.error_code) == (status, code), request[:60]
        assert answer.headers["content-type"] == "application/json"
    assert front.engines[0].requests == []


async def test_tokens_arrive_as_they_are_made_and_a_slow_upload_holds_no_engine(front: Front) -> None:
    first, _ = front.engines
    await front.install(member(first, max_conns=1))
    reader, slow = await asyncio.open_connection("127.0.0.1", front.port)
    slow.write(b"POST /v3/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nConnection: close\r\n\r\n12345")
    await slow.drain()
    # nginx gives the engine's only place free before it closes, but maybe after the answer.
    assert (await front.ask(to_end=True)).status == 200
    slow.write(b"67890")
    assert b" 200 " in await reader.readline()
    slow.close()
    assert first.bodies == [b'{"messages": []}', b"1234567890"]


async def test_stream_mode_balances_connections_and_says_503_with_no_member(front: Front) -> None:
    first, second = front.engines
    files = [
        front.files(*members, mode=nginx.ProxyMode.stream) for members in ((), map(member, front.engines))
    ]
    await front.proxy.nginx.install(files[0])
    answer = await front.ask()
    assert (answer.status, answer.error_code, answer.headers["retry-after"]) == (503, "unavailable", "5")
    await front.proxy.nginx.install(files[1])
    first.hold = second.hold = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(front.ask())
        await wait_for_requests(front.engines, 4)
        first.hold.set()
    assert (len(first.requests), len(second.requests)) == (2, 2)
    await first.stop()
    assert [(await front.ask()).status for _ in range(3)] == [200] * 3


async def test_what_runs_already_is_left_alone(front: Front) -> None:
    await front.install(member(front.engines[0]))
    front.proxy.jobs.clear()
    outcome = await front.proxy.nginx.install(front.files(member(front.engines[0])))
    assert (outcome.is_written, outcome.is_reloaded, front.proxy.jobs) == (False, False, [])
    assert front.proxy.nginx.read() == front.files(member(front.engines[0]))


async def test_a_change_of_membership_writes_one_route_and_reloads(front: Front) -> None:
    first, second = front.engines
    await front.install(member(first))
    front.proxy.jobs.clear()
    before = (front.proxy.directory / "nginx.conf").stat().st_ino
    outcome = await front.proxy.nginx.install(front.files(member(first), member(second)))
    assert front.proxy.jobs == [RELOAD]
    assert await front.proxy.nginx.read_generation() == outcome.generation
    assert (front.proxy.directory / "nginx.conf").stat().st_ino == before
    await front.install(member(second))
    assert [path.name for path in front.proxy.directory.glob("routes/*/*")] == ["chat-numa1.conf"]
    assert {(await front.ask()).headers["x-ovms-instance"] for _ in range(4)} == {"chat-numa1"}


async def test_a_proxy_that_was_killed_is_started_with_the_same_files(front: Front) -> None:
    await front.install(member(front.engines[0]))
    await front.proxy.kill()
    front.proxy.jobs.clear()
    outcome = await front.proxy.nginx.install(front.files(member(front.engines[0])))
    assert (outcome.is_written, outcome.is_reloaded, front.proxy.jobs) == (False, True, [START])
    assert (await front.ask()).status == 200


@pytest.mark.parametrize("when", ["reloading", "just_reloaded"])
async def test_a_reload_that_takes_long_is_not_asked_for_twice(
    front: Front, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(nginx_adapter, "_ANSWER_SEC", 0.3)
    first, second = front.engines
    await front.install(member(first))
    wanted = front.files(member(first), member(second))
    for name, text in wanted.files.items():
        (front.proxy.directory / name).write_text(text)
    process = front.proxy.process
    assert process is not None
    setattr(front.proxy, when, [lambda: process.send_signal(signal.SIGHUP)])
    front.proxy.jobs.clear()
    outcome = await front.proxy.nginx.install(wanted)
    assert (outcome.is_written, outcome.is_reloaded, front.proxy.jobs) == (False, False, [])
    assert await front.proxy.nginx.read_generation() == wanted.generation


async def test_a_reload_that_was_lost_is_made_up_for(front: Front) -> None:
    first, second = front.engines
    await front.install(member(first))
    wanted = front.files(member(first), member(second))
    for name, text in wanted.files.items():
        (front.proxy.directory / name).write_text(text)
    front.proxy.jobs.clear()
    outcome = await front.proxy.nginx.install(wanted)
    assert (outcome.is_written, outcome.is_reloaded, front.proxy.jobs) == (False, True, [RELOAD])
    assert await front.proxy.nginx.read_generation() == wanted.generation


async def test_a_configuration_nginx_refuses_changes_nothing_but_membership(front: Front) -> None:
    first, second = front.engines
    await front.install(member(first))
    bad = front.files(member(second))
    text = bad.files["nginx.conf"].replace("server_tokens off;", "server_tokens sometimes;")
    with pytest.raises(HostError, match=r'refuses it: .*invalid value "sometimes"'):
        await front.proxy.nginx.install(nginx.add_generation({**bad.files, "nginx.conf": text}))
    assert front.proxy.nginx.read() == front.files(member(second))
    assert (await front.ask()).headers["x-ovms-instance"] == "chat-numa1"


async def test_a_port_in_use_is_reported_and_the_previous_configuration_stays(front: Front) -> None:
    first, second = front.engines
    await front.install(member(first))
    with pytest.raises(HostError, match=rf"127.0.0.1:{second.port} failed \(98: Address already in use\)"):
        await front.proxy.nginx.install(front.files(member(first), member(second), port=second.port))
    wanted = front.files(member(first), member(second))
    assert front.proxy.nginx.read() == wanted
    assert await front.proxy.nginx.read_generation() == wanted.generation
    assert {(await front.ask()).headers["x-ovms-instance"] for _ in range(4)} <= {"chat-numa0", "chat-numa1"}


async def test_a_reload_that_systemd_does_not_answer_for_is_made_up_for(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = front.engines
    await front.install(member(first), member(second))
    before = await front.proxy.nginx.read_generation()
    wanted = front.files(member(second))

    async def stay_silent(unit: str, *, queued: Callable[[], None]) -> str:
        raise SilenceError(f"cannot reload {unit}: systemd did not answer in 10 s")

    with monkeypatch.context() as patched:
        patched.setattr(front.proxy, "reload", stay_silent)
        with pytest.raises(SilenceError):
            await front.proxy.nginx.install(wanted)
    # Whatever reloads it by then, it will be with these.
    assert front.proxy.nginx.read() == wanted
    assert await front.proxy.nginx.read_generation() == before
    assert (await front.proxy.nginx.install(wanted)).is_reloaded
    assert {(await front.ask()).headers["x-ovms-instance"] for _ in range(4)} == {"chat-numa1"}


async def test_a_systemd_that_is_slow_is_not_waited_for(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = front.engines
    await front.install(member(first), member(second))
    answers = asyncio.Event()

    async def be_slow(_unit: str, *, queued: Callable[[], None]) -> str:
        await answers.wait()
        queued()
        return "done"

    monkeypatch.setattr(front.proxy, "reload", be_slow)
    outcome = await front.proxy.nginx.install(front.files(member(second)))
    assert outcome.is_reloaded
    assert len(front.proxy.signalled) == 1
    assert {(await front.ask()).headers["x-ovms-instance"] for _ in range(4)} == {"chat-numa1"}


async def test_a_reload_that_systemd_has_taken_is_waited_for(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = front.engines
    await front.install(member(first), member(second))
    real = front.proxy.reload

    async def take_long(unit: str, *, queued: Callable[[], None]) -> str:
        queued()
        await asyncio.sleep(0.8)  # longer than the patience with a systemd that does not take it
        return await real(unit)

    monkeypatch.setattr(front.proxy, "reload", take_long)
    assert (await front.proxy.nginx.install(front.files(member(second)))).is_reloaded
    assert front.proxy.signalled == []


async def test_a_port_in_use_at_the_first_start_is_reported_and_taken_once_it_is_free(front: Front) -> None:
    squatter = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", front.port)
    for _ in range(2):  # each attempt says so in a log of its own, and in the same words
        with pytest.raises(HostError, match="Address already in use"):
            await front.install(member(front.engines[0]))
    squatter.close()
    await squatter.wait_closed()
    await front.install(member(front.engines[0]))
    assert (await front.ask()).status == 200


async def test_a_route_of_a_process_that_ended_meanwhile_is_not_written(front: Front) -> None:
    first, second = front.engines
    ended = front.proxy.directory / "ended"
    ended.mkdir()
    (ended / "chat-numa0").write_text("a" * 32 + "\n")
    outcome = await front.proxy.nginx.install(front.files(member(first), member(second)))
    assert outcome.withheld == ("chat-numa0",)
    assert [path.name for path in front.proxy.directory.glob("routes/*/*")] == ["chat-numa1.conf"]
    restarted = member(first, invocation="b" * 32)
    assert (await front.proxy.nginx.install(front.files(restarted, member(second)))).withheld == ()


async def test_files_that_cannot_be_written_are_reported_and_the_proxy_runs_on(front: Front) -> None:
    first, second = front.engines
    await front.install(member(first))
    lock = front.proxy.directory / "lock"
    lock.unlink()
    lock.mkdir()
    with pytest.raises(HostError, match=rf"cannot write the proxy's files: Is a directory: {lock}"):
        await front.proxy.nginx.install(front.files(member(second)))
    assert (await front.ask()).headers["x-ovms-instance"] == "chat-numa0"


async def test_an_instance_that_stops_during_a_failed_change_is_not_put_back(front: Front) -> None:
    first, second = front.engines
    await front.install(member(first), member(second))

    def stop_first() -> None:
        (front.proxy.directory / "ended").mkdir()
        (front.proxy.directory / "ended" / "chat-numa0").write_text("a" * 32)
        (front.proxy.directory / "routes" / "chat" / "chat-numa0.conf").unlink()

    front.proxy.during_check = stop_first
    bad = front.files(member(first), member(second))
    text = bad.files["nginx.conf"].replace("server_tokens off;", "server_tokens sometimes;")
    with pytest.raises(HostError, match="sometimes"):
        await front.proxy.nginx.install(nginx.add_generation({**bad.files, "nginx.conf": text}))
    assert front.proxy.nginx.read() == front.files(member(second))
    assert {(await front.ask()).headers["x-ovms-instance"] for _ in range(4)} == {"chat-numa1"}
