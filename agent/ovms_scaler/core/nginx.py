# SPDX-License-Identifier: Apache-2.0
"""The text of the proxy's files: which ports it listens on, which instances it asks, how large it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class ProxyMode(StrEnum):
    """How the proxy balances: requests (http) or connections, as in the OVMS guide (stream)."""

    http = "http"
    stream = "stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One instance in rotation: what its route file says.

    ``invocation`` is the systemd invocation id (32 hex digits) of the process that was warmed; a route with
    another one than the running unit's is about a process that is gone.
    """

    instance: str
    port: int
    weight: int
    max_conns: int
    invocation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Instances that answer for each other.

    ``title`` is for people (the model's name: any text). ``prefix`` is "" or the first path segment that selects
    this upstream ("chat": ``/chat/v3/...``). ``members_all`` are all *planned* instances and their ports,
    in rotation or not: it names the instance in ``X-OVMS-Instance``.
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
    """What holds for the whole proxy. ``directory`` and ``cache_directory`` differ only in tests."""

    worker_processes: int
    worker_connections: int
    open_files: int
    mode: ProxyMode = ProxyMode.http
    read_timeout_sec: int = 1800
    connect_timeout_sec: int = 2
    shutdown_timeout_sec: int = 3600
    retry_after_sec: int = 5
    client_max_body_bytes: int = 1 << 30
    directory: str = "/run/ovms-scaler-proxy"
    cache_directory: str = "/var/cache/ovms-scaler-proxy"
    stream_module: str = "/usr/lib/nginx/modules/ngx_stream_module.so"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyFiles:
    """Every file of the proxy: path below its directory -> text, and the generation they add up to."""

    files: Mapping[str, str]
    generation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySize:
    """Limits of the nginx processes; the last two are for each worker."""

    worker_processes: int
    worker_connections: int
    open_files: int


def size_proxy(*, cpu_count: int, memory_bytes: int, slots: int) -> ProxySize:
    """Workers and connections for ``slots`` requests at once (the sum of ``max_conns`` over all instances)."""
    raise NotImplementedError


def render_proxy(
    settings: ProxySettings, fronts: tuple[Front, ...], members: Mapping[str, tuple[Member, ...]]
) -> ProxyFiles:
    """Every file of the proxy. ``members``: upstream name -> instances in rotation.

    Raises InputError for anything that cannot stand in nginx's configuration.
    """
    raise NotImplementedError


def route_path(upstream: str, instance: str) -> str:
    """Path of a route file below the proxy's directory."""
    return f"routes/{upstream}/{instance}.conf"


def render_route(member: Member) -> str:
    """Text of a route file. Raises InputError for a value that cannot stand in it."""
    raise NotImplementedError


def parse_route(text: str) -> Member:
    """Read back what ``render_route`` wrote. Raises InputError for anything else."""
    raise NotImplementedError
