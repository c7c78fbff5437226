# SPDX-License-Identifier: Apache-2.0
"""What a process serves: graphs and classic models with their states, by name."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from lab.standin.ovms_standin.config_status import ErrorCode, State, VersionStatus
from lab.standin.ovms_standin.engine import Engine
from lab.standin.ovms_standin.graph import GraphSettings


class GraphState(StrEnum):
    """States of a graph definition (OVMS dags/pipelinedefinitionstatus.cpp)."""

    reloading = "RELOADING"
    failed = "LOADING_PRECONDITION_FAILED"
    available = "AVAILABLE"
    retired = "RETIRED"


_GRAPH_STATUS: Final = {
    GraphState.reloading: VersionStatus(version=1, state=State.loading),
    GraphState.failed: VersionStatus(version=1, state=State.loading, error=ErrorCode.failed_precondition),
    GraphState.available: VersionStatus(version=1, state=State.available),
    GraphState.retired: VersionStatus(version=1, state=State.end),
}


@dataclass(slots=True, kw_only=True)
class Graph:
    """A language model graph; its fingerprint tells when graph.pbtxt or its place changed."""

    name: str
    fingerprint: str
    state: GraphState
    settings: GraphSettings | None = None
    engine: Engine | None = None
    created_sec: int = field(default_factory=lambda: int(time.time()))

    def statuses(self) -> Sequence[VersionStatus]:
        return (_GRAPH_STATUS[self.state],)


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output of a classic model, as KServe metadata shows it."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class ClassicModel:
    """A model with numbered version directories; only the newest is served (OVMS's default policy)."""

    name: str
    base_path: Path
    versions: dict[int, VersionStatus] = field(default_factory=dict)
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    # Keeps what was compiled alive; nothing looks inside.
    compiled: object = None
    created_sec: int = field(default_factory=lambda: int(time.time()))

    def statuses(self) -> Sequence[VersionStatus]:
        return tuple(self.versions[version] for version in sorted(self.versions))


Servable = Graph | ClassicModel


class Registry:
    """All servables; what is removed from the configuration stays listed, with END."""

    def __init__(self) -> None:
        self.by_name: dict[str, Servable] = {}

    def statuses(self) -> Mapping[str, Sequence[VersionStatus]]:
        return {name: servable.statuses() for name, servable in self.by_name.items()}

    def is_available(self, name: str) -> bool:
        servable = self.by_name.get(name)
        return servable is not None and any(
            status.state is State.available for status in servable.statuses()
        )

    def available(self) -> list[Servable]:
        """Sorted by name."""
        return [self.by_name[name] for name in sorted(self.by_name) if self.is_available(name)]

    def close(self) -> None:
        for servable in self.by_name.values():
            if isinstance(servable, Graph) and servable.engine is not None:
                servable.engine.close()
