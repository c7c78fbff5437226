# SPDX-License-Identifier: Apache-2.0
"""Where clients connect, which pools answer for each other there, and how large the proxy has to be."""

from collections.abc import Mapping
from itertools import combinations

from ovms_scaler.core import nginx, nginx_text
from ovms_scaler.core.credentials import Access, access_of
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.spec import Pool, Proxy, ProxyMode, Spec
from ovms_scaler.core.topology import Topology
from ovms_scaler.errors import Problem

PROXY_DIRECTORY = "/run/ovms-scaler-proxy"


def served(pool: Pool) -> str:
    """What a client gets from the pool; pools with the same answer for each other."""
    return pool.config_path or str(pool.model_name)


def upstream_of(spec: Spec) -> dict[str, str]:
    """The upstream of each pool: pools with one ``listen`` and one model share that of the first."""
    first: dict[tuple[str, str], str] = {}
    return {pool.name: first.setdefault((pool.listen, served(pool)), pool.name) for pool in spec.pool}


def fronts_of(
    spec: Spec, upstreams: Mapping[str, str], instances: tuple[Instance, ...]
) -> tuple[nginx.Front, ...]:
    by_listen: dict[str, list[Pool]] = {}
    for pool in spec.pool:
        by_listen.setdefault(pool.listen, []).append(pool)
    fronts = []
    for listen, pools in by_listen.items():
        heads = [pool for pool in pools if upstreams[pool.name] == pool.name]
        fronts.append(
            nginx.Front(
                listen=(listen,),
                upstreams=tuple(
                    nginx.Upstream(
                        name=head.name,
                        title=served(head),
                        prefix="" if len(heads) == 1 else head.name,
                        members_all=tuple(
                            (one.id, one.port) for one in instances if upstreams[one.pool] == head.name
                        ),
                    )
                    for head in heads
                ),
            )
        )
    return tuple(fronts)


def endpoints_of(fronts: tuple[nginx.Front, ...], access: Access) -> list[dict[str, object]]:
    """Where a client on this host reaches each upstream, and what it gets there."""
    found: list[dict[str, object]] = []
    for front in fronts:
        for listen in front.listen:
            address, port = nginx_text.parse_listen(listen)
            # Whoever listens everywhere listens on the loopback, too.
            host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(address, address)
            root = f"http{'s' if access.has_tls else ''}://{host}:{port}"
            found += [
                {
                    "upstream": one.name,
                    "serves": one.title,
                    "url": f"{root}{f'/{one.prefix}' if one.prefix else ''}/v3",
                    "needs_api_key": access.has_api_keys,
                }
                for one in front.upstreams
            ]
    return found


def listen_problems(spec: Spec) -> list[Problem]:
    """Refuse addresses that nginx could not bind side by side, and modes that cannot tell models apart."""
    problems = [
        Problem(
            file="",
            key=f"pool[{index}].listen",
            rule=f"must not overlap with {spec.admin.listen!r} of admin.listen, not {pool.listen!r}",
            hint='use another port, or give admin.listen another one, or "" to do without',
        )
        for index, pool in enumerate(spec.pool)
        if spec.admin.listen and _collide(spec.admin.listen, pool.listen)
    ]
    for (_, one), (index, pool) in combinations(enumerate(spec.pool), 2):
        if not _collide(one.listen, pool.listen):
            continue
        if one.listen != pool.listen:
            problems.append(
                Problem(
                    file="",
                    key=f"pool[{index}].listen",
                    rule=f"must not overlap with {one.listen!r} of pool {one.name!r}, not {pool.listen!r}",
                    hint="write both alike to share it, or use another port",
                )
            )
        elif spec.proxy.mode is ProxyMode.stream and served(one) != served(pool):
            problems.append(
                Problem(
                    file="",
                    key=f"pool[{index}].listen",
                    rule=f'must not be shared by different models in mode "stream": {pool.listen!r} is '
                    f"that of pool {one.name!r} too",
                    hint='give the pool a port of its own, or use mode = "http"',
                )
            )
    return problems


def _collide(one: str, two: str) -> bool:
    """Whether two listen values cannot be bound by different servers; a bare port is every address."""
    (first, port), (second, other) = nginx_text.parse_listen(one), nginx_text.parse_listen(two)
    return port == other and (first == second or bool({first, second} & {"", "0.0.0.0", "[::]"}))


def proxy_settings(proxy: Proxy, topology: Topology, *, slots: int, ipv6: bool) -> nginx.ProxySettings:
    memory = sum(node.memory_bytes or 0 for node in topology.nodes)
    size = nginx.size_proxy(cpu_count=len(topology.allowed), memory_bytes=memory, slots=slots)
    return nginx.ProxySettings(
        worker_processes=size.worker_processes,
        worker_connections=size.worker_connections,
        mode=proxy.mode,
        read_timeout_sec=proxy.read_timeout_sec,
        shutdown_timeout_sec=proxy.shutdown_timeout_sec,
        retry_after_sec=proxy.retry_after_sec,
        client_max_body_bytes=proxy.client_max_body_bytes,
        directory=PROXY_DIRECTORY,
        access=access_of(proxy),
        ipv6=ipv6,
    )
