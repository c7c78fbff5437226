# SPDX-License-Identifier: Apache-2.0
"""The graph.pbtxt of one instance: its author's or a plain LLM graph, fitted to a device and its threads."""

import functools
import json
import posixpath
import re
from dataclasses import dataclass

from ovms_scaler.core import pbtxt
from ovms_scaler.core.model import (
    DEVICE_FIELDS,
    LLM_OPTIONS,
    ModelFacts,
    ModelKind,
    last_text,
    options_of,
)
from ovms_scaler.core.spec_engine import Graph
from ovms_scaler.errors import InputError

# The LLM graph as OVMS's own exporter writes it (demos/continuous_batching/graph.pbtxt), with the one
# default in which that exporter and the engine differ (src/graph_export/graph_export.cpp).
_LLM_GRAPH = """
input_stream: "HTTP_REQUEST_PAYLOAD:input"
output_stream: "HTTP_RESPONSE_PAYLOAD:output"
node {
  name: "LLMExecutor"
  calculator: "HttpLLMCalculator"
  input_stream: "LOOPBACK:loopback"
  input_stream: "HTTP_REQUEST_PAYLOAD:input"
  input_side_packet: "LLM_NODE_RESOURCES:llm"
  output_stream: "LOOPBACK:loopback"
  output_stream: "HTTP_RESPONSE_PAYLOAD:output"
  input_stream_info { tag_index: "LOOPBACK:0" back_edge: true }
  node_options {
    [type.googleapis.com/mediapipe.LLMCalculatorOptions] { models_path: "./" enable_prefix_caching: true }
  }
  input_stream_handler {
    input_stream_handler: "SyncSetInputStreamHandler"
    options { [mediapipe.SyncSetInputStreamHandlerOptions.ext] { sync_set { tag_index: "LOOPBACK:0" } } }
  }
}
"""
_SCALARS = (
    "cache_size",
    "max_num_seqs",
    "max_num_batched_tokens",
    "dynamic_split_fuse",
    "enable_prefix_caching",
)
_TEXTS = ("tool_parser", "reasoning_parser")
# Options with a device field of the other name, see DEVICE_FIELDS; everything else has "target_device".
_NAMED_DEVICE = (LLM_OPTIONS, "mediapipe.ImageGenCalculatorOptions")
# Pipelines without continuous batching hand every property to the plug-in, which refuses GenAI's own.
_STATEFUL = ("LM", "VLM")
# Relative to models_path, not to the graph (llm_calculator.proto).
_NOT_FROM_GRAPH = ("generation_config_path",)
_QUEUE_COMMENT = re.compile(r"#\s*OVMS_GRAPH_QUEUE_MAX_SIZE\s*:")


def can_render(model: ModelFacts) -> bool:
    """Whether ``render_graph`` can make a graph of ``model`` that stands on its own in another directory.

    Not so for graphs of which the models are in a subconfig.json beside them.
    """
    if model.kind is not ModelKind.graph:
        return model.kind is ModelKind.llm
    try:
        return _has_models(_read_own(model))
    except InputError:
        return False


def render_graph(
    model: ModelFacts, options: Graph, *, device: str, inference_threads: int, cache_dir: str | None
) -> str:
    """Text of a graph.pbtxt that serves ``model`` on ``device`` ("CPU", "GPU.1", "HETERO:GPU.0,GPU.1").

    For kinds graph and llm only. Where the directory has a graph.pbtxt, all that its author wrote and that
    is not about the place stays. Raises InputError when that graph cannot be understood, or has nothing that
    the options could apply to.

    Paths become absolute, which OVMS takes as they are (parseModelsPath in src/llm/servable_initializer.cpp,
    SidepacketServable::initialize). plugin_config is JSON whose numbers and booleans become OpenVINO
    properties (src/json_parser.cpp); "sampler_num_threads" in it is taken out by GenAI, which else starts a
    sampler thread for every CPU of the host (initialize_pipeline in src/cpp/src/continuous_batching/
    pipeline_impl.cpp of openvino.genai).
    """
    graph = _read_own(model) if model.kind is ModelKind.graph else _parse(_LLM_GRAPH)
    if model.kind not in (ModelKind.graph, ModelKind.llm) or not _has_models(graph):
        raise InputError(
            f"cannot write a graph for {model.path!r}: no node of its graph has models_path",
            hint="leave out [pool.graph]; the graph is then served as it is",
        )
    place = _Place(device=device, threads=inference_threads, cache_dir=cache_dir)
    directory = model.graph_directory or model.path
    if options != Graph() and not _has_llm(graph):
        raise InputError(
            f"cannot apply [pool.graph] to {model.path!r}: its graph does not generate text",
            hint="remove [pool.graph]; these options are for LLMs only",
        )
    return pbtxt.render_pbtxt(_fit_message(graph, options, place, directory))


