# SPDX-License-Identifier: Apache-2.0
import dataclasses
import hashlib
from typing import Any

import pytest

from ovms_scaler.core import nginx, route
from ovms_scaler.errors import InputError

SETTINGS = nginx.ProxySettings(worker_processes=2, worker_connections=4096)
MEMBER = nginx.Member(instance="chat-numa0", port=8003, weight=32, max_conns=1281, invocation="0f" * 16)
CHAT = nginx.Upstream(
    name="chat", title="meta-llama/x", prefix="", members_all=(("chat-numa0", 8003), ("chat-numa1", 8004))
)
ROUTE = (
    "# chat-numa0 invocation=0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f\n"
    "server 127.0.0.1:8003 weight=32 max_conns=1281 max_fails=3 fail_timeout=1s;\n"
)


def _front(*upstreams: nginx.Upstream, listen: tuple[str, ...] = ("8000",)) -> nginx.Front:
    return nginx.Front(listen=listen, upstreams=upstreams)


def _render(*fronts: nginx.Front, settings: nginx.ProxySettings = SETTINGS) -> str:
    return nginx.render_proxy(settings, fronts, {}).files["nginx.conf"]


def _renamed(name: str, prefix: str = "") -> nginx.Upstream:
    return dataclasses.replace(CHAT, name=name, prefix=prefix)


def test_route_is_one_comment_and_one_server_and_reads_back() -> None:
    assert nginx.render_route(MEMBER) == ROUTE
    assert nginx.parse_route(ROUTE) == MEMBER
    card = dataclasses.replace(MEMBER, instance="chat-gpu-0000:03:00.0")
    assert nginx.parse_route(nginx.render_route(card)) == card


def test_route_of_an_earlier_version_is_still_one() -> None:
    # Else an upgrade would take everything out of rotation until it had been warmed again.
    assert nginx.parse_route(ROUTE.replace("max_fails=3 fail_timeout=1s", "max_fails=0")) == MEMBER


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(ROUTE.partition("\n")[2], id="comment missing"),
        pytest.param(ROUTE + ROUTE, id="two routes"),
        pytest.param(ROUTE.replace("8003", "08003"), id="port spelled otherwise"),
        pytest.param(ROUTE.replace("8003", "99999"), id="port too high"),
        pytest.param(ROUTE.replace("127.0.0.1", "10.0.0.1"), id="another host"),
        pytest.param(ROUTE.replace("chat-numa0", "Chat"), id="no instance id"),
        pytest.param(ROUTE.replace(" max_fails=3", ""), id="max_fails missing"),
        pytest.param(ROUTE.replace("0f0f", "0F0F"), id="invocation in capitals"),
        pytest.param(ROUTE.rstrip(), id="cut off"),
    ],
)
def test_route_that_we_did_not_write_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="cannot"):
        nginx.parse_route(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"instance": "a;}\nserver"}, "cannot route to instance", id="text that ends the line"),
        pytest.param({"instance": "../x"}, "cannot route to instance", id="path as instance"),
        pytest.param({"instance": "a" * 300}, "cannot route to instance", id="longer than a file name"),
        pytest.param({"port": 0}, "cannot set a port to 0", id="port 0"),
        pytest.param({"weight": 0}, "cannot set a weight to 0", id="weight 0"),
        pytest.param(
            {"max_conns": 0}, "cannot set max_conns to 0", id="max_conns 0 means no limit to nginx"
        ),
        pytest.param({"invocation": ""}, "32 hex digits", id="no invocation"),
    ],
)
def test_member_that_cannot_stand_in_a_route_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        nginx.render_route(dataclasses.replace(MEMBER, **change))


def test_equal_input_gives_equal_bytes_and_one_generation() -> None:
    first, second = MEMBER, dataclasses.replace(MEMBER, instance="chat-numa1", port=8004)
    one = nginx.render_proxy(SETTINGS, (_front(CHAT),), {"chat": (first, second)})
    other = nginx.render_proxy(SETTINGS, (_front(CHAT),), {"chat": (second, first)})
    assert one == other
    assert list(one.files) == sorted(one.files)
    assert one.files["generation.conf"] == f'return 200 "{one.generation}\\n";\n'
    assert route.parse_generation(one.files["generation.conf"]) == one.generation


