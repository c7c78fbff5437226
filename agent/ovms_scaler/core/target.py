# SPDX-License-Identifier: Apache-2.0
"""What should be: from the configuration, the machine and the models to every instance and every file."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ovms_scaler.core import engine, fit, fronts, nginx
from ovms_scaler.core.books import Books
from ovms_scaler.core.graph import graph_device_conflict
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.placement import Layout, normalise_weights, place
from ovms_scaler.core.spec import GpuRules, Pool, Spec
from ovms_scaler.core.spec_admin import Admin
from ovms_scaler.core.spec_health import HealthRules
from ovms_scaler.core.topology import Topology
from ovms_scaler.core.unit import drop_in_path, render_drop_in
from ovms_scaler.errors import ConfigError, InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One instance as it should be.

    ``files`` are all it needs on disk before it starts, by absolute path. ``expected`` are the model
    names that must be AVAILABLE; ``warm`` the ones to generate with. ``sources`` are the paths of what the
    engine opens once and for all, by what they are: its program, and a model that it does not watch.
    """

    instance: Instance
    upstream: str
    files: Mapping[str, str]
    expected: tuple[str, ...]
    warm: tuple[str, ...]
    max_conns: int
    max_unavailable: int = 1
    argv: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    open_files: int = 0
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Everything that should be, as one value; equal inputs give an equal one.

    ``pools`` are the names of all pools, those without an instance included.
    """

    pools: tuple[str, ...]
    wanted: Mapping[str, Wanted]
    fronts: tuple[nginx.Front, ...]
    proxy: nginx.ProxySettings
    books: Books
    health: HealthRules
    gpu: GpuRules
    admin: Admin
    warnings: tuple[str, ...]

    @property
    def instances(self) -> tuple[Instance, ...]:
        return tuple(wanted.instance for wanted in self.wanted.values())

    def upstream_members(self, upstream: str) -> tuple[str, ...]:
        return tuple(name for name, wanted in self.wanted.items() if wanted.upstream == upstream)


def resolve(
    spec: Spec,
    topology: Topology,
    models: Mapping[str, ModelFacts],
    books: Books,
    *,
    planned: bool = True,
    ipv6: bool = True,
) -> Target:
    """The target. ``models`` holds what is known of each pool's model, by pool name.

    ``planned`` as in ``place``. Raises ConfigError when the parts of the configuration contradict each other
    or the machine.
    """
    layout = _place(spec, topology, books, planned=planned)
    upstreams = fronts.upstream_of(spec)
    pools = {pool.name: pool for pool in spec.pool}
    weights: dict[str, int] = {}
    for name in sorted(set(upstreams.values())):
        weights |= normalise_weights(spec, (one for one in layout.instances if upstreams[one.pool] == name))
    warnings = [*topology.warnings, *layout.warnings]
    warnings += [f"pool {name!r}: {text}" for name in pools for text in models[name].warnings]
    wanted: dict[str, Wanted] = {}
    # What is on GPUs has its weights there.
    sharing = Counter(one.memory_nodes for one in layout.instances if not one.gpus)
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
        pools=tuple(pools),
        wanted=wanted,
        fronts=fronts.fronts_of(spec, upstreams, layout.instances),
        proxy=fronts.proxy_settings(spec.proxy, topology, slots=slots, ipv6=ipv6),
        books=layout.books,
        health=spec.health,
        gpu=spec.gpu,
        admin=spec.admin,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _place(spec: Spec, topology: Topology, books: Books, *, planned: bool) -> Layout:
    """The layout. Raises ConfigError with what is wrong with it and with where clients are to connect."""
    problems = fronts.listen_problems(spec)
    try:
        layout = place(spec, topology, books, planned=planned)
    except ConfigError as error:
        raise ConfigError([*error.problems, *problems]) from error
    if problems:
        raise ConfigError(problems)
    return layout


def render_proxy_files(target: Target, members: Mapping[str, tuple[nginx.Member, ...]]) -> nginx.ProxyFiles:
    """The proxy's files with ``members`` in rotation, by upstream."""
    return nginx.render_proxy(target.proxy, target.fronts, members)


def _judge(
    instance: Instance, pool: Pool, model: ModelFacts, topology: Topology, sharing: int, warnings: list[str]
) -> Instance:
    """The instance with what forbids to start it, if anything does."""
    if instance.is_waiting:
        return instance
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
    """The instance with its files, which stand ready also while a problem forbids to start it.

    One that waits for a device has none, as they would name what is not there; the proxy knows it all along.
    """
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
    drop_in = render_drop_in(instance, command, model=fronts.served(pool))
    expected = engine.expected_names(pool, model)
    files = {} if instance.is_waiting else {**own_graph, drop_in_path(instance.id): drop_in}
    return Wanted(
        instance=instance,
        upstream=upstream,
        files=files,
        expected=expected,
        warm=expected if model.generates else (),
        max_conns=engine.room(pool),
        max_unavailable=pool.max_unavailable,
        argv=command.argv,
        environment=command.environment,
        open_files=command.open_files,
        sources=_sources(command.argv[0], model),
    )


def _sources(program: str, model: ModelFacts) -> dict[str, str]:
    """OVMS watches version directories and config.json itself (modelmanager.cpp), not what a graph names."""
    watches = model.kind in (ModelKind.classic, ModelKind.config) or model.graph_directory is None
    return {"program": program} if watches else {"program": program, "model": str(model.graph_directory)}
