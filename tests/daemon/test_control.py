# SPDX-License-Identifier: Apache-2.0
"""The control socket over a real Unix socket, with clients that are well and badly behaved."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from daemon_host import CONFIG, SERVING, DaemonHost, Running, running

from ovms_scaler.daemon import intent
from ovms_scaler.daemon.control import MAX_REQUEST_BYTES, Control
from ovms_scaler.daemon.events import Events
from ovms_scaler.daemon.measuring import Measuring
from ovms_scaler.errors import HostError

NOBODY = 65534
LIMIT_SEC = 10
ASK_AS_SOMEBODY = """\
import os, socket, sys
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.sendall(f"{sys.argv[3]} {sys.argv[4]} HTTP/1.0\\r\\nContent-Length: 0\\r\\n\\r\\n".encode())
while block := client.recv(65536):
    sys.stdout.buffer.write(block)
"""


@dataclass(frozen=True, kw_only=True)
class Served:
    """An agent whose control socket is open, in a directory that everybody may enter."""

    run: Running
    socket: Path

    @property
    def host(self) -> DaemonHost:
        return self.run.host


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """pytest's own directories are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="ovms-control-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    left = [path.name for path in directory.iterdir()]
    shutil.rmtree(directory)
    assert left == []


@pytest.fixture
async def served(host: DaemonHost, open_directory: Path) -> AsyncIterator[Served]:
    host.configure()
    path = open_directory / "control.sock"
    # What an agent that was killed leaves is replaced.
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with running(host) as run:
        events = Events()
        events.note({"event": "agent started", "version": "0.1.0"})
        measuring = Measuring(run.agent.view, proxy_uid=None, root=host.root)
        control = Control(
            run.agent, path, answers={"events": events.answer, "measures": lambda _query: measuring.read()}
        )
        await control.open()
        try:
            yield Served(run=run, socket=path)
        finally:
            await control.close()


async def ask(served: Served, method: str, target: str, **options: Any) -> tuple[int, Any]:
    """Status and JSON of the answer, whatever the status is."""
    connector = aiohttp.UnixConnector(path=str(served.socket))
    timeout = aiohttp.ClientTimeout(total=LIMIT_SEC)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.request(method, f"http://agent{target}", **options) as answer,
    ):
        assert answer.content_type == "application/json"
        return answer.status, await answer.json()


def message(answer: object) -> str:
    assert isinstance(answer, dict)
    return str(answer["error"]["message"])


async def test_status_is_the_agents_document(served: Served) -> None:
    await served.run.until_state("loading")
    status, document = await ask(served, "GET", "/v1/status")
    assert status == 200
    assert document == json.loads(json.dumps(served.run.agent.document()))
    assert [one["id"] for one in document["instances"]] == ["chat-numa0"]


async def test_events_are_for_everybody(served: Served) -> None:
    status, document = await ask(served, "GET", "/v1/events?since=1&limit=5")
    assert status == 200
    (event,) = document["events"]
    assert event.keys() == {"at", "level", "event", "version"}
    assert await ask(served, "GET", "/v1/events?since=99999999999") == (200, {"events": []})


async def test_measures_are_of_the_same_instances(served: Served) -> None:
    await served.run.until_state("loading")
    status, document = await ask(served, "GET", "/v1/measures")
    assert status == 200
    assert [one["id"] for one in document["instances"]] == ["chat-numa0"]
    assert document["front"]["requests_total"] == 0


async def test_reload_takes_the_configuration(served: Served) -> None:
    served.host.configure(CONFIG.replace('"chat"', '"code"'))
    before = time.monotonic()
    status, answer = await ask(served, "POST", "/v1/reload")
    assert (status, answer["accepted"], answer["instances"]) == (200, True, 1)
    assert before < answer["ordered_sec"] < time.monotonic()
    await served.run.until(lambda: served.run.read("code-numa0") != {})


async def test_a_bad_configuration_comes_back_with_every_problem(served: Served) -> None:
    served.host.configure(CONFIG + "a = 1\nb = 2\n")
    status, answer = await ask(served, "POST", "/v1/reload")
    assert status == 400
    assert len(answer["error"]["problems"]) == 2
    assert "health.a: is not a key of this table" in answer["error"]["problems"][0]


async def test_a_corrupt_port_book_comes_back_with_the_way_out(served: Served) -> None:
    (served.host.root / "var/lib/ovms-scaler/ports.json").write_text("{")
    status, answer = await ask(served, "POST", "/v1/reload")
    assert status == 400
    assert "cannot use the port book" in message(answer)
    assert "hint: restore it" in message(answer)