def graph_device_conflict(model: ModelFacts, device: str) -> tuple[str, str] | None:
    """What is wrong and the way out, when the model's own graph names another family of devices; else None.

    The first sentence reads "<file> names device 'GPU'": the caller says which pool cannot be placed where.
    A graph without a device, or with AUTO, fits everywhere. The file of a config.json is that one, also when
    the graph of one of its models is meant.
    """
    is_config = model.kind is ModelKind.config
    file = model.path if is_config else posixpath.join(model.graph_directory or model.path, "graph.pbtxt")
    mend = f"export the model again for {device}"
    if is_config:
        mend = f"name {device} in it and in its models' graphs"
    wanted = _families(device)
    for named in (model.device or "").split(", "):
        families = _families(named)
        if families and not wanted <= families:
            return f"{file} names device {named!r}", f"place the pool on {named}, or {mend}"
    return None


def _families(device: str) -> frozenset[str]:
    """Kinds of devices that a device string of OpenVINO stands for; empty when it leaves the choice open.

    "HETERO:GPU,CPU" is a GPU with the CPU as its fallback. Image generation may name one device for each of
    its models, separated by spaces.
    """
    names = frozenset(name.partition(".")[0] for name in re.findall(r"[^:,\s]+", device.upper()))
    members = names - {"AUTO", "HETERO", "MULTI", "BATCH"}
    return members - {"CPU"} if "HETERO" in names and len(members) > 1 else members


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where one instance runs."""

    device: str
    threads: int
    cache_dir: str | None

    @property
    def is_cpu(self) -> bool:
        return _families(self.device) == {"CPU"}

    @property
    def is_npu(self) -> bool:
        return "NPU" in _families(self.device)


@functools.lru_cache(maxsize=8)
def _parse(text: str) -> pbtxt.Message:
    """Every instance of a pool has the same graph to start from."""
    return pbtxt.parse_pbtxt(text)


def _read_own(model: ModelFacts) -> pbtxt.Message:
    try:
        return _parse(model.graph or "")
    except InputError as error:
        raise InputError(f"cannot read the graph of {model.path!r}: {error.message}") from error


def _has_models(graph: pbtxt.Message) -> bool:
    return any(
        last_text(options, "models_path") is not None
        for node in graph.messages("node")
        for _, options in options_of(node)
    )


def _has_llm(graph: pbtxt.Message) -> bool:
    return any(kind == LLM_OPTIONS for node in graph.messages("node") for kind, _ in options_of(node))


def _fit_message(message: pbtxt.Message, options: Graph, place: _Place, directory: str) -> pbtxt.Message:
    """``message`` with every calculator's options in it fitted to the place."""
    return pbtxt.Message(
        fields=tuple(
            pbtxt.Field(
                name=each.name,
                comments=_kept_comments(each.comments),
                value=_fit_value(each.name, each.value, options, place, directory),
            )
            for each in message.fields
        ),
        comments=_kept_comments(message.comments),
    )


def _fit_value(name: str, value: pbtxt.Value, options: Graph, place: _Place, directory: str) -> pbtxt.Value:
    match value:
        case pbtxt.Items():
            values = (_fit_value("", each, options, place, directory) for each in value.values)
            return pbtxt.Items(values=tuple(values))
        case pbtxt.Message():
            fitted = _fit_message(value, options, place, directory)
            if not name.startswith("["):
                return fitted
            return _fit_options(name[1:-1].rpartition("/")[2], fitted, options, place, directory)
    return value


