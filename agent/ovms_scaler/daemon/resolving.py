# SPDX-License-Identifier: Apache-2.0
"""Makes targets from a configuration, the machine and its models, any of which may never answer.

A driver that hangs keeps who reads its part of /sys; a file server that is away keeps who looks at a model.
So each is read in a thread of its own, one at most is ever kept by it, and what hangs is known by name.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from ovms_scaler import offline
from ovms_scaler.config import Config
from ovms_scaler.core.books import Books
from ovms_scaler.core.model import ModelFacts
from ovms_scaler.core.spec import Pool
from ovms_scaler.core.target import Target
from ovms_scaler.core.topology import Topology
from ovms_scaler.daemon.lanes import Source
from ovms_scaler.errors import ConfigError, DeadlineError
from ovms_scaler.host.credentials import CredentialStore, read_credentials

# For all together; a file server that was asleep takes some seconds.
ANSWER_SEC = 12.0
# For what is usually here, and for models that a target can do without.
SOON_SEC = 5.0

# What a pool names: config_path and model_path.
_Place = tuple[str | None, str | None]

_FILE_SYSTEM = "see to the file system that it is on; `findmnt` lists them"


class Resolver:
    """Makes targets as ``daemon.intent.Resolve`` says; in whatever thread, but one after the other.

    A planned change is made from what is there now, or not at all. Otherwise a model that does not answer is
    taken for what it was, so that no other pool has to wait for it, and one that has never answered for one
    that cannot be served yet. So it is for the first target, too, as having none would be worse.
    """

    def __init__(
        self,
        *,
        read_topology: Callable[[], Topology],
        read_model: Callable[[Pool], ModelFacts],
        credentials: CredentialStore,
    ) -> None:
        self._read_topology = read_topology
        self._read_model = read_model
        self._store = credentials
        self._topology: Source[Topology] = Source(
            "the topology of this machine (/sys, /proc)",
            hint="`journalctl -k` tells of drivers that hang",
            patience_sec=ANSWER_SEC,
        )
        self._credentials: Source[None] = Source(
            "a file that [proxy] names", hint=_FILE_SYSTEM, patience_sec=ANSWER_SEC
        )
        self._models: Mapping[_Place, Source[ModelFacts]] = {}
        self._has_made = False

    def __call__(self, config: Config, books: Books, *, planned: bool) -> Target:
        """Reads credentials anew with a planned change only. Raises DeadlineError, too."""
        until_sec = time.monotonic() + ANSWER_SEC
        self._topology.ask(self._read_topology)
        self._ask_models(config.spec.pool)
        topology = self._topology.answer(within_sec=ANSWER_SEC)
        models = self._read_models(config.spec.pool, until_sec if planned and self._has_made else None)
        target = offline.resolve_config(
            config, topology, books, lambda pool: models[pool.name], planned=planned
        )
        if planned:
            # To take them is to have them used: that is not done by a thread that was given up meanwhile.
            self._credentials.ask(partial(_check_credentials, config))
            self._credentials.answer(within_sec=SOON_SEC)
        target = offline.add_credentials(target, config, self._store, anew=planned)
        self._has_made = True
        return target

    def list_silent(self) -> tuple[str, ...]:
        """A sentence about each thing that keeps who reads it; for the event loop, at any time."""
        sources: list[Source[Any]] = [self._topology, self._credentials, *self._models.values()]
        return tuple(f"{source.what} does not answer" for source in sources if source.is_silent)

    def _ask_models(self, pools: Iterable[Pool]) -> None:
        """Begin to look at all. A thread that hangs is remembered, lest another joins it one day."""
        wanted = {_place(pool): pool for pool in pools}
        known = {place: one for place, one in self._models.items() if place in wanted or one.is_under_way}
        new = {place: _make_source(wanted[place]) for place in wanted.keys() - known.keys()}
        self._models = {**known, **new}
        for place, pool in wanted.items():
            self._models[place].ask(partial(self._read_model, pool))

    def _read_models(self, pools: Iterable[Pool], until_sec: float | None) -> dict[str, ModelFacts]:
        """By pool; whatever has not answered until then is DeadlineError, or is gone without for None."""
        soon_sec = time.monotonic() + SOON_SEC
        found: dict[str, ModelFacts] = {}
        for pool in pools:
            source = self._models[_place(pool)]
            try:
                found[pool.name] = source.answer(within_sec=(until_sec or soon_sec) - time.monotonic())
            except DeadlineError as error:
                if until_sec is not None:
                    raise
                found[pool.name] = source.last or _unknown(pool, error)
        return found


def _place(pool: Pool) -> _Place:
    return pool.config_path, pool.model_path


def _make_source(pool: Pool) -> Source[ModelFacts]:
    path = pool.config_path or pool.model_path
    return Source(f"the model {path!r}", hint=_FILE_SYSTEM, patience_sec=ANSWER_SEC)


def _unknown(pool: Pool, error: DeadlineError) -> ModelFacts:
    path = pool.config_path or pool.model_path or ""
    return ModelFacts(path=path, problem=f"cannot serve {path!r}: it does not answer", hint=error.hint)


def _check_credentials(config: Config) -> None:
    """Raises ConfigError, and nothing of what is read is kept."""
    try:
        read_credentials(config.spec.proxy)
    except ConfigError as error:
        raise config.locate(error) from error
