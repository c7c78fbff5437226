# SPDX-License-Identifier: Apache-2.0
"""What a pool's model turned out to be, and the pure parsing of the files that tell."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ovms_scaler.core import pbtxt
from ovms_scaler.errors import InputError


class ModelKind(StrEnum):
    """The forms of a model that OVMS serves."""

    graph = "graph"  # a directory with a graph.pbtxt
    llm = "llm"  # an OpenVINO export of a generative model without a graph.pbtxt
    classic = "classic"  # numbered version directories
    config = "config"  # an OVMS config.json with any number of the above


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The model of one pool as it lies on disk.

    ``kind`` is None exactly when ``problem`` says why it cannot be served. ``graph`` is the text of its
    graph.pbtxt and ``graph_directory`` the directory that the graph's relative paths start from.
    ``weights_bytes`` adds up the weights of one copy of the model in memory. ``served_names`` are the names
    that a config.json promises; empty for the other kinds. ``device`` is what the graph names (several
    joined by ", "). ``generates`` says that a text can be asked of it. ``monitoring`` is None except for a
    config.json.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One entry of an OVMS config.json; ``base_path`` is as written there, relative to that file."""

    name: str
    base_path: str
    graph_path: str = ""
    device: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedConfig:
    """What an OVMS config.json promises."""

    models: tuple[ServedModel, ...]
    monitoring: bool
    unknown_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSummary:
    """What a graph.pbtxt says: devices and directories of models as written there, and its purpose."""

    devices: tuple[str, ...]
    models_paths: tuple[str, ...]
    generates: bool


# Fields that name a device: "device" in LLM and image generation options, "target_device" in those of
# embeddings, rerank and speech (the .proto files of OVMS's calculators).
DEVICE_FIELDS = ("device", "target_device", "draft_device")
MODELS_FIELDS = ("models_path", "draft_models_path")
LLM_OPTIONS = "mediapipe.LLMCalculatorOptions"


def options_of(node: pbtxt.Message) -> tuple[tuple[str, pbtxt.Message], ...]:
    """The typed options of a graph's node: message type ("mediapipe.LLMCalculatorOptions") and message."""
    return tuple(
        (each.name[1:-1].rpartition("/")[2], each.value)
        for options in node.messages("node_options")
        for each in options.fields
        if each.name.startswith("[") and isinstance(each.value, pbtxt.Message)
    )


def last_text(message: pbtxt.Message, name: str) -> str | None:
    """The string in the field ``name``; of several the last one counts, as in protobuf."""
    texts = [value.text for value in message.values(name) if isinstance(value, pbtxt.Text)]
    return texts[-1] if texts else None


def parse_graph(text: str) -> GraphSummary:
    """Devices and purpose of a graph.pbtxt. Raises InputError with line and column."""
    options = [each for node in pbtxt.parse_pbtxt(text).messages("node") for each in options_of(node)]
    named = [last_text(message, name) for _, message in options for name in DEVICE_FIELDS]
    paths = [last_text(message, name) for _, message in options for name in MODELS_FIELDS]
    return GraphSummary(
        devices=tuple(dict.fromkeys(device for device in named if device)),
        models_paths=tuple(dict.fromkeys(path for path in paths if path is not None)),
        generates=any(kind == LLM_OPTIONS for kind, _ in options),
    )


def is_generative(config: str) -> bool:
    """Whether a Hugging Face config.json is one of a model that generates text.

    By its "architectures": decoders are called ...ForCausalLM or ...ForConditionalGeneration, while encoders
    for embeddings and reranking end in Model or ForSequenceClassification. Without that key it counts.
    """
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        return True
    names = document.get("architectures") if isinstance(document, dict) else None
    if not isinstance(names, list) or not names:
        return True
    return any(
        isinstance(name, str) and ("CausalLM" in name or "ConditionalGeneration" in name or "LMHead" in name)
        for name in names
    )