def test_generation_is_what_sha256sum_says_of_the_other_files() -> None:
    files = {"nginx.conf": "a\n", "routes/chat/x.conf": "b\n", "generation.conf": "old"}
    sums = [
        f"{hashlib.sha256(text).hexdigest()}  {name}\n"
        for name, text in (("nginx.conf", b"a\n"), ("routes/chat/x.conf", b"b\n"))
    ]
    assert route.add_generation(files).generation == hashlib.sha256("".join(sums).encode()).hexdigest()[:16]


def test_membership_changes_no_more_than_routes_and_generation() -> None:
    without = nginx.render_proxy(SETTINGS, (_front(CHAT),), {})
    with_one = nginx.render_proxy(SETTINGS, (_front(CHAT),), {"chat": (MEMBER,)})
    changed = {name for name in with_one.files if with_one.files[name] != without.files.get(name)}
    assert changed == {"generation.conf", "routes/chat/chat-numa0.conf"}


def test_title_of_any_text_stays_in_its_comment() -> None:
    text = _render(_front(dataclasses.replace(CHAT, title='x\n}\r\u2028"; include /etc/passwd;\x00')))
    assert [line for line in text.split("\n") if "passwd" in line] == ['    # x?}??"; include /etc/passwd;?']


@pytest.mark.parametrize(
    ("listen", "lines"),
    [
        pytest.param(("8000",), ["listen 8000", "listen [::]:8000 ipv6only=on"], id="every address"),
        pytest.param(("127.0.0.1:8000",), ["listen 127.0.0.1:8000"], id="IPv4 address"),
        pytest.param(("[::1]:8000",), ["listen [::1]:8000"], id="IPv6 address"),
        pytest.param(
            ("[0::1]:80", "10.0.0.1:80"), ["listen [::1]:80", "listen 10.0.0.1:80"], id="two addresses"
        ),
    ],
)
def test_listen(listen: tuple[str, ...], lines: list[str]) -> None:
    text = _render(_front(CHAT, listen=listen))
    found = [
        line.strip()
        for line in text.splitlines()
        if line.strip().startswith("listen") and "unix:" not in line
    ]
    assert found == [f"{line} backlog=65535;" for line in lines]


def test_listen_without_ipv6_in_the_kernel_is_every_ipv4_address() -> None:
    assert "[::]" not in _render(_front(CHAT), settings=dataclasses.replace(SETTINGS, ipv6=False))


@pytest.mark.parametrize(
    "listen",
    [
        pytest.param(("localhost:8000",), id="a name"),
        pytest.param(("0",), id="port 0"),
        pytest.param(("65536",), id="port too high"),
        pytest.param(("::1:8000",), id="IPv6 without brackets"),
        pytest.param(("[127.0.0.1]:8000",), id="IPv4 in brackets"),
        pytest.param(("127.0.0.256:8000",), id="no IPv4 address"),
        pytest.param(("8000; include /etc/passwd",), id="a directive"),
        pytest.param(("8000\n",), id="a line end"),
        pytest.param(("٨٠٠٠",), id="digits of another script"),
        pytest.param(("8000", "127.0.0.1:8000"), id="an address of a port taken on all"),
        pytest.param(("8000", "8000"), id="twice"),
    ],
)
def test_listen_that_nginx_could_not_bind_is_refused(listen: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="cannot listen on"):
        _render(_front(CHAT, listen=listen))


def test_two_fronts_at_one_port_are_refused() -> None:
    with pytest.raises(InputError, match="'8000' has the same port"):
        _render(_front(CHAT), _front(_renamed("embed"), listen=("[::1]:8000",)))


