# SPDX-License-Identifier: Apache-2.0
"""What should be: from the configuration, the machine and the models to every instance and every file."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from ovms_scaler.core import engine, fit, nginx
from ovms_scaler.core.graph import graph_device_conflict
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.placement import Instance, listen_port, normalise_weights, place
from ovms_scaler.core.spec import HealthRules, Pool, Proxy, ProxyMode, Spec
from ovms_scaler.core.topology import Topology
from ovms_scaler.core.unit import drop_in_path, render_drop_in
from ovms_scaler.errors import ConfigError, InputError, Problem

PROXY_DIRECTORY = "/run/ovms-scaler-proxy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One instance as it should be.

    ``files`` are all it needs on disk before it starts, by absolute path. ``expected`` are the model
    names that must be AVAILABLE; ``warm`` the ones to generate with.
    """

    instance: Instance
    upstream: str
    files: Mapping[str, str]
    expected: tuple[str, ...]
    warm: tuple[str, ...]
    max_conns: int
    argv: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Everything that should be, as one value; equal inputs give an equal one."""

    wanted: Mapping[str, Wanted]
    fronts: tuple[nginx.Front, ...]
    proxy: nginx.ProxySettings
    port_book: Mapping[str, int]
    health: HealthRules
    warnings: tuple[str, ...]

    @property
    def instances(self) -> tuple[Instance, ...]:
        return tuple(wanted.instance for wanted in self.wanted.values())

    def upstream_members(self, upstream: str) -> tuple[str, ...]:
        return tuple(name for name, wanted in self.wanted.items() if wanted.upstream == upstream)


def resolve(
    spec: Spec, topology: Topology, models: Mapping[str, ModelFacts], port_book: Mapping[str, int]
) -> Target:
    """The target. ``models`` holds what is known of each pool's model, by pool name.

    Raises ConfigError when the parts of the configuration contradict each other or the machine.
    """
    layout = place(spec, topology, port_book)
    upstreams = _upstreams(spec)
    pools = {pool.name: pool for pool in spec.pool}
    weights: dict[str, int] = {}
    for name in sorted(set(upstreams.values())):
        weights |= normalise_weights(spec, (one for one in layout.instances if upstreams[one.pool] == name))
    warnings = [*topology.warnings, *layout.warnings]
    warnings += [f"pool {name!r}: {text}" for name in pools for text in models[name].warnings]
    wanted: dict[str, Wanted] = {}
    sharing = Counter(one.memory_nodes for one in layout.instances)
    for instance in layout.instances:
        pool, model = pools[instance.pool], models[instance.pool]
        placed = _judge(
            replace(instance, weight=weights[instance.id]),
            pool,
            model,
            topology,
            sharing[instance.memory_nodes],
            warnings,
        )
        wanted[instance.id] = _want(placed, pool, spec, model, upstreams[pool.name])
    slots = sum(one.max_conns for one in wanted.values())
    return Target(
        wanted=wanted,
        fronts=_fronts(spec, upstreams, layout.instances),
        proxy=_proxy_settings(spec.proxy, topology, slots),
        port_book=layout.port_book,
        health=spec.health,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def render_proxy_files(target: Target, members: Mapping[str, tuple[nginx.Member, ...]]) -> nginx.ProxyFiles:
    """The proxy's files with ``members`` in rotation, by upstream."""
    return nginx.render_proxy(target.proxy, target.fronts, members)


def _judge(
    instance: Instance, pool: Pool, model: ModelFacts, topology: Topology, sharing: int, warnings: list[str]
) -> Instance:
    """The instance with what forbids to start it, if anything does."""
    if model.problem is not None:
        return replace(instance, problem=model.problem, hint=model.hint)
    if (conflict := graph_device_conflict(model, instance.device)) is not None:
        fact, hint = conflict
        return replace(
            instance, problem=f"cannot place pool {pool.name!r} on {instance.device}: {fact}", hint=hint
        )
    verdict = fit.judge(instance, pool, model, topology, sharing=sharing)
    if verdict is None:
        return instance
    if verdict.certain:
        return replace(instance, problem=verdict.text, hint=verdict.hint)
    warnings.append(verdict.text)
    return instance