def _kept_comments(comments: tuple[str, ...]) -> tuple[str, ...]:
    """Without the size of the graph queue, which caps the requests at once at the host's number of CPUs.

    OVMS reads that comment (resolveGraphQueueSize in src/mediapipe_internal/mediapipegraphdefinition.cpp).
    """
    return tuple(comment for comment in comments if not _QUEUE_COMMENT.match(comment))


def _fit_options(
    kind: str, message: pbtxt.Message, options: Graph, place: _Place, directory: str
) -> pbtxt.Message:
    """The options of one calculator. Those without models_path only have their paths made absolute."""
    for each in message.fields:
        if isinstance(each.value, pbtxt.Text) and _is_path(each.name):
            path = posixpath.normpath(posixpath.join(directory, each.value.text))
            message = pbtxt.replace_field(message, each.name, pbtxt.Text(text=path))
    if last_text(message, "models_path") is None:
        return message
    named = {"device" if kind in _NAMED_DEVICE else "target_device"}
    named |= {name for name in DEVICE_FIELDS if last_text(message, name) is not None}
    for name in sorted(named):
        message = pbtxt.replace_field(message, name, pbtxt.Text(text=place.device))
    if kind == LLM_OPTIONS:
        message = _with_scalars(message, options)
    properties = _plugin_config(kind, message, options, place)
    if not properties:
        return message
    text = json.dumps(properties, sort_keys=True)
    return pbtxt.replace_field(message, "plugin_config", pbtxt.Text(text=text))


def _is_path(name: str) -> bool:
    return (name == "path" or name.endswith("_path")) and name not in _NOT_FROM_GRAPH


def _with_scalars(message: pbtxt.Message, options: Graph) -> pbtxt.Message:
    for name in _SCALARS:
        value = getattr(options, name)
        if value is not None:
            message = pbtxt.replace_field(message, name, pbtxt.Scalar(token=json.dumps(value)))
    for name in _TEXTS:
        if (text := getattr(options, name)) is not None:
            message = pbtxt.replace_field(message, name, pbtxt.Text(text=text))
    if options.pipeline_type is not None:
        message = pbtxt.replace_field(
            message, "pipeline_type", pbtxt.Scalar(token=options.pipeline_type.value)
        )
    return message


def _plugin_config(kind: str, message: pbtxt.Message, options: Graph, place: _Place) -> dict[str, object]:
    """The properties that the author gave, with ours over them."""
    properties = _own_properties(message)
    is_llm = kind == LLM_OPTIONS
    if place.is_cpu:
        properties |= {"INFERENCE_NUM_THREADS": place.threads, "ENABLE_CPU_PINNING": True}
        if is_llm:
            # One engine thread drives an LLM, so a second stream would idle with its share of the cores; and
            # streams must not be given together with a hint (docs/performance_tuning.md in OVMS).
            properties.pop("PERFORMANCE_HINT", None)
            properties["NUM_STREAMS"] = "1"
        elif "PERFORMANCE_HINT" not in properties:
            properties.setdefault("NUM_STREAMS", "1")
    if is_llm and not place.is_npu and _pipeline_type(message) not in _STATEFUL:
        properties["sampler_num_threads"] = place.threads
    if is_llm and options.kv_cache_precision is not None:
        properties["KV_CACHE_PRECISION"] = options.kv_cache_precision
    if place.device.startswith("HETERO"):
        # As OVMS's own exporter writes it for several cards (demos/common/export_models/export_model.py).
        properties.setdefault("MODEL_DISTRIBUTION_POLICY", "PIPELINE_PARALLEL")
    if place.cache_dir is not None:
        properties["CACHE_DIR"] = place.cache_dir
    return properties


def _pipeline_type(message: pbtxt.Message) -> str:
    tokens = [value.token for value in message.values("pipeline_type") if isinstance(value, pbtxt.Scalar)]
    return tokens[-1] if tokens else "AUTO"


def _own_properties(message: pbtxt.Message) -> dict[str, object]:
    text = last_text(message, "plugin_config")
    if not text:
        return {}
    what = f"cannot read plugin_config {text[:200]!r} of the graph"
    try:
        properties = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what}: it is not JSON ({error})") from error
    if not isinstance(properties, dict):
        raise InputError(f"{what}: it must be a JSON object")
    return properties