@pytest.mark.parametrize(
    ("upstreams", "message"),
    [
        pytest.param((), "cannot serve prefixes", id="no upstream"),
        pytest.param(
            (CHAT, _renamed("b", "b")), "cannot serve prefixes", id="one with and one without prefix"
        ),
        pytest.param(
            (_renamed("a", "x"), _renamed("b", "x")), "cannot serve prefixes", id="the same prefix twice"
        ),
        pytest.param((CHAT, CHAT), "once", id="the same upstream twice"),
        pytest.param((_renamed("chat{}"),), "lower-case", id="braces in a name"),
        pytest.param((_renamed(""),), "lower-case", id="no name"),
        pytest.param((_renamed("a", "(x"),), "lower-case", id="a regular expression as prefix"),
        pytest.param(
            (dataclasses.replace(CHAT, members_all=(("a b", 1),)),),
            "cannot route",
            id="a space in an instance",
        ),
    ],
)
def test_upstreams_that_cannot_be_told_apart_or_written_are_refused(
    upstreams: tuple[nginx.Upstream, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _render(_front(*upstreams))


@pytest.mark.parametrize("path", ["run", "/run/a b", "/run/x;", '/run/"x"', "/run/$x", "/run/\n"])
def test_path_that_would_need_quotes_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="cannot write path"):
        _render(_front(CHAT), settings=dataclasses.replace(SETTINGS, directory=path))
    with pytest.raises(InputError, match="cannot write path"):
        _render(_front(CHAT), settings=dataclasses.replace(SETTINGS, cache_directory=path))


def test_stream_mode_cannot_tell_models_apart() -> None:
    stream = dataclasses.replace(SETTINGS, mode=nginx.ProxyMode.stream)
    with pytest.raises(InputError, match="in stream mode"):
        _render(_front(_renamed("a", "a"), _renamed("b", "b")), settings=stream)


def test_member_of_an_unknown_upstream_is_refused() -> None:
    with pytest.raises(InputError, match="members of these only"):
        nginx.render_proxy(SETTINGS, (_front(CHAT),), {"embed": (MEMBER,)})


@pytest.mark.parametrize(
    ("cpu_count", "memory_gib", "slots"),
    [
        pytest.param(1, 2, 4, id="small machine"),
        pytest.param(384, 1536, 6 * 1281, id="two sockets with six nodes"),
        pytest.param(4, 4, 64 * 1281, id="waiting room larger than the memory suggests"),
    ],
)
def test_size_has_room_for_every_request_and_ten_thousand_clients(
    cpu_count: int, memory_gib: int, slots: int
) -> None:
    size = nginx.size_proxy(cpu_count=cpu_count, memory_bytes=memory_gib << 30, slots=slots)
    assert 2 <= size.worker_processes <= 8
    assert size.worker_processes * size.worker_connections >= 2 * slots + 3 * 10_000
    assert size.worker_connections * 3 // 2 + 256 <= 524_288


def test_fallback_keeps_the_configuration_and_takes_the_membership() -> None:
    def text(*names: str) -> str:
        return "".join(f"    include routes/{name}/*.conf;\n" for name in names)

    previous = {
        "nginx.conf": text("a", "b"),
        "routes/a/1.conf": "1",
        "routes/a/2.conf": "2",
        "routes/b/3.conf": "3",
    }
    wanted = {"nginx.conf": text("a", "c"), "routes/a/2.conf": "2 new", "routes/c/4.conf": "4"}
    assert route.fall_back(previous, wanted) == {
        "nginx.conf": text("a", "b"),
        "routes/a/2.conf": "2 new",
        "routes/b/3.conf": "3",
    }


def test_routes_to_ended_processes_and_unreadable_ones_are_left_out() -> None:
    files = {
        "nginx.conf": "x",
        "routes/chat/chat-numa0.conf": ROUTE,
        "routes/chat/mine.conf": "server 10.0.0.1;",
    }
    assert route.without_ended(files, {"chat-numa0": "0f" * 16}) == {"nginx.conf": "x"}
    kept = route.without_ended(files, {"chat-numa0": "aa" * 16})
    assert kept == {"nginx.conf": "x", "routes/chat/chat-numa0.conf": ROUTE}
