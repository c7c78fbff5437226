# SPDX-License-Identifier: Apache-2.0
"""What the checks have in common: configuration, machine, models, target, users, and the agent's word."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ovms_scaler.config import Config, read_config
from ovms_scaler.core.books import Books
from ovms_scaler.core.checks.model import Placed
from ovms_scaler.core.checks.port import AGENT_UNIT, PROXY_UNIT, Use
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.nginx_text import parse_listen
from ovms_scaler.core.release import pin
from ovms_scaler.core.spec import Pool, Spec
from ovms_scaler.core.spec_engine import Engine
from ovms_scaler.core.target import Target
from ovms_scaler.core.topology import Topology
from ovms_scaler.errors import ConfigError, HostError, Problem
from ovms_scaler.host.accounts import Account, Accounts, read_accounts
from ovms_scaler.host.apart import Outcome, Task, run_apart
from ovms_scaler.host.models import SERVICE_USER, read_model
from ovms_scaler.host.store import Store
from ovms_scaler.host.sysfs import read_topology
from ovms_scaler.offline import resolve_config

PROXY_USER = "ovms-scaler-proxy"

Document = Mapping[str, Any]
Run = Callable[[Sequence[Task]], Mapping[str, Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything below ``root``; what could not be had is None, and why stands in ``troubles`` by name.

    ``problems`` are those of the configuration, and ``target`` is None while there are any. ``late`` are
    the pools whose model gave no answer. ``status`` is the agent's document.
    """

    root: Path
    file: Path
    accounts: Accounts
    config: Config | None = None
    problems: tuple[Problem, ...] = ()
    topology: Topology | None = None
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    target: Target | None = None
    status: Document | None = None
    status_error: str = ""
    late: frozenset[str] = frozenset()
    troubles: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> Spec:
        return self.config.spec if self.config is not None else Spec()

    @property
    def engine(self) -> Engine:
        """The engine of the release in force."""
        return pin(self.spec.engine, self.config.release if self.config is not None else "")

    @property
    def placed(self) -> tuple[Placed, ...]:
        """Every instance that is not waiting for a card, with its pool and its model."""
        pools = {pool.name: pool for pool in self.spec.pool}
        instances = self.target.instances if self.target is not None else ()
        return tuple(
            Placed(instance=one, pool=pools[one.pool], model=self.models[one.pool])
            for one in instances
            if not one.is_waiting
        )

    @property
    def user(self) -> Account | None:
        """The user that engines run as."""
        return self.accounts.users.get(SERVICE_USER)

    @property
    def uses(self) -> tuple[Use, ...]:
        """Every port that is needed."""
        users = self.accounts.users
        proxy = users[PROXY_USER].uid if PROXY_USER in users else None
        fronts = dict.fromkeys(pool.listen for pool in self.spec.pool)
        uses = [
            _use(listen, "clients of the pools", PROXY_UNIT, proxy, "set listen in [[pool]]")
            for listen in fronts
        ]
        uses += [
            Use(
                address="127.0.0.1",
                port=one.instance.port,
                purpose=f"the instance {one.instance.id}",
                unit=one.instance.unit,
                uid=self.user.uid if self.user is not None else None,
                key="set engine.first_port",
            )
            for one in self.placed
        ]
        if self.spec.admin.listen:
            uses.append(_use(self.spec.admin.listen, "metrics and page", AGENT_UNIT, 0, "set admin.listen"))
        return tuple(uses)


def _use(listen: str, purpose: str, unit: str, uid: int | None, key: str) -> Use:
    address, port = parse_listen(listen)
    return Use(address=address, port=port, purpose=purpose, unit=unit, uid=uid, key=key)


def read_setting(
    file: Path,
    *,
    deadline_sec: float,
    root: Path = Path("/"),
    status: Document | None = None,
    status_error: str = "",
    run: Run = run_apart,
) -> Setting:
    """Read it, nothing for longer than its deadline; ``run`` is how, as ``run_apart``."""
    setting = Setting(
        root=root, file=file, accounts=read_accounts(root), status=status, status_error=status_error
    )
    calls: dict[str, Callable[[], object]] = {
        "configuration": partial(_read_configuration, file),
        "topology": partial(read_topology, root),
        "state": partial(_read_books, root),
    }
    tasks = [Task(name=name, call=call, deadline_sec=deadline_sec) for name, call in calls.items()]
    outcomes = run(tasks)
    troubles = {name: outcome.trouble for name, outcome in outcomes.items() if outcome.trouble}
    setting = replace(setting, troubles=troubles)
    match outcomes["configuration"].value:
        case Config() as config:
            setting = replace(setting, config=config)
        case tuple() as problems:
            setting = replace(setting, problems=problems)
    if isinstance(topology := outcomes["topology"].value, Topology):
        setting = replace(setting, topology=topology)
    setting = _add_models(setting, deadline_sec, run)
    books = outcomes["state"].value
    return _add_target(setting, books if isinstance(books, Books) else Books())


def _read_configuration(file: Path) -> Config | tuple[Problem, ...]:
    try:
        return read_config(file)
    except ConfigError as error:
        return error.problems


def _read_books(root: Path) -> Books:
    try:
        return Store(root).read_books()
    except HostError:
        return Books()  # a check of its own says so


def _add_models(setting: Setting, deadline_sec: float, run: Run) -> Setting:
    tasks = [
        Task(name=pool.name, call=partial(read_model, pool, setting.root), deadline_sec=deadline_sec)
        for pool in setting.spec.pool
    ]
    models: dict[str, ModelFacts] = {}
    late: set[str] = set()
    outcomes = run(tasks)
    for pool in setting.spec.pool:
        facts = outcomes[pool.name].value
        if isinstance(facts, ModelFacts):
            models[pool.name] = facts
        else:
            late.add(pool.name)
            models[pool.name] = _unread(pool, outcomes[pool.name])
    return replace(setting, models=models, late=frozenset(late))


def _unread(pool: Pool, outcome: Outcome) -> ModelFacts:
    """A model that gave no answer is taken for one that is there, as it may be in a moment."""
    kind = ModelKind.config if pool.config_path is not None else ModelKind.llm
    path = pool.config_path or pool.model_path or ""
    return ModelFacts(path=path, kind=kind, warnings=(f"{path!r}: {outcome.trouble}",))


def _add_target(setting: Setting, books: Books) -> Setting:
    if setting.config is None or setting.topology is None:
        return setting
    models = setting.models
    try:
        target = resolve_config(setting.config, setting.topology, books, lambda pool: models[pool.name])
    except ConfigError as error:
        return replace(setting, problems=error.problems)
    return replace(setting, target=target)


def is_readable(file: Path) -> bool:
    """Whether this user may read the configuration; one that is missing is as good as read."""
    return not file.exists() or os.access(file, os.R_OK)


def unplanned(setting: Setting) -> str:
    """Why there is no target, "" when there is one."""
    if setting.target is not None:
        return ""
    if setting.problems:
        return "the configuration is not valid"
    trouble = setting.troubles.get("configuration") or setting.troubles.get("topology")
    return trouble or "the configuration is not known"


def pools_of(setting: Setting, names: Collection[str]) -> tuple[Pool, ...]:
    """The pools of these names."""
    return tuple(pool for pool in setting.spec.pool if pool.name in names)
