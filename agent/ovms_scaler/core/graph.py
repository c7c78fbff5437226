# SPDX-License-Identifier: Apache-2.0
"""The graph.pbtxt of one instance: the author's own, or a plain LLM graph, fitted to a device and its threads."""

from ovms_scaler.core.model import ModelFacts
from ovms_scaler.core.spec import Graph


def render_graph(
    model: ModelFacts, options: Graph, *, device: str, inference_threads: int, cache_dir: str | None
) -> str:
    """Text of a graph.pbtxt that serves ``model`` on ``device`` ("CPU", "GPU", "GPU.1", "HETERO:GPU.0,GPU.1").

    For kinds graph and llm only. Raises InputError when the model's own graph cannot be understood, or has
    nothing that the options could apply to.
    """
    raise NotImplementedError


def graph_device_conflict(model: ModelFacts, device: str) -> tuple[str, str] | None:
    """What is wrong and the way out, when the model's own graph names another family of devices; else None.

    The first sentence reads "<file> names device 'GPU'": the caller says which pool cannot be placed where.
    """
    raise NotImplementedError