@pytest.mark.parametrize(
    ("method", "target", "status", "words"),
    [
        pytest.param(
            "GET", "/v1/events?since=x", 400, "since must be seconds since the epoch, not 'x'", id="a time"
        ),
        pytest.param("GET", "/", 404, "GET /: Not Found", id="no such path"),
        pytest.param("GET", "/v1/reload", 405, "GET /v1/reload: Method Not Allowed", id="not to be read"),
        pytest.param("POST", "/v1/status", 405, "Method Not Allowed", id="not to be changed"),
        pytest.param(
            "POST", "/v1/reload?allow_outage=yes", 400, "allow_outage must be 0 or 1, not 'yes'", id="a word"
        ),
    ],
)
async def test_wrong_requests_are_answered_in_json(
    served: Served, method: str, target: str, status: int, words: str
) -> None:
    found, answer = await ask(served, method, target)
    assert found == status
    assert words in message(answer)


def waiting_for(served: Served, state: str) -> Any:
    return served.run.until(lambda: served.run.read().get("state") == state)


async def test_an_order_is_about_instances_and_has_a_time(served: Served) -> None:
    await waiting_for(served, "loading")
    status, answer = await ask(served, "POST", "/v1/drain", json={"name": "chat", "allow_outage": False})
    assert (status, answer["accepted"], answer["instances"]) == (200, True, ["chat-numa0"])
    await waiting_for(served, "drained")
    document = (await ask(served, "GET", "/v1/status"))[1]
    assert document["observed_sec"] >= answer["ordered_sec"]
    assert document["orders"]["drained"].keys() == {"chat-numa0"}
    assert (await ask(served, "POST", "/v1/undrain", json={"name": "chat-numa0"}))[0] == 200
    await waiting_for(served, "loading")
    assert (await ask(served, "POST", "/v1/reset", json={"name": "chat"}))[0] == 200
    assert (await ask(served, "POST", "/v1/pause"))[1]["instances"] == []
    assert served.run.agent.orders.current.is_paused
    assert (await ask(served, "POST", "/v1/resume"))[0] == 200
    assert not served.run.agent.orders.current.is_paused


async def test_an_order_that_would_be_an_outage_is_refused_with_the_reason(served: Served) -> None:
    served.host.engine().body = SERVING
    await served.run.until(lambda: served.run.routed)
    for target, body in (("drain", {"name": "chat"}), ("restart", {}), ("restart", {"rolling": True})):
        status, answer = await ask(served, "POST", f"/v1/{target}", json=body)
        assert status == 409
        assert "accept the outage with --allow-outage" in message(answer)
    before = served.host.units.read_unit("ovms@chat-numa0.service").invocation_id
    assert (await ask(served, "POST", "/v1/restart", json={"allow_outage": True}))[0] == 200
    await served.run.until(
        lambda: (
            served.run.routed
            and served.host.units.read_unit("ovms@chat-numa0.service").invocation_id != before
        )
    )


@pytest.mark.parametrize(
    ("target", "body", "status", "words"),
    [
        ("drain", b'{"name": "chat-numa1"}', 404, "there is chat-numa0"),
        ("undrain", b'{"name": "x"}', 404, "no instance and no pool named 'x'"),
        ("drain", b"", 400, "name is missing"),
        ("reset", b"{", 400, "the body is not JSON"),
        ("reset", b"[]", 400, "must be a JSON object of name"),
        ("reset", b'{"name": "chat", "rolling": true}', 400, "must be a JSON object of name"),
        ("drain", b'{"name": 1}', 400, "name must be an instance or a pool, not 1"),
        ("drain", b'{"name": "chat", "allow_outage": 1}', 400, "allow_outage must be true or false, not 1"),
        ("drain", b"x" * (MAX_REQUEST_BYTES + 1), 413, "POST /v1/drain: "),
        ("pause/now", b"", 404, "Not Found"),
    ],
)
async def test_an_order_that_is_not_understood_is_refused(
    served: Served, target: str, body: bytes, status: int, words: str
) -> None:
    found, answer = await ask(served, "POST", f"/v1/{target}", data=body)
    assert found == status
    assert words in message(answer)


async def test_a_large_body_is_not_looked_at(served: Served) -> None:
    assert (await ask(served, "POST", "/v1/reload", data=b"x" * (4 * MAX_REQUEST_BYTES)))[0] == 200
    assert (await ask(served, "GET", "/v1/status"))[0] == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 100,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\xff\xfe" * 40000,
        b"A" * 100_000 + b"\r\n\r\n",
    ],
    ids=["zeros", "half a line", "another protocol", "bytes without end", "a line without end"],
)
async def test_garbage_is_refused_and_harms_nobody(served: Served, garbage: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(served.socket))
    try:
        writer.write(garbage)
        writer.write_eof()
        async with asyncio.timeout(LIMIT_SEC):
            answer = await reader.read()
    finally:
        writer.close()
    assert answer == b"" or answer.startswith((b"HTTP/1.0 4", b"HTTP/1.1 4"))
    assert (await ask(served, "GET", "/v1/status"))[0] == 200


