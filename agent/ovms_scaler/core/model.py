# SPDX-License-Identifier: Apache-2.0
"""What a pool's model turned out to be, and the pure parsing of the files that tell."""

from dataclasses import dataclass
from enum import StrEnum


class ModelKind(StrEnum):
    """The forms of a model that OVMS serves."""

    graph = "graph"      # a directory with a graph.pbtxt
    llm = "llm"          # an OpenVINO export of a generative model without a graph.pbtxt
    classic = "classic"  # numbered version directories
    config = "config"    # an OVMS config.json with any number of the above


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The model of one pool as it lies on disk.

    ``kind`` is None exactly when ``problem`` says why it cannot be served. ``graph`` is the text of its
    graph.pbtxt and ``graph_directory`` the directory that the graph's relative paths start from.
    ``weights_bytes`` adds up the weights of one copy of the model in memory. ``served_names`` are the names
    that a config.json promises; empty for the other kinds. ``device`` is what the graph names (several joined
    by ", "). ``generates`` says that a text can be asked of it. ``monitoring`` is None except for config.json.
    """

    path: str
    kind: ModelKind | None = None
    graph: str | None = None
    graph_directory: str | None = None
    weights_bytes: int | None = None
    served_names: tuple[str, ...] = ()
    device: str | None = None
    generates: bool = False
    monitoring: bool | None = None
    problem: str | None = None
    hint: str | None = None
    warnings: tuple[str, ...] = ()
