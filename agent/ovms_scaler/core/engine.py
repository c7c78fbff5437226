# SPDX-License-Identifier: Apache-2.0
"""How an instance of OpenVINO Model Server is started: its arguments, environment and limits.

Facts about OVMS are from its sources at tag v2026.3; the file is named at each.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from ovms_scaler.core.graph import render_graph
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.spec import Pool
from ovms_scaler.core.spec_engine import DEFAULT_MAX_NUM_SEQS, Engine

INSTANCE_DIRECTORY = PurePosixPath("/run/ovms-scaler/instances")
GRAPH_FILE = "graph.pbtxt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What systemd runs. ``open_files`` is LimitNOFILE=; ``slots`` the requests worked on at once."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    open_files: int
    slots: int


def slots(pool: Pool) -> int:
    """Requests that one instance of the pool works on at once; further ones wait in it, unseen.

    One of the REST workers runs the HTTP server's own loop and is never free (src/drogon_http_server.cpp).
    """
    if pool.ovms.rest_workers is not None:
        return pool.ovms.rest_workers - 1
    return pool.graph.max_num_seqs or DEFAULT_MAX_NUM_SEQS


def room(pool: Pool) -> int:
    """Requests that one instance accepts: those it works on and those that wait."""
    return slots(pool) + pool.waiting_room


def render_command(instance: Instance, pool: Pool, engine: Engine, model: ModelFacts) -> Command:
    """The command of one instance; ``model.kind`` must be known."""
    argv = [
        engine.binary,
        "--rest_port", str(instance.port),
        # A literal address: on a name such as localhost the HTTP server aborts (drogon, ListenerManager.cc).
        "--rest_bind_address", "127.0.0.1",
        "--rest_workers", str(slots(pool) + 1),
        *_model_arguments(instance, pool, model),
        *pool.ovms.flags,
    ]  # fmt: skip
    return Command(
        argv=tuple(argv),
        environment=render_environment(pool, engine),
        open_files=_open_files(pool),
        slots=slots(pool),
    )


def instance_directory(instance_id: str) -> PurePosixPath:
    return INSTANCE_DIRECTORY / instance_id


def render_own_graph(instance: Instance, pool: Pool, model: ModelFacts) -> Mapping[str, str]:
    """The graph that sizes an LLM's threads and names its device, by path; empty for other models."""
    if model.kind not in (ModelKind.graph, ModelKind.llm):
        return {}
    text = render_graph(
        model,
        pool.graph,
        device=instance.device,
        inference_threads=instance.inference_threads,
        cache_dir=_cache_directory(instance),
    )
    return {str(instance_directory(instance.id) / GRAPH_FILE): text}


def expected_names(pool: Pool, model: ModelFacts) -> tuple[str, ...]:
    """The names that must be AVAILABLE in ``/v1/config`` before the instance serves."""
    return model.served_names if pool.model_name is None else (pool.model_name,)


def _model_arguments(instance: Instance, pool: Pool, model: ModelFacts) -> list[str]:
    if pool.config_path is not None:
        # Metrics are the business of that file: --metrics_enable excludes it (src/modelmanager.cpp).
        cache = _cache_directory(instance)
        return ["--config_path", pool.config_path, *(["--cache_dir", cache] if cache else [])]
    arguments = ["--model_name", pool.model_name or "", "--metrics_enable"]
    if model.kind is ModelKind.classic:
        plugin = json.dumps(_properties(instance), sort_keys=True)
        return [
            *arguments,
            "--model_path",
            pool.model_path or "",
            "--target_device",
            instance.device,
            "--plugin_config",
            plugin,
        ]
    # The graph is ours and never changes while the engine runs: nothing to poll for.
    return [
        *arguments,
        "--model_path",
        str(instance_directory(instance.id)),
        "--file_system_poll_wait_seconds",
        "0",
    ]


def _properties(instance: Instance) -> dict[str, object]:
    """OpenVINO's properties of a model without a graph."""
    if instance.device == "CPU":
        return {"INFERENCE_NUM_THREADS": instance.inference_threads, "NUM_STREAMS": "1"}
    properties: dict[str, object] = {"CACHE_DIR": _cache_directory(instance)}
    if instance.device.startswith("HETERO"):
        # Without it the first card gets the whole model; as in the graph of an LLM.
        properties["MODEL_DISTRIBUTION_POLICY"] = "PIPELINE_PARALLEL"
    return properties


def _cache_directory(instance: Instance) -> str | None:
    """Where compiled kernels are kept, one for each instance: CacheDirectory= of its unit.

    Compiling for a GPU takes minutes, for a CPU there is nothing to gain.
    """
    return None if instance.device == "CPU" else f"/var/cache/ovms/{instance.id}"


def render_environment(pool: Pool, engine: Engine) -> dict[str, str]:
    """Paths in the release's tarball (docs/deploying_server_baremetal.md), and the administrator's own."""
    library = engine.library_path or str(PurePosixPath(engine.binary).parent.parent / "lib")
    return {
        "LD_LIBRARY_PATH": library,
        "PYTHONPATH": engine.python_path or f"{library}/python",
        # Exported graphs ask for a pool of graphs as large as the host has CPUs, and requests
        # beyond that wait although the engine has room
        # (src/mediapipe_internal/mediapipegraphdefinition.cpp).
        "OVMS_GRAPH_QUEUE_OFF": "1",
        **pool.ovms.environment,
    }


def _open_files(pool: Pool) -> int:
    """Seven files a REST worker and 15 more (src/config.cpp), one a connection, and some to spare."""
    needed = 7 * (slots(pool) + 1) + 15 + room(pool) + 1024
    return int(2 ** (needed - 1).bit_length())