def parse_served(text: str) -> ServedConfig:
    """The models of an OVMS config.json.

    Raises InputError with the key that breaks a rule of OVMS's own schema (src/schema.cpp): OVMS ends with
    exit status 1 on such a file. Keys that are not known here are listed, as another version may know them.
    """
    try:
        document = json.loads(text)
    except RecursionError:
        raise InputError("is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"is not JSON: {error}") from None
    top = _object(document, "the document")
    unknown = _unknown(top, _TOP_KEYS, "")
    if "model_config_list" not in top:
        raise InputError("lacks the key 'model_config_list'", hint="OVMS requires it; it may be []")
    models: list[ServedModel] = []
    for index, entry in enumerate(_array(top["model_config_list"], "model_config_list")):
        where = f"model_config_list[{index}]"
        wrapper = _object(entry, where)
        if "config" not in wrapper:
            raise InputError(f"{where} lacks the key 'config'")
        config = _object(wrapper["config"], f"{where}.config")
        unknown += _unknown(wrapper, ("config",), f"{where}.")
        unknown += _unknown(config, _MODEL_KEYS, f"{where}.config.")
        models.append(_served(config, f"{where}.config"))
    for index, entry in enumerate(_array(top.get("mediapipe_config_list", []), "mediapipe_config_list")):
        where = f"mediapipe_config_list[{index}]"
        unknown += _unknown(_object(entry, where), _GRAPH_KEYS, f"{where}.")
        models.append(_served(_object(entry, where), where))
    models.extend(_pipelines(top))
    _check_unique(models)
    return ServedConfig(models=tuple(models), monitoring=_monitoring(top), unknown_keys=tuple(unknown))


_TOP_KEYS = (
    "model_config_list",
    "mediapipe_config_list",
    "pipeline_config_list",
    "custom_node_library_config_list",
    "custom_loader_config_list",
    "monitoring",
)
_GRAPH_KEYS = ("name", "base_path", "graph_path", "subconfig")
_MODEL_KEYS = (
    *_GRAPH_KEYS,
    "target_device",
    "plugin_config",
    "nireq",
    "batch_size",
    "shape",
    "layout",
    "model_version_policy",
    "allow_cache",
    "custom_loader_options",
    "mean",
    "scale",
    "precision",
    "color_format",
    # Accepted up to 2026.2.
    "stateful",
    "idle_sequence_cleanup",
    "low_latency_transformation",
    "max_sequence_number",
)


def _object(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise InputError(f"{where} must be an object, not {_kind(value)}")
    return value


def _array(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise InputError(f"{where} must be an array, not {_kind(value)}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where} must be a string, not {_kind(value)}")
    return value


def _kind(value: object) -> str:
    """JSON's name for the type of ``value``."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _unknown(value: Mapping[str, object], keys: tuple[str, ...], where: str) -> list[str]:
    return [f"{where}{name}" for name in value if name not in keys]


def _served(entry: Mapping[str, object], where: str) -> ServedModel:
    if "name" not in entry:
        raise InputError(f"{where} lacks the key 'name'")
    texts = {
        key: _text(entry[key], f"{where}.{key}")
        for key in ("name", "base_path", "graph_path", "target_device")
        if key in entry
    }
    if not texts["name"]:
        raise InputError(f"{where}.name must not be empty")
    # Without base_path a graph is looked for in a directory of its name (mediapipegraphconfig.cpp in OVMS).
    return ServedModel(
        name=texts["name"],
        base_path=texts.get("base_path", texts["name"]),
        graph_path=texts.get("graph_path", ""),
        device=texts.get("target_device"),
    )


def _pipelines(top: Mapping[str, object]) -> list[ServedModel]:
    """Pipelines of several models are listed in /v1/config under their names too; they have no directory."""
    models: list[ServedModel] = []
    for index, entry in enumerate(_array(top.get("pipeline_config_list", []), "pipeline_config_list")):
        where = f"pipeline_config_list[{index}]"
        name = _object(entry, where).get("name")
        models.append(ServedModel(name=_text(name, f"{where}.name"), base_path=""))
    return models


def _check_unique(models: list[ServedModel]) -> None:
    seen: set[str] = set()
    for model in models:
        if model.name in seen:
            raise InputError(f"names the model {model.name!r} twice")
        seen.add(model.name)


def _monitoring(top: Mapping[str, object]) -> bool:
    monitoring = _object(top.get("monitoring", {}), "monitoring")
    metrics = _object(monitoring.get("metrics", {}), "monitoring.metrics")
    enable = metrics.get("enable", False)
    if not isinstance(enable, bool):
        raise InputError(f"monitoring.metrics.enable must be a boolean, not {_kind(enable)}")
    return enable
