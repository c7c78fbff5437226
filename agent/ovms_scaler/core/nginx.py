# SPDX-License-Identifier: Apache-2.0
"""The text of the proxy's files: which ports it listens on, which instances it asks, how large it is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ovms_scaler.core import credentials, nginx_text
from ovms_scaler.core.credentials import OPEN, Access
from ovms_scaler.core.nginx_again import render_again_locations, render_again_map
from ovms_scaler.core.nginx_errors import render_error_map
from ovms_scaler.core.nginx_syntax import block, check_name, check_number, check_path
from ovms_scaler.core.route import (
    CONFIGURATION,
    CREDENTIALS,
    Member,
    ProxyFiles,
    add_generation,
    check_instance,
    parse_route,
    render_route,
    route_path,
)
from ovms_scaler.core.spec import ProxyMode
from ovms_scaler.errors import InputError

__all__ = [
    "Front",
    "Member",
    "ProxyFiles",
    "ProxyMode",
    "ProxySettings",
    "ProxySize",
    "Upstream",
    "add_generation",
    "parse_route",
    "render_proxy",
    "render_route",
    "route_path",
    "size_proxy",
]

# Where the agent reads what the proxy tells of each request.
ACCESS_SOCKET = "/run/ovms-scaler/access/log.sock"
_CLIENTS = 10_000  # idle or turned-away clients that must fit beside the requests in work
_CONNECTION_BYTES = 232 + 2 * 96  # ngx_connection_t and its two events on 64 bits, allocated at start
_OPEN_FILES_MAX = 524_288  # LimitNOFILE= of the unit, which is systemd's default hard limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Instances that answer for each other.

    ``title`` is for people (the model's name: any text). ``prefix`` is "" or the first path segment that
    selects this upstream ("chat": ``/chat/v3/...``). ``members_all`` are all *planned* instances and their
    ports, in rotation or not: it names the instance in ``X-OVMS-Instance``.
    """

    name: str
    title: str
    prefix: str
    members_all: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Addresses where clients connect, and what they reach there.

    ``listen``: "8000" (every IPv4 and IPv6 address), "127.0.0.1:8000" or "[::1]:8000".
    One upstream with prefix "", or several with a prefix each.
    """

    listen: tuple[str, ...]
    upstreams: tuple[Upstream, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """What holds for the whole proxy. ``directory`` and ``cache_directory`` differ only in tests.

    ``ipv6``: False where the kernel has none (no /proc/net/if_inet6); a port alone is then every IPv4
    address. ``access`` needs its number where the files are to be used.
    """

    worker_processes: int
    worker_connections: int
    mode: ProxyMode = ProxyMode.http
    read_timeout_sec: int = 1800
    connect_timeout_sec: int = 2
    shutdown_timeout_sec: int = 3600
    retry_after_sec: int = 5
    client_max_body_bytes: int = 1 << 30
    directory: str = "/run/ovms-scaler-proxy"
    cache_directory: str = "/var/cache/ovms-scaler-proxy"
    access_socket: str = ACCESS_SOCKET
    ipv6: bool = True
    access: Access = OPEN
    stream_module: str = "/usr/lib/nginx/modules/ngx_stream_module.so"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySize:
    """Limits of the nginx processes; connections are for each worker."""

    worker_processes: int
    worker_connections: int


def size_proxy(*, cpu_count: int, memory_bytes: int, slots: int) -> ProxySize:
    """Workers and connections for ``slots`` requests at once (the sum of ``max_conns`` over all instances).

    A request takes two connections (client and engine); a client that is turned away takes three (its own
    and both ends of unavailable.sock). The kernel spreads clients over workers unevenly, so each worker may
    hold all of them, as long as the tables, allocated at start, stay below 1/64 of the memory; a fair share
    it may hold always. A connection is an open file, and so is the temporary file of a request's large
    body: together they stay below the limit that the unit sets, as a worker cannot raise it.
    """
    workers = max(2, min(check_number(cpu_count, what="the number of CPUs"), 8))
    wanted = 2 * check_number(slots, what="the number of slots", low=0) + 3 * _CLIENTS
    affordable = memory_bytes // 64 // workers // _CONNECTION_BYTES
    connections = max(-(-wanted // workers), min(wanted, affordable))
    connections = min(connections, (_OPEN_FILES_MAX - 256) * 2 // 3)
    return ProxySize(worker_processes=workers, worker_connections=connections)


def render_proxy(
    settings: ProxySettings, fronts: tuple[Front, ...], members: Mapping[str, tuple[Member, ...]]
) -> ProxyFiles:
    """Every file of the proxy but the credentials. ``members``: upstream name -> instances in rotation.

    Raises InputError for anything that cannot stand in nginx's configuration.
    """
    names = [upstream.name for front in fronts for upstream in front.upstreams]
    if len(set(names)) < len(names) or not set(members) <= set(names):
        raise InputError(
            f"cannot write the proxy's upstreams {names!r}: each must be there once, members of these only"
        )
    nginx_text.check_listen(text for front in fronts for text in front.listen)
    files = {CONFIGURATION: _render_configuration(settings, fronts)}
    if settings.access.number:
        files[CREDENTIALS] = credentials.render_credentials(settings.access, settings.directory)
    for upstream in (upstream for front in fronts for upstream in front.upstreams):
        for member in members.get(upstream.name, ()):
            files[route_path(upstream.name, member.instance)] = render_route(member)
    return add_generation(files)


def _number(settings: ProxySettings, what: str, *, high: int = 2**31 - 1) -> int:
    return check_number(getattr(settings, what), what=what, high=high)


def _render_configuration(settings: ProxySettings, fronts: tuple[Front, ...]) -> str:
    work = f"{check_path(settings.directory)}/work"
    is_http = settings.mode is ProxyMode.http
    lines = [
        "# Written by ovms-scaler.service, which replaces it whole: do not edit. To change what it says,",
        "# edit /etc/ovms-scaler/config.toml and run: systemctl reload ovms-scaler",
        "# Instances in rotation: one file each in routes/UPSTREAM/. A stopping instance removes its own.",
        "# What really runs: curl --unix-socket " + work + "/internal.sock http://proxy/generation",
        "# (generation.conf says what should), and .../stub_status. Log: journalctl -u ovms-scaler-proxy",
        "",
        f"worker_processes {_number(settings, 'worker_processes')};",
        "# How long a worker of the previous configuration stays for its open streams; then they are cut.",
        f"worker_shutdown_timeout {_number(settings, 'shutdown_timeout_sec')}s;",
        f"pid {work}/nginx.pid;",
        "error_log stderr error;",
        "# Why a new configuration was not taken (a port in use, say): read back by the agent.",
        f"error_log {work}/emerg.log emerg;",
        *([] if is_http else [f"load_module {check_path(settings.stream_module)};"]),
        "",
        *block("events", f"worker_connections {_number(settings, 'worker_connections')};"),
        "",
        *block("http", *_render_http(settings, fronts if is_http else ())),
        *([] if is_http else ["", *block("stream", *_render_stream(settings, fronts))]),
    ]
    return "\n".join(lines) + "\n"


def _render_http(settings: ProxySettings, fronts: tuple[Front, ...]) -> Iterable[str]:
    work, unavailable = f"{settings.directory}/work", f"unix:{settings.directory}/work/unavailable.sock"
    retry_after_sec = _number(settings, "retry_after_sec")
    yield from (
        "access_log off;",
        "server_tokens off;",
        "default_type application/json;",
        *_render_temporary_paths(check_path(settings.cache_directory)),
    )
    yield from nginx_text.render_internal_server(f"unix:{work}/internal.sock")
    yield from nginx_text.render_unavailable_server(
        unavailable, redirect=settings.mode is ProxyMode.http, retry_after_sec=retry_after_sec
    )
    if not fronts:
        return
    yield from ("", *_render_passing(settings), "", *_render_instance_maps(fronts), "")
    # After map_hash_max_size, which may not follow a map.
    yield from credentials.render_access(settings.access)
    yield from (*nginx_text.render_access_format(), "")
    yield from ("# Only what serves may pass, compared in the spelling in which the engine would get it.",)
    yield from (*nginx_text.render_refusal_map(), "", *render_error_map())
    yield from ("", *render_again_map())
    for front in fronts:
        prefixes = [upstream.prefix for upstream in front.upstreams]
        if not prefixes or len(set(prefixes)) < len(prefixes) or ("" in prefixes and len(prefixes) > 1):
            raise InputError(
                f"cannot serve prefixes {prefixes!r} at {front.listen!r}: one must be '', or all different"
            )
        for upstream in front.upstreams:
            if upstream.prefix:
                check_name(upstream.prefix, what="prefix")
            yield from ("", *_render_upstream(upstream, unavailable))
        yield ""
        yield from nginx_text.render_http_server(
            _render_listen(settings, front),
            tuple((upstream.name, upstream.prefix) for upstream in front.upstreams),
            retry_after_sec=retry_after_sec,
            access_socket=settings.access_socket,
            again=render_again_locations(),
            access=settings.access,
        )


def _render_upstream(upstream: Upstream, unavailable: str) -> list[str]:
    name = check_name(upstream.name, what="upstream")
    return nginx_text.render_upstream(name, upstream.title, unavailable)


def _render_stream(settings: ProxySettings, fronts: tuple[Front, ...]) -> Iterable[str]:
    yield "# As in the OVMS guide: connections are balanced, not requests, and every path reaches an engine,"
    yield "# /v1/config/reload and /metrics too."
    if settings.access.has_api_keys:
        raise InputError("cannot ask for API keys in stream mode: requests are not looked at")
    yield from credentials.render_access(settings.access)
    yield f"proxy_connect_timeout {_number(settings, 'connect_timeout_sec')}s;"
    yield f"proxy_timeout {_number(settings, 'read_timeout_sec')}s;"
    for front in fronts:
        if len(front.upstreams) != 1 or front.upstreams[0].prefix:
            raise InputError(
                f"cannot tell paths apart at {front.listen!r} in stream mode: one upstream without prefix",
                hint='give each model its own listen, or set proxy.mode = "http"',
            )
        (upstream,) = front.upstreams
        yield from ("", *_render_upstream(upstream, f"unix:{settings.directory}/work/unavailable.sock"))
        yield from nginx_text.render_stream_server(_render_listen(settings, front), upstream.name)


def _render_listen(settings: ProxySettings, front: Front) -> list[str]:
    return nginx_text.render_listen(front.listen, ipv6=settings.ipv6, tls=settings.access.has_tls)


def _render_temporary_paths(cache: str) -> Iterable[str]:
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        yield f"{kind}_temp_path {cache}/{kind};"


def _render_passing(settings: ProxySettings) -> Iterable[str]:
    read_timeout_sec = _number(settings, "read_timeout_sec")
    return (
        f"client_max_body_size {_number(settings, 'client_max_body_bytes', high=2**62)};",
        "client_body_buffer_size 128k;",
        "# An error while an error is told (the instance asked again is gone) is told in the same form.",
        "recursive_error_pages on;",
        "",
        "# No connection to an engine is kept: one that fails is not counted as a try, so that one request",
        "# could kill all engines (ngx_http_upstream_next), and unavailable.sock could not be relied on.",
        "proxy_http_version 1.1;",
        'proxy_set_header Connection "";',
        "proxy_set_header Host $host;",
        *(['proxy_set_header Authorization "";'] if settings.access.has_api_keys else []),
        "# The whole request first: a slow upload holds no slot of an engine, and another can be asked too.",
        "proxy_request_buffering on;",
        "# Each token on its own.",
        "proxy_buffering off;",
        "proxy_buffer_size 16k;",
        "proxy_buffers 4 16k;",
        f"proxy_connect_timeout {_number(settings, 'connect_timeout_sec')}s;",
        "# The first token of a long prompt on a busy engine may take minutes.",
        f"proxy_read_timeout {read_timeout_sec}s;",
        "# A request whose answer has not begun is passed on to one other instance, never more: if it kills",
        "# its engine it must not kill them all. unavailable.sock counts as the other one. An engine whose",
        "# model is still loading says 404, which is no failure; other errors that it tells would be, and",
        "# engines tell anybody who asks for it (GET /v2/health/ready). What has waited the whole read",
        "# timeout is not passed on.",
        "proxy_next_upstream error timeout invalid_header http_404 non_idempotent;",
        "proxy_next_upstream_tries 2;",
        f"proxy_next_upstream_timeout {read_timeout_sec}s;",
        "proxy_ignore_headers X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;",
        "proxy_hide_header X-OVMS-Instance;",
        "add_header X-OVMS-Instance $ovms_instance always;",
    )


def _render_instance_maps(fronts: tuple[Front, ...]) -> Iterable[str]:
    planned = {
        check_number(port, what="a port", high=65535): check_instance(instance)
        for front in fronts
        for upstream in front.upstreams
        for instance, port in upstream.members_all
    }
    yield "# Who answered: the last address asked, by the ports of all planned instances."
    yield "map_hash_max_size 16384;"
    last = '"~(?<ovms_last>[^ ]+)$" $ovms_last;'
    yield from block("map $upstream_addr $ovms_answered_by", 'default "";', last)
    entries = (f"127.0.0.1:{port} {instance};" for port, instance in sorted(planned.items()))
    yield from block("map $ovms_answered_by $ovms_instance", 'default "";', *entries)
