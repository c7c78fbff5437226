# SPDX-License-Identifier: Apache-2.0
"""What a graph.pbtxt, or the options of an in-memory graph, say about a language model.

Field names and defaults: OVMS src/llm/llm_calculator.proto and src/graph_export/graph_export.cpp.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lab.standin.ovms_standin.flags import Settings
from lab.standin.ovms_standin.pbtxt import Message, PbtxtError, parse_pbtxt

_QUEUE_COMMENT: Final = re.compile(r"^#\s*OVMS_GRAPH_QUEUE_MAX_SIZE:\s*(AUTO|-?[0-9]+)", re.MULTILINE)
_CALCULATOR: Final = "HttpLLMCalculator"
_SIDE_PACKET: Final = "LLM_NODE_RESOURCES:llm"
_PIPELINE_TYPES: Final = frozenset({"AUTO", "LM", "VLM", "LM_CB", "VLM_CB", "OMNI"})


class GraphError(ValueError):
    """The graph cannot be served: its servable becomes FAILED_PRECONDITION, or the start fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSettings:
    """How one language model is to be served."""

    models_path: Path
    device: str = "CPU"
    cache_size_gb: int = 0  # 0: grows as needed
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 256
    has_dynamic_split_fuse: bool = True
    has_prefix_caching: bool = False
    plugin_config: Mapping[str, object] = field(default_factory=dict)
    queue: str = ""  # "", "AUTO" or a number: the OVMS_GRAPH_QUEUE_MAX_SIZE comment


def find_graph_file(model_dir: Path) -> Path | None:
    """DIR/graph.pbtxt, else DIR/1/graph.pbtxt, else None (OVMS looks in both since 2025.1)."""
    for path in (model_dir / "graph.pbtxt", model_dir / "1" / "graph.pbtxt"):
        if path.is_file():
            return path
    return None


def parse_graph(text: str, *, base_dir: Path) -> GraphSettings:
    """Settings of the graph's language model node. Raises GraphError."""
    try:
        nodes = parse_pbtxt(text).messages("node")
    except PbtxtError as exc:
        raise GraphError(f"Failed to parse the graph: {exc}") from exc
    node = next((node for node in nodes if _CALCULATOR in node.texts("calculator")), None)
    if node is None:
        raise GraphError(f"the graph has no {_CALCULATOR} node; the stand-in serves no other kind")
    if _SIDE_PACKET not in node.texts("input_side_packet"):
        raise GraphError(f"the {_CALCULATOR} node has no input_side_packet {_SIDE_PACKET!r}")
    options = [
        inner for outer in node.messages("node_options") for inner in outer.messages(_options_name(outer))
    ]
    comment = _QUEUE_COMMENT.search(text)
    return _settings_of(
        _Fields(options[0] if options else Message()), base_dir, comment.group(1) if comment else ""
    )


def _options_name(outer: Message) -> str:
    return next((name for name in outer.fields if name.endswith("LLMCalculatorOptions")), "")


@dataclass(frozen=True, slots=True)
class _Fields:
    options: Message

    def text(self, name: str, default: str) -> str:
        values = self.options.texts(name)
        return values[-1] if values else default

    def number(self, name: str, default: int) -> int:
        value = self.text(name, str(default))
        if not value.isascii() or not value.isdigit():
            raise GraphError(f"{name} must be a whole number, not {value!r}")
        return int(value)

    def switch(self, name: str, *, default: bool) -> bool:
        return _parse_switch(name, self.text(name, "true" if default else "false"))


def _settings_of(fields: _Fields, base_dir: Path, queue: str) -> GraphSettings:
    models_path = fields.text("models_path", "")
    if not models_path:
        raise GraphError("models_path is missing in the LLM node options")
    if fields.text("pipeline_type", "AUTO") not in _PIPELINE_TYPES:
        raise GraphError(
            f"pipeline_type {fields.text('pipeline_type', '')!r} is not one of {sorted(_PIPELINE_TYPES)}"
        )
    return GraphSettings(
        models_path=base_dir / models_path,
        # Without a device OVMS picks one since 2026.3; on a host without GPUs that is the CPU.
        device=fields.text("device", "") or "CPU",
        cache_size_gb=fields.number("cache_size", 0),
        max_num_seqs=fields.number("max_num_seqs", 256),
        max_num_batched_tokens=fields.number("max_num_batched_tokens", 256),
        has_dynamic_split_fuse=fields.switch("dynamic_split_fuse", default=True),
        has_prefix_caching=fields.switch("enable_prefix_caching", default=False),
        plugin_config=parse_plugin_config(fields.text("plugin_config", "")),
        queue=queue,
    )


def graph_from_options(settings: Settings, *, model_dir: Path) -> GraphSettings:
    """The graph that OVMS builds in memory from `--task` and its companions. Raises GraphError."""
    plugin_config = dict(parse_plugin_config(settings.text("plugin_config")))
    if settings.has("cache_dir"):
        if "CACHE_DIR" in plugin_config:
            raise GraphError("cache_dir and CACHE_DIR in plugin_config cannot be used together")
        plugin_config["CACHE_DIR"] = settings.text("cache_dir")
    for option in ("kv_cache_precision", "model_distribution_policy"):
        if settings.text(option):
            plugin_config[option.upper()] = settings.text(option)
    return GraphSettings(
        models_path=model_dir,
        device=settings.text("target_device") or "CPU",
        cache_size_gb=settings.count("cache_size"),
        max_num_seqs=settings.count("max_num_seqs"),
        max_num_batched_tokens=settings.count("max_num_batched_tokens", 256),
        has_dynamic_split_fuse=_parse_switch("dynamic_split_fuse", settings.text("dynamic_split_fuse")),
        has_prefix_caching=_parse_switch("enable_prefix_caching", settings.text("enable_prefix_caching")),
        plugin_config=plugin_config,
        queue="AUTO",
    )


def parse_plugin_config(text: str) -> Mapping[str, object]:
    """Properties for OpenVINO from a JSON object with plain values. Raises GraphError."""
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise GraphError(f"plugin_config is not JSON: {exc}") from exc
    if not isinstance(value, dict) or any(
        item is None or isinstance(item, dict | list) for item in value.values()
    ):
        raise GraphError("plugin_config must be a JSON object of strings, numbers and booleans")
    return value


def _parse_switch(name: str, text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise GraphError(f"{name} must be true or false, not {text!r}")
    return text.lower() == "true"
