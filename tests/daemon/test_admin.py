# SPDX-License-Identifier: Apache-2.0
"""The admin listener: where it listens, whom it answers, and what it costs to be asked badly."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import page_lab
import pytest
from admin_lab import Answer, Shown, admin_open, ask, header, is_open, listening, send, until
from daemon_host import CONFIG, LIMIT_SEC, DaemonHost, running
from proxy_lab import free_port

from ovms_scaler.core.topology import Topology, topology_document
from ovms_scaler.daemon import admin as admin_module
from ovms_scaler.daemon import admin_pages, lanes
from ovms_scaler.daemon.admin import BOUNDS, Admin
from ovms_scaler.daemon.admin_pages import LATE, UNKNOWN, Machine
from ovms_scaler.daemon.connections import Bounds
from ovms_scaler.errors import HostError

JSON_PATHS = ("/v1/status", "/v1/measures", "/v1/events", "/v1/topology", "/v1/overview")


def error(answer: Answer) -> str:
    return str(json.loads(answer.body)["error"]["message"])


# Where it listens


async def test_follows_what_is_wanted() -> None:
    one, two = free_port(), free_port()
    admin = Admin()
    async with admin_open(admin, Shown()):
        admin.want(f"127.0.0.1:{one}")
        await until(lambda: is_open(one))
        admin.want(f"127.0.0.2:{two}")
        await until(lambda: is_open(two, "127.0.0.2") and not is_open(one))
        assert not is_open(two)
        admin.want("")
        await until(lambda: not is_open(two, "127.0.0.2"))
        assert admin.problem == ""


async def test_listens_on_ipv6() -> None:
    port = free_port()
    admin = Admin()
    async with admin_open(admin, Shown()):
        admin.want(f"[::1]:{port}")
        await until(lambda: is_open(port, "::1"))
        request = f"GET /v1/status HTTP/1.1\r\nHost: [::1]:{port}\r\n\r\n".encode()
        assert (await send(port, request, address="::1")).status == 200


async def test_a_busy_port_is_a_problem_until_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_module, "RETRY_SEC", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        admin = Admin()
        async with admin_open(admin, Shown()):
            admin.want(f"127.0.0.1:{port}")
            await until(lambda: admin.problem != "")
            assert admin.problem == (
                f"cannot listen on admin.listen 127.0.0.1:{port}: Address already in use; "
                f"ss -ltnp 'sport = {port}' shows who does, and it is tried again"
            )
            other.close()
            await until(lambda: admin.problem == "")
            assert (await ask(port)).status == 200


async def test_a_busy_port_that_nobody_wants_any_more_is_no_problem() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        admin = Admin()
        async with admin_open(admin, Shown()):
            admin.want(f"127.0.0.1:{other.getsockname()[1]}")
            await until(lambda: admin.problem != "")
            admin.want("")
            await until(lambda: admin.problem == "")


async def test_a_reload_takes_it_elsewhere_and_the_status_tells_of_trouble(host: DaemonHost) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as other:
        host.configure(f'{CONFIG}[admin]\nlisten = "127.0.0.1:{other.getsockname()[1]}"\n')
        async with running(host) as run, admin_open(host.admin, Shown()):
            await until(lambda: "Address already in use" in str(run.agent.document()["problems"]))
            host.configure(f'{CONFIG}[admin]\nlisten = "127.0.0.1:{port}"\n')
            await run.agent.reload(allow_outage=False)
            await until(lambda: is_open(port) and run.agent.document()["problems"] == [])
            host.configure(f'{CONFIG}[admin]\nlisten = ""\n')
            await run.agent.reload(allow_outage=False)
            await until(lambda: not is_open(port))
    assert host.tally.passes.counts != [0] * len(host.tally.passes.counts)


# What it answers


@pytest.mark.parametrize("path", JSON_PATHS)
async def test_documents(path: str) -> None:
    async with listening() as port:
        answer = await ask(port, path)
        assert (answer.status, header(answer, "Content-Type")) == (200, "application/json; charset=utf-8")
        assert isinstance(json.loads(answer.body), dict)
        head = await ask(port, path, method="HEAD")
        assert (head.status, head.body) == (200, "")


async def test_overview_has_everything() -> None:
    shown = Shown(status={"a": 1}, measures={"b": 2}, topology={"c": 3})
    for number in range(60):
        shown.events.note({"event": "paused", "level": "info", "number": number})
    async with listening(shown) as port:
        overview = json.loads((await ask(port, "/v1/overview")).body)
    assert (overview["status"], overview["measures"], overview["topology"]) == ({"a": 1}, {"b": 2}, {"c": 3})
    assert [one["number"] for one in overview["events"]["events"]] == list(range(10, 60))
    assert (overview["host"], type(overview["at"])) == (socket.gethostname(), float)
    assert overview["version"]


async def test_the_page_and_its_live_part() -> None:
    async with listening() as port:
        for path in ("/", "/fragment"):
            answer = await ask(port, path)
            assert (answer.status, answer.body[:3]) == (200, "<p>")
            assert header(answer, "Content-Type") == "text/html; charset=utf-8"
            assert header(answer, "Content-Security-Policy") == "default-src 'none'; style-src 'self'"


async def test_events_as_many_as_are_asked_for() -> None:
    shown = Shown()
    for number in range(3):
        shown.events.note({"event": "paused", "level": "info", "number": number})
    async with listening(shown) as port:
        found = json.loads((await ask(port, "/v1/events?limit=1")).body)["events"]
        assert [one["number"] for one in found] == [2]
        refused = await ask(port, "/v1/events?limit=many")
        assert (refused.status, error(refused)) == (
            400,
            "limit must be a whole number from 1 on, not 'many'",
        )


async def test_metrics_in_the_form_that_is_asked_for() -> None:
    asked: list[str] = []

    async def metrics(accept: str) -> tuple[bytes, str]:
        asked.append(accept)
        return b"# EOF\n", "application/openmetrics-text; version=1.0.0; charset=utf-8"

    async with listening(Shown(metrics=metrics)) as port:
        answer = await ask(port, "/metrics", more="Accept: application/openmetrics-text\r\n")
    assert (answer.body, asked) == ("# EOF\n", ["application/openmetrics-text"])
    assert header(answer, "Content-Type") == "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/metrics", "/v1/status", "/v2", "/v1/reload", "/../etc/passwd"])
async def test_every_answer_says_how_it_may_be_used(path: str) -> None:
    async with listening() as port:
        answer = await ask(port, path)
    assert header(answer, "Cache-Control") == "no-store"
    assert header(answer, "X-Content-Type-Options") == "nosniff"
    assert header(answer, "X-Frame-Options") == "DENY"
    assert header(answer, "Cross-Origin-Resource-Policy") == "same-origin"
    assert header(answer, "Referrer-Policy") == "no-referrer"
    assert "'none'" in header(answer, "Content-Security-Policy")
    assert header(answer, "Access-Control-Allow-Origin") == ""
    assert header(answer, "Connection") == "close"


# What it refuses


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/metrics", "/v1/status"])
async def test_nothing_can_be_changed(method: str, path: str) -> None:
    async with listening() as port:
        answer = await ask(port, path, method=method, more="Content-Length: 2\r\n\r\n{}")
    assert (answer.status, header(answer, "Allow")) == (405, "GET,HEAD")
    assert error(answer) == f"{method} {path}: Method Not Allowed"


@pytest.mark.parametrize(
    "path", ["/v1/reload", "/v1/drain", "/v1/status/", "/metrics/x", "/favicon.ico", "//"]
)
async def test_other_paths_are_not_there(path: str) -> None:
    async with listening() as port:
        answer = await ask(port, path)
    assert (answer.status, error(answer)) == (404, f"GET {path}: Not Found")


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:9000", "127.0.0.1", "127.0.0.1:8002", "127.9.9.9:1", "[::1]", "[::1]:8002"],
)
async def test_hosts_that_are_this_machine(host: str) -> None:
    async with listening() as port:
        assert (await ask(port, "/v1/status", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8002", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.1",
        "0.0.0.0", "0", "2130706433", "[::]", "[::ffff:127.0.0.1", "[::ffff:127.0.0.1]",
        "localhost:", "localhost:8002:1", "",
        "a@localhost", "127.0.0.1, evil.example", "[localhost]", "::1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/metrics", "/nowhere"])
async def test_hosts_of_strangers(host: str, path: str) -> None:
    """A page of theirs could have its own name lead here (DNS rebinding)."""
    async with listening() as port:
        answer = await ask(port, path, host=host)
    assert answer.status == 421
    assert "Host must be localhost or an address of the loopback" in error(answer)


async def test_one_host_exactly() -> None:
    async with listening() as port:
        none = await send(port, b"GET / HTTP/1.0\r\n\r\n")
        two = await ask(port, more="Host: evil.example\r\n")
    assert (none.status, two.status) in ((421, 421), (421, 400))


async def test_a_page_that_fails_is_told_and_harms_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    async def fails(_accept: str) -> tuple[bytes, str]:
        raise KeyError("unforeseen")

    async with listening(Shown(metrics=fails)) as port:
        answer = await ask(port, "/metrics")
        assert (answer.status, error(answer)) == (500, "the agent failed to answer; its log says why")
        assert (await ask(port, "/v1/status")).status == 200
    assert "admin request failed" in "".join(capfd.readouterr())


# What it bears


async def test_who_occupies_all_connections_keeps_nobody_out() -> None:
    bounds = Bounds(of_user=4, of_all=4, makes_room=True)
    async with listening(bounds=bounds) as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(9)]
        try:
            for _ in range(3):
                assert (await ask(port, "/v1/status")).status == 200
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionError):
                    assert await idle[0][0].read() == b""  # the oldest made room
        finally:
            for _, writer in idle:
                writer.close()


async def test_a_connection_is_bounded_in_time_and_bytes() -> None:
    for bounds, data in (
        (Bounds(lifetime_sec=0.1), b"GET / HTTP/1.1\r\n"),
        (Bounds(bytes=1000), b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 1000),
    ):
        async with listening(bounds=bounds) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(data)
                async with asyncio.timeout(10):
                    with contextlib.suppress(ConnectionError):
                        assert await reader.read() == b""
            finally:
                writer.close()
            assert (await ask(port, "/v1/status")).status == 200


@pytest.mark.parametrize(("path", "what"), [("/", "page"), ("/fragment", "fragment")])
async def test_a_crowd_has_a_page_rendered_once(path: str, what: str) -> None:
    shown = Shown(page_sec=LIMIT_SEC)
    async with listening(shown) as port:
        answers = await asyncio.gather(*(ask(port, path) for _ in range(20)))
        assert {one.status for one in answers} == {200}
        assert (await ask(port, path)).body == answers[0].body
        assert shown.rendered == [what]


async def test_a_page_is_not_kept_for_long() -> None:
    shown = Shown(page_sec=0.0)
    async with listening(shown) as port:
        for times in (1, 2):
            assert (await ask(port)).status == 200
            assert len(shown.rendered) == times
    assert admin_pages.PAGE_SEC <= 1.0


async def test_defaults_are_bounded() -> None:
    assert BOUNDS.makes_room
    assert BOUNDS.of_user == BOUNDS.of_all <= 64
    assert BOUNDS.bytes <= 1 << 16
    assert BOUNDS.lifetime_sec <= 30


# A machine that does not answer


@dataclass(slots=True)
class Reader:
    """Reads a topology; while ``hangs`` it does not come back before ``go``."""

    hangs: bool = True
    error: HostError | None = None
    go: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    topology: Topology = field(default_factory=lambda: page_lab.machine(sockets=1, nodes=1, cores=2))

    def __call__(self) -> Topology:
        if self.hangs:
            self.go.wait(LIMIT_SEC)
            self.ended.set()
        if self.error is not None:
            raise self.error
        return self.topology


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """It is asked each time, and waited for shortly."""
    monkeypatch.setattr(admin_pages, "MACHINE_SEC", -1.0)
    monkeypatch.setattr(admin_pages, "PATIENCE_SEC", 0.02)
    monkeypatch.setattr(lanes, "INTERVAL_SEC", 0.0)
    made = Reader()
    yield made
    made.go.set()


async def test_a_machine_that_never_answered_is_unknown(reader: Reader) -> None:
    async with listening(Shown(machine=Machine(reader).document)) as port:
        answer = await ask(port, "/v1/topology")
        assert (answer.status, error(answer)) == (500, UNKNOWN)
        overview = json.loads((await ask(port, "/v1/overview")).body)
        assert overview["topology"] == {"warnings": [UNKNOWN]}
        assert (await ask(port)).status == 200
        reader.go.set()
        await asyncio.to_thread(reader.ended.wait, LIMIT_SEC)
        reader.hangs = False
        assert json.loads((await ask(port, "/v1/topology")).body) == topology_document(reader.topology)


async def test_a_machine_that_hangs_is_shown_as_it_was(reader: Reader) -> None:
    async with listening(Shown(machine=Machine(reader).document)) as port:
        reader.hangs = False
        seen = json.loads((await ask(port, "/v1/topology")).body)
        assert seen["warnings"] == []
        reader.hangs = True
        assert json.loads((await ask(port, "/v1/topology")).body) == {**seen, "warnings": [LATE]}
    assert not reader.ended.is_set()


async def test_a_machine_that_cannot_be_read_says_why(reader: Reader) -> None:
    reader.hangs, reader.error = False, HostError("cannot read sys/devices", hint="look at it")
    async with listening(Shown(machine=Machine(reader).document)) as port:
        answer = await ask(port, "/v1/topology")
        assert (answer.status, error(answer)) == (500, str(reader.error))
        overview = json.loads((await ask(port, "/v1/overview")).body)
        assert overview["topology"] == {"warnings": ["cannot read sys/devices; look at it"]}


def test_a_machine_that_hangs_keeps_no_agent_from_ending(reader: Reader) -> None:
    async def look() -> None:
        with pytest.raises(HostError):
            await Machine(reader).document()

    asyncio.run(look())
    assert not reader.ended.is_set()


async def test_nothing_is_done_for_who_has_gone(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_pages, "PATIENCE_SEC", 10 * LIMIT_SEC)
    asked: list[asyncio.Task[object] | None] = []
    writers: list[asyncio.StreamWriter] = []
    machine = Machine(reader)

    async def topology() -> dict[str, object]:
        asked.append(asyncio.current_task())
        return dict(await machine.document())

    async with listening(Shown(machine=topology)) as port:
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            writer.write(b"GET /v1/topology HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: len(asked) == len(writers))
            writer.close()
        await until(lambda: all(task is not None and task.done() for task in asked))
        assert (await ask(port, "/v1/status")).status == 200
    assert not reader.ended.is_set()


@pytest.mark.parametrize(
    "data", [b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"A" * 20_000 + b"\r\n\r\n"]
)
async def test_nothing_is_logged_of_what_is_no_request(
    data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                await reader.read()
        writer.close()
        assert (await ask(port, "/v1/status")).status == 200
    written = "".join(capfd.readouterr())
    assert "Traceback" not in written
    assert "failed" not in written