def _want(instance: Instance, pool: Pool, spec: Spec, model: ModelFacts, upstream: str) -> Wanted:
    """The instance with its files, which stand ready also while a problem forbids to start it."""
    if model.kind is None:
        # What it is cannot be seen yet; most models are directories without a graph of their own.
        model = replace(model, kind=ModelKind.config if pool.config_path is not None else ModelKind.llm)
    own_graph: Mapping[str, str] = {}
    try:
        own_graph = engine.render_own_graph(instance, pool, model)
    except InputError as error:
        instance = replace(
            instance, problem=instance.problem or error.message, hint=instance.hint or error.hint
        )
    command = engine.render_command(instance, pool, spec.engine, model)
    drop_in = render_drop_in(instance, command, model=_served(pool))
    expected = engine.expected_names(pool, model)
    return Wanted(
        instance=instance,
        upstream=upstream,
        files={**own_graph, drop_in_path(instance.id): drop_in},
        expected=expected,
        warm=expected if model.generates else (),
        max_conns=engine.room(pool),
        argv=command.argv,
    )


def _served(pool: Pool) -> str:
    """What a client gets from the pool; pools with the same answer for each other."""
    return pool.config_path or str(pool.model_name)


def _upstreams(spec: Spec) -> dict[str, str]:
    """The upstream of each pool: pools with one ``listen`` and one model share that of the first."""
    first: dict[tuple[str, str], str] = {}
    return {pool.name: first.setdefault((pool.listen, _served(pool)), pool.name) for pool in spec.pool}


def _fronts(
    spec: Spec, upstreams: Mapping[str, str], instances: tuple[Instance, ...]
) -> tuple[nginx.Front, ...]:
    by_listen: dict[str, list[Pool]] = {}
    for pool in spec.pool:
        by_listen.setdefault(pool.listen, []).append(pool)
    _check_listen(spec)
    fronts = []
    for listen, pools in by_listen.items():
        heads = [pool for pool in pools if upstreams[pool.name] == pool.name]
        fronts.append(
            nginx.Front(
                listen=(listen,),
                upstreams=tuple(
                    nginx.Upstream(
                        name=head.name,
                        title=_served(head),
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


def _check_listen(spec: Spec) -> None:
    """Refuse addresses that nginx could not bind side by side, and modes that cannot tell models apart."""
    problems: list[Problem] = []
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
        elif spec.proxy.mode is ProxyMode.stream and _served(one) != _served(pool):
            problems.append(
                Problem(
                    file="",
                    key=f"pool[{index}].listen",
                    rule=f'must not be shared by different models in mode "stream": {pool.listen!r} is '
                    f"that of pool {one.name!r} too",
                    hint='give the pool a port of its own, or use mode = "http"',
                )
            )
    if problems:
        raise ConfigError(problems)


def _collide(one: str, two: str) -> bool:
    """Whether two listen values cannot be bound by different servers; a bare port is every address."""
    if listen_port(one) != listen_port(two):
        return False
    everywhere = {"", "0.0.0.0", "[::]"}
    hosts = {value.rpartition(":")[0] for value in (one, two)}
    return len(hosts) == 1 or bool(hosts & everywhere)


def _proxy_settings(proxy: Proxy, topology: Topology, slots: int) -> nginx.ProxySettings:
    memory = sum(node.memory_bytes or 0 for node in topology.nodes)
    size = nginx.size_proxy(cpu_count=len(topology.allowed), memory_bytes=memory, slots=slots)
    return nginx.ProxySettings(
        worker_processes=size.worker_processes,
        worker_connections=size.worker_connections,
        open_files=size.open_files,
        mode=nginx.ProxyMode(proxy.mode.value),
        read_timeout_sec=proxy.read_timeout_sec,
        shutdown_timeout_sec=proxy.shutdown_timeout_sec,
        retry_after_sec=proxy.retry_after_sec,
        client_max_body_bytes=proxy.client_max_body_bytes,
        directory=PROXY_DIRECTORY,
    )