async def test_a_client_that_says_nothing_more_holds_up_nobody(served: Served) -> None:
    slow = [await asyncio.open_unix_connection(str(served.socket)) for _ in range(20)]
    try:
        for _, writer in slow:
            writer.write(b"POST /v1/reload HTTP/1.1\r\nContent-Length: 10\r\nHost: a")
            await writer.drain()
        answers = await asyncio.gather(*(ask(served, "GET", "/v1/status") for _ in range(5)))
        assert [status for status, _ in answers] == [200] * 5
    finally:
        for _, writer in slow:
            writer.close()


async def test_an_agent_that_ends_waits_for_no_client(host: DaemonHost, open_directory: Path) -> None:
    host.configure()
    control = Control(host.start_agent(), open_directory / "control.sock")
    await control.open()
    clients = [await asyncio.open_unix_connection(str(open_directory / "control.sock")) for _ in range(3)]
    parts = (b"", b"GET /v1/st", b"POST /v1/status HTTP/1.1\r\n")
    for (reader, writer), part in zip(clients, parts, strict=True):
        writer.write(b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(part)
        await writer.drain()
    async with asyncio.timeout(LIMIT_SEC):
        await control.close()
        for reader, writer in clients:
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            writer.close()


async def test_reloads_at_once_are_all_answered(served: Served) -> None:
    answers = await asyncio.gather(*(ask(served, "POST", "/v1/reload") for _ in range(5)))
    assert [answer["instances"] for _, answer in answers] == [1] * 5


async def test_a_reload_that_hangs_holds_up_nobody_else(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await waiting_for(served, "loading")
    served.host.answers.clear()
    asked = served.host.asked
    reload = asyncio.create_task(ask(served, "POST", "/v1/reload"))
    await served.host.until_asked(asked + 1)
    assert (await ask(served, "GET", "/v1/status"))[1]["config"]["error"] == ""
    assert (await ask(served, "POST", "/v1/drain", json={"name": "chat"}))[0] == 200
    await waiting_for(served, "drained")
    served.host.answers.set()
    assert (await reload)[0] == 200
    served.host.answers.clear()
    monkeypatch.setattr(intent, "PATIENCE_SEC", 0.01)
    status, answer = await ask(served, "POST", "/v1/reload")
    assert status == 400
    assert "the one in force stays: the machine or a model does not answer" in message(answer)


async def test_an_agent_that_ends_waits_for_no_reload(host: DaemonHost, open_directory: Path) -> None:
    host.configure()
    async with running(host) as run:
        control = Control(run.agent, open_directory / "control.sock")
        await control.open()
        host.answers.clear()
        asked = host.asked
        reader, writer = await asyncio.open_unix_connection(str(open_directory / "control.sock"))
        writer.write(b"POST /v1/reload HTTP/1.1\r\nHost: agent\r\nContent-Length: 0\r\n\r\n")
        await host.until_asked(asked + 1)
        async with asyncio.timeout(LIMIT_SEC):
            await control.close()
            assert await reader.read() == b""
        writer.close()


def ask_as(uid: int, path: Path, method: str, target: str) -> str:
    command = [sys.executable, "-c", ASK_AS_SOMEBODY, str(path), str(uid), method, target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SEC, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        pytest.param("GET", "/v1/status", "200", id="may look"),
        pytest.param("POST", "/v1/reload", "403", id="may not change"),
        pytest.param("POST", "/v1/pause", "403", id="may not pause"),
        pytest.param("DELETE", "/v1/status", "403", id="nor try to"),
    ],
)
async def test_others_may_look_and_not_act(served: Served, method: str, target: str, expected: str) -> None:
    """Only root can become somebody else; another user's tests are run by the one who may do everything."""
    is_root = os.geteuid() == 0
    answer = await asyncio.to_thread(
        ask_as, NOBODY if is_root else os.geteuid(), served.socket, method, target
    )
    status = answer.split(" ")[1]
    assert status == expected if is_root else status != "403"
    if status == "403":
        assert "only root and the group ovms-scaler may do this" in answer


async def test_a_socket_that_cannot_be_made_is_told(host: DaemonHost) -> None:
    host.configure()
    control = Control(host.start_agent(), host.root / "missing" / "control.sock")
    with pytest.raises(HostError, match=r"cannot listen on .*/missing/control\.sock: No such file"):
        await control.open()
    await control.close()
