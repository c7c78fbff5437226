# SPDX-License-Identifier: Apache-2.0
"""API keys and TLS with a real nginx: who is let in, what a change takes, and what is seen of a key."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio
import world
from proxy_lab import Answer, Engine, Proxy, engines, free_port, member, proxy, render, send, upstream
from tls_lab import Pair, make_pair

from ovms_scaler.core import nginx
from ovms_scaler.core.credentials import Access, access_of
from ovms_scaler.errors import HostError
from ovms_scaler.host.credentials import CredentialStore

CHAT_PATH = "/v3/chat/completions"
# With every character that a key may have.
KEY = "Sk-0123456789.a_b~c+d/e=="
OTHER = "sk-fedcba9876543210"


@dataclass
class Front:
    """One front with an engine; ``install`` takes the files of the configuration as the agent does."""

    proxy: Proxy
    port: int
    engine: Engine
    files: Path

    @property
    def keys(self) -> Path:
        return self.files / "api-keys"

    def write_keys(self, *keys: str) -> None:
        self.keys.write_text("".join(f"{key}\n" for key in keys))
        self.keys.chmod(0o600)

    def render(self, pair: Pair | None, mode: nginx.ProxyMode = nginx.ProxyMode.http) -> nginx.ProxyFiles:
        table: dict[str, object] = {"api_key_file": str(self.keys)} if self.keys.exists() else {}
        if pair is not None:
            table |= {"tls_certificate": str(pair.certificate), "tls_certificate_key": str(pair.key)}
        wanted = world.spec({}, proxy=table).proxy
        number = CredentialStore(self.proxy.directory).take(wanted, anew=True)
        front = nginx.Front(listen=(f"127.0.0.1:{self.port}",), upstreams=(upstream("chat", [self.engine]),))
        return render(
            self.proxy.directory,
            (front,),
            {"chat": (member(self.engine),)},
            mode=mode,
            access=replace(access_of(wanted), number=number),
        )

    async def install(self, pair: Pair | None = None) -> nginx.ProxyFiles:
        files = self.render(pair)
        await self.proxy.nginx.install(files)
        return files

    async def ask(
        self,
        headers: str = "",
        *,
        path: str = CHAT_PATH,
        body: bytes = b"{}",
        tls: ssl.SSLContext | None = None,
    ) -> Answer:
        return await send(self.port, path, headers=headers, body=body, tls=tls)


@pytest_asyncio.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with proxy() as running, engines("chat-numa0") as (engine,):
        yield Front(proxy=running, port=free_port(), engine=engine, files=tmp_path)


async def test_who_has_a_key_is_served(front: Front) -> None:
    front.write_keys(OTHER, KEY)
    await front.install()
    for key in (KEY, OTHER):
        for scheme in ("Bearer", "bearer", "BEARER "):
            answer = await front.ask(f"Authorization: {scheme} {key}\r\n")
            assert (answer.status, answer.headers["x-ovms-instance"]) == (200, "chat-numa0")


async def test_an_engine_is_not_told_the_key(front: Front) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    await front.engine.stop()
    server = await asyncio.start_server(serve, "127.0.0.1", front.engine.port)
    async with server:
        front.write_keys(KEY)
        await front.install()
        assert (await front.ask(f"Authorization: Bearer {KEY}\r\n")).status == 200
        front.keys.unlink()
        await front.install()
        assert (await front.ask("Authorization: Bearer mine\r\n")).status == 200
    assert [b"Authorization" in head for head in seen] == [False, True]
    assert KEY.encode() not in seen[0]


@pytest.mark.parametrize(
    "headers",
    [
        "",
        "Authorization:\r\n",
        "Authorization: Bearer\r\n",
        f"Authorization: {KEY}\r\n",
        f"Authorization: Basic {KEY}\r\n",
        f"Authorization: Bearer{KEY}\r\n",
        f"Authorization: Bearer {KEY.swapcase()}\r\n",
        f"Authorization: Bearer {KEY[:-1]}\r\n",
        f"Authorization: Bearer {KEY}=\r\n",
        f"Authorization: Bearer {KEY} {KEY}\r\n",
        f"Authorization: Bearer x Bearer {KEY}\r\n",
        f"Authorization: Bearer {KEY.replace('.', 'x')}\r\n",
        f"X-Authorization: Bearer {KEY}\r\n",
        f"Authorization : Bearer {KEY}\r\n",
        f"Cookie: Authorization=Bearer {KEY}\r\n",
    ],
)
async def test_who_has_none_is_told_so_and_asks_no_engine(front: Front, headers: str) -> None:
    front.write_keys(KEY)
    await front.install()
    answer = await front.ask(headers)
    # A space before the colon is not HTTP (RFC 9112, 5.1), which newer versions of nginx say first.
    assert answer.status in ((400, 401) if " :" in headers else (401,))
    if answer.status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/json"
        error = json.loads(answer.body)["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert front.engine.requests == []


@pytest.mark.parametrize("path", ["/v1/config", "/v2/health/ready", "/metrics", "/v1/config/reload", "/"])
async def test_without_a_key_nothing_is_told_of_what_is_here(front: Front, path: str) -> None:
    front.write_keys(KEY)
    await front.install()
    assert (await front.ask(path=path)).status == 401
    assert (await front.ask(path=path, headers=f"Authorization: Bearer {KEY}\r\n")).status in (200, 404)
    assert (await send(front.port, path, method="OPTIONS")).status == 401


async def test_a_large_body_without_a_key_is_not_taken(front: Front) -> None:
    front.write_keys(KEY)
    await front.install()
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 15000000\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    try:
        writer.write(head.encode())
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 401")
    finally:
        writer.close()


async def test_changed_keys_are_taken_by_a_reload(front: Front) -> None:
    front.write_keys(KEY)
    before = await front.install()
    assert front.proxy.process is not None
    pid = front.proxy.process.pid
    front.write_keys(OTHER)
    after = await front.install()
    assert after.generation != before.generation
    assert (await front.ask(f"Authorization: Bearer {OTHER}\r\n")).status == 200
    assert (await front.ask(f"Authorization: Bearer {KEY}\r\n")).status == 401
    assert front.proxy.process.pid == pid
    front.keys.unlink()
    await front.install()
    assert (await front.ask()).status == 200
    assert not (front.proxy.directory / "credentials.conf").exists()


async def test_the_same_keys_again_reload_nothing(front: Front) -> None:
    front.write_keys(KEY)
    await front.install()
    jobs = len(front.proxy.jobs)
    await front.install()
    assert len(front.proxy.jobs) == jobs


async def test_a_key_stands_in_one_closed_file_and_nowhere_else(front: Front) -> None:
    front.write_keys(KEY)
    files = await front.install(make_pair(front.files))
    await front.ask()
    await front.ask(f"Authorization: Bearer {KEY}\r\n")
    assert not any(KEY in text for text in (*files.files.values(), files.generation))
    found = [
        path
        for path in front.proxy.directory.rglob("*")
        if path.is_file() and KEY in path.read_text(errors="replace")
    ]
    assert [path.name for path in found] == ["api_keys.conf"]
    assert (found[0].stat().st_mode & 0o777, found[0].parent.parent.stat().st_mode & 0o777) == (0o640, 0o750)
    assert KEY not in read_command_line(front)


def read_command_line(front: Front) -> str:
    assert front.proxy.process is not None
    return Path(f"/proc/{front.proxy.process.pid}/cmdline").read_text()


async def test_requests_are_served_over_tls_and_no_other_way(front: Front) -> None:
    pair = make_pair(front.files)
    front.write_keys(KEY)
    await front.install(pair)
    answer = await front.ask(f"Authorization: Bearer {KEY}\r\n", tls=pair.client())
    assert (answer.status, answer.headers["x-ovms-instance"]) == (200, "chat-numa0")
    assert (await front.ask(tls=pair.client())).status == 401
    plain = await front.ask(f"Authorization: Bearer {KEY}\r\n")
    assert (plain.status, plain.error_code) == (400, "tls_required")
    assert len(front.engine.requests) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_versions_of_tls_that_are_spoken(front: Front, version: ssl.TLSVersion) -> None:
    pair = make_pair(front.files)
    await front.install(pair)
    client = pair.client()
    client.minimum_version = client.maximum_version = version
    assert (await front.ask(tls=client)).status == 200


async def test_an_old_version_of_tls_is_not_spoken(front: Front) -> None:
    pair = make_pair(front.files)
    await front.install(pair)
    with pytest.raises(ConnectionError):
        await say_hello_of_tls_1_1(front.port)


async def say_hello_of_tls_1_1(port: int) -> None:
    """A ClientHello for TLS 1.1 and no later; raises ConnectionError when it is turned down (RFC 4346)."""
    ciphers = bytes.fromhex("c00ac009c014c013")
    body = b"\x03\x02" + bytes(32) + b"\x00" + len(ciphers).to_bytes(2) + ciphers + b"\x01\x00"
    hello = b"\x01" + len(body).to_bytes(3) + body
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"\x16\x03\x01" + len(hello).to_bytes(2) + hello)
        async with asyncio.timeout(10):
            answer = await reader.read(7)
    finally:
        writer.close()
    if answer[:1] != b"\x16":
        raise ConnectionError(answer.hex())


async def test_a_renewed_certificate_is_taken_by_a_reload(front: Front) -> None:
    old = make_pair(front.files)
    await front.install(old)
    trusts_old = old.client()
    new = make_pair(front.files)
    await front.install(new)
    assert (await front.ask(tls=new.client())).status == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        await front.ask(tls=trusts_old)


async def test_an_open_answer_outlives_a_renewal(front: Front) -> None:
    pair = make_pair(front.files)
    await front.install(pair)
    front.engine.hold = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(front.ask(tls=pair.client()))
        await front.engine.arrived.wait()
        await front.install(make_pair(front.files))
        front.engine.hold.set()
    assert asked.result().status == 200


async def test_a_key_that_nginx_cannot_use_harms_nobody(front: Front) -> None:
    pair = make_pair(front.files)
    before = await front.install(pair)
    trusting = pair.client()
    wanted = front.render(make_pair(front.files))
    number = nginx_number(wanted)
    (front.proxy.directory / "credentials" / number / "tls.key").write_text("garbage")
    with pytest.raises(HostError, match=r"nginx refuses it: .*tls\.key"):
        await front.proxy.nginx.install(wanted)
    assert await front.proxy.nginx.read_generation() == before.generation
    assert (await front.ask(tls=trusting)).status == 200


def nginx_number(files: nginx.ProxyFiles) -> str:
    return files.files["credentials.conf"].partition("/credentials/")[2].partition("/")[0]


async def test_connections_are_passed_on_over_tls_in_stream_mode(front: Front) -> None:
    pair = make_pair(front.files)
    await front.proxy.nginx.install(front.render(pair, nginx.ProxyMode.stream))
    assert (await front.ask(tls=pair.client())).status == 200
    assert (await front.ask(path="/metrics", tls=pair.client())).status == 200
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError, IndexError)):
        await front.ask()


async def test_pools_that_share_a_port_share_keys_and_certificate(front: Front) -> None:
    pair = make_pair(front.files)
    front.write_keys(KEY)
    files = front.render(pair)
    number = nginx_number(files)
    both = tuple(upstream(name, [front.engine], prefix=name) for name in ("chat", "code"))
    shared = render(
        front.proxy.directory,
        (
            nginx.Front(listen=(f"127.0.0.1:{front.port}",), upstreams=both),
            nginx.Front(
                listen=(f"127.0.0.1:{free_port()}",), upstreams=(upstream("draft", [front.engine]),)
            ),
        ),
        {name: (member(front.engine),) for name in ("chat", "code", "draft")},
        access=Access(has_api_keys=True, has_tls=True, number=number),
    )
    await front.proxy.nginx.install(shared)
    header = f"Authorization: Bearer {KEY}\r\n"
    for name in ("chat", "code"):
        assert (await front.ask(header, path=f"/{name}{CHAT_PATH}", tls=pair.client())).status == 200
        assert (await front.ask(path=f"/{name}{CHAT_PATH}", tls=pair.client())).status == 401
    assert front.engine.requests == [f"POST {CHAT_PATH}"] * 2
