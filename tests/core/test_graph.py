# SPDX-License-Identifier: Apache-2.0
"""The graph of one instance: fitted to its place, and everything else as its author wrote it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from ovms_scaler.core.graph import can_render, graph_device_conflict, render_graph
from ovms_scaler.core.model import LLM_OPTIONS, ModelFacts, ModelKind, last_text, options_of
from ovms_scaler.core.pbtxt import Message, Scalar, parse_pbtxt
from ovms_scaler.core.spec_engine import Graph
from ovms_scaler.errors import InputError

# As OVMS's exporter writes it (demos/common/export_models/export_model.py).
EXPORTED = """\
# OVMS_GRAPH_QUEUE_MAX_SIZE: AUTO
input_stream: "HTTP_REQUEST_PAYLOAD:input"
output_stream: "HTTP_RESPONSE_PAYLOAD:output"

node: {
  name: "LLMExecutor"
  calculator: "HttpLLMCalculator"
  input_stream: "LOOPBACK:loopback"
  input_stream: "HTTP_REQUEST_PAYLOAD:input"
  input_side_packet: "LLM_NODE_RESOURCES:llm"
  output_stream: "LOOPBACK:loopback"
  output_stream: "HTTP_RESPONSE_PAYLOAD:output"
  input_stream_info: {
    tag_index: 'LOOPBACK:0',
    back_edge: true
  }
  node_options: {
      [type.googleapis.com / mediapipe.LLMCalculatorOptions]: {
          models_path: "./",
          plugin_config: '{"KV_CACHE_PRECISION": "u8", "INFERENCE_NUM_THREADS": 2,'
                         ' "PERFORMANCE_HINT": "LATENCY"}',
          enable_prefix_caching: true,
          cache_size: 10,
          max_num_seqs: 256,
          device: "CPU",
          # Speculative decoding configuration
          draft_models_path: "draft",
          tool_parser: "hermes3",
      }
  }
  input_stream_handler {
    input_stream_handler: "SyncSetInputStreamHandler",
    options {
      [mediapipe.SyncSetInputStreamHandlerOptions.ext] {
        sync_set {
          tag_index: "LOOPBACK:0"
        }
      }
    }
  }
}
"""
EMBEDDINGS = """\
input_stream: "REQUEST_PAYLOAD:input"
node {
  calculator: "EmbeddingsCalculatorOV"
  node_options: {
    [type.googleapis.com / mediapipe.EmbeddingsCalculatorOVOptions]: {
      models_path: "./", normalize_embeddings: true, plugin_config: '{"NUM_STREAMS": "4"}' } } }
"""
IMAGES = """\
node: { calculator: "ImageGenCalculator" node_options: {
    [type.googleapis.com / mediapipe.ImageGenCalculatorOptions]: {
      models_path: "./" device: "GPU NPU GPU" } } }
"""
SESSIONS = """\
node { calculator: "OpenVINOModelServerSessionCalculator" node_options: {
    [type.googleapis.com / mediapipe.OpenVINOModelServerSessionCalculatorOptions]: {
      servable_name: "x" } } }
"""
LLM = ModelFacts(path="/srv/m", kind=ModelKind.llm, graph_directory="/srv/m")


def graph_model(text: str, directory: str = "/srv/m") -> ModelFacts:
    return ModelFacts(path="/srv/m", kind=ModelKind.graph, graph=text, graph_directory=directory)


def render(
    model: ModelFacts, options: Graph | None = None, *, device: str = "CPU", cache: str | None = None
) -> str:
    return render_graph(model, options or Graph(), device=device, inference_threads=32, cache_dir=cache)


def calculator(text: str) -> Message:
    return next(message for node in parse_pbtxt(text).messages("node") for _, message in options_of(node))


def properties(text: str) -> dict[str, Any]:
    config = last_text(calculator(text), "plugin_config")
    return dict(json.loads(config)) if config else {}


def test_llm_without_a_graph_gets_the_engines_own_with_its_place() -> None:
    assert (
        render(LLM, Graph(cache_size=40, kv_cache_precision="u8", dynamic_split_fuse=False))
        == """\
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
  input_stream_info {
    tag_index: "LOOPBACK:0"
    back_edge: true
  }
  node_options {
    [type.googleapis.com/mediapipe.LLMCalculatorOptions] {
      models_path: "/srv/m"
      enable_prefix_caching: true
      device: "CPU"
      cache_size: 40
      dynamic_split_fuse: false
      plugin_config: '{"ENABLE_CPU_PINNING": true, "INFERENCE_NUM_THREADS": 32, \
"KV_CACHE_PRECISION": "u8", "NUM_STREAMS": "1", "sampler_num_threads": 32}'
    }
  }
  input_stream_handler {
    input_stream_handler: "SyncSetInputStreamHandler"
    options {
      [mediapipe.SyncSetInputStreamHandlerOptions.ext] {
        sync_set {
          tag_index: "LOOPBACK:0"
        }
      }
    }
  }
}
"""
    )


def test_an_authors_graph_keeps_what_is_not_about_the_place() -> None:
    text = render(graph_model(EXPORTED, "/srv/m/1"), Graph(max_num_seqs=64, enable_prefix_caching=False))
    options = calculator(text)
    assert last_text(options, "models_path") == "/srv/m/1"
    assert last_text(options, "draft_models_path") == "/srv/m/1/draft"
    assert last_text(options, "tool_parser") == "hermes3"
    assert list(options.values("cache_size")) == [Scalar(token="10")]
    assert list(options.values("max_num_seqs")) == [Scalar(token="64")]
    assert list(options.values("enable_prefix_caching")) == [Scalar(token="false")]
    assert properties(text) == {
        "KV_CACHE_PRECISION": "u8",
        "INFERENCE_NUM_THREADS": 32,
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": True,
        "sampler_num_threads": 32,
    }
    assert "OVMS_GRAPH_QUEUE_MAX_SIZE" not in text
    assert "# Speculative decoding configuration" in text
    for kept in ('"LLM_NODE_RESOURCES:llm"', '"SyncSetInputStreamHandler"', '"HttpLLMCalculator"'):
        assert kept in text


def test_rendering_again_what_was_rendered_changes_nothing() -> None:
    once = render(graph_model(EXPORTED), Graph(cache_size=4))
    assert render(graph_model(once), Graph(cache_size=4)) == once


@pytest.mark.parametrize(
    ("text", "device", "expected"),
    [
        pytest.param(
            EXPORTED,
            "GPU.1",
            {
                "KV_CACHE_PRECISION": "u8",
                "INFERENCE_NUM_THREADS": 2,
                "PERFORMANCE_HINT": "LATENCY",
                "sampler_num_threads": 32,
            },
            id="no threads of the CPU plug-in on a GPU",
        ),
        pytest.param(
            EXPORTED,
            "NPU",
            {"KV_CACHE_PRECISION": "u8", "INFERENCE_NUM_THREADS": 2, "PERFORMANCE_HINT": "LATENCY"},
            id="no sampler of its own on an NPU",
        ),
        pytest.param(
            EXPORTED.replace('device: "CPU"', "pipeline_type: LM"),
            "CPU",
            {
                "KV_CACHE_PRECISION": "u8",
                "INFERENCE_NUM_THREADS": 32,
                "NUM_STREAMS": "1",
                "ENABLE_CPU_PINNING": True,
            },
            id="none without continuous batching either",
        ),
        pytest.param(
            EMBEDDINGS,
            "CPU",
            {"NUM_STREAMS": "4", "INFERENCE_NUM_THREADS": 32, "ENABLE_CPU_PINNING": True},
            id="streams of embeddings are the author's",
        ),
        pytest.param(
            EMBEDDINGS.replace("NUM_STREAMS", "PERFORMANCE_HINT"),
            "CPU",
            {"PERFORMANCE_HINT": "4", "INFERENCE_NUM_THREADS": 32, "ENABLE_CPU_PINNING": True},
            id="no streams beside a hint",
        ),
        pytest.param(
            IMAGES,
            "CPU",
            {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": 32, "ENABLE_CPU_PINNING": True},
            id="images",
        ),
        pytest.param(IMAGES, "GPU", {}, id="images on a GPU"),
    ],
)
def test_properties_of_the_plug_in(text: str, device: str, expected: dict[str, Any]) -> None:
    assert properties(render(graph_model(text), device=device)) == expected


@pytest.mark.parametrize(
    ("text", "field"),
    [
        pytest.param(EXPORTED, "device", id="llm"),
        pytest.param(EMBEDDINGS, "target_device", id="embeddings"),
        pytest.param(IMAGES, "device", id="images"),
    ],
)
def test_device_is_written_where_the_calculator_reads_it(text: str, field: str) -> None:
    options = calculator(render(graph_model(text), device="GPU.1"))
    assert last_text(options, field) == "GPU.1"
    assert [each.name for each in options.fields if each.name.endswith("device")] == [field]


def test_cache_directory_goes_to_the_plug_in() -> None:
    assert properties(render(LLM, device="GPU", cache="/var/cache/x"))["CACHE_DIR"] == "/var/cache/x"


def test_draft_model_moves_with_the_device() -> None:
    text = EXPORTED.replace('device: "CPU"', 'device: "GPU" draft_device: "GPU"')
    options = calculator(render(graph_model(text), device="GPU.1"))
    assert (last_text(options, "device"), last_text(options, "draft_device")) == ("GPU.1", "GPU.1")


@pytest.mark.parametrize(
    ("written", "absolute"),
    [
        pytest.param("./", "/srv/m", id="the directory itself"),
        pytest.param("", "/srv/m", id="empty"),
        pytest.param("../other", "/srv/other", id="beside it"),
        pytest.param("/abs/x", "/abs/x", id="absolute"),
        pytest.param("a b'c", "/srv/m/a b'c", id="space and quote"),
    ],
)
def test_paths_become_absolute(written: str, absolute: str) -> None:
    text = EXPORTED.replace('"./"', f'"{written}"')
    assert last_text(calculator(render(graph_model(text))), "models_path") == absolute


def test_generation_config_path_stays_relative_to_the_model() -> None:
    text = EXPORTED.replace('tool_parser: "hermes3"', 'generation_config_path: "chat.json"')
    assert last_text(calculator(render(graph_model(text))), "generation_config_path") == "chat.json"


@pytest.mark.parametrize(
    ("model", "options", "problem"),
    [
        pytest.param(
            graph_model("node {"), Graph(), "cannot read the graph of '/srv/m': line 1, column 7", id="cut"
        ),
        pytest.param(
            graph_model(SESSIONS),
            Graph(),
            "cannot write a graph for '/srv/m': no node of its graph has models_path",
            id="models in a subconfig.json",
        ),
        pytest.param(
            ModelFacts(path="/srv/m", kind=ModelKind.classic),
            Graph(),
            "no node of its graph has models_path",
            id="classic model",
        ),
        pytest.param(
            graph_model(EMBEDDINGS),
            Graph(cache_size=1),
            "cannot apply [pool.graph] to '/srv/m': its graph does not generate text",
            id="options of an LLM for embeddings",
        ),
        pytest.param(
            graph_model(EMBEDDINGS.replace('"4"', "4,")), Graph(), "cannot read plugin_config", id="no JSON"
        ),
        pytest.param(
            graph_model(EMBEDDINGS.replace('{"NUM_STREAMS": "4"}', "[1]")),
            Graph(),
            "it must be a JSON object",
            id="JSON, but no object",
        ),
    ],
)
def test_what_cannot_be_rendered_is_named(model: ModelFacts, options: Graph, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        render(model, options)
    assert problem in caught.value.message


def test_can_render_says_so_before() -> None:
    assert can_render(LLM)
    assert can_render(graph_model(EMBEDDINGS))
    assert not can_render(graph_model(SESSIONS))
    assert not can_render(ModelFacts(path="/srv/m", kind=ModelKind.config))
    assert not can_render(graph_model("node {"))


@pytest.mark.parametrize(
    ("named", "device", "conflicts"),
    [
        pytest.param("CPU", "CPU", False, id="the same"),
        pytest.param("GPU", "CPU", True, id="GPU graph on a CPU"),
        pytest.param("CPU", "GPU.1", True, id="CPU graph on a GPU"),
        pytest.param("GPU.0", "GPU.1", False, id="another card"),
        pytest.param("gpu", "GPU", False, id="lower case"),
        pytest.param("NPU", "CPU", True, id="NPU graph on a CPU"),
        pytest.param("AUTO", "CPU", False, id="left open"),
        pytest.param("AUTO:GPU,CPU", "CPU", False, id="one of a choice"),
        pytest.param("AUTO:GPU,NPU", "CPU", True, id="not one of a choice"),
        pytest.param("HETERO:GPU.0,GPU.1", "GPU", False, id="two cards"),
        pytest.param("HETERO:GPU,CPU", "CPU", True, id="a card with the CPU as fallback"),
        pytest.param("GPU", "HETERO:GPU.0,GPU.1", False, id="over two cards"),
    ],
)
def test_device_conflict(named: str, device: str, *, conflicts: bool) -> None:
    model = replace(graph_model(EXPORTED), device=named)
    conflict = graph_device_conflict(model, device)
    assert (conflict is not None) == conflicts
    if conflict is not None:
        assert conflict == (
            f"/srv/m/graph.pbtxt names device {named!r}",
            f"place the pool on {named}, or export the model again for {device}",
        )


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(LLM, id="no graph"),
        pytest.param(graph_model(EMBEDDINGS), id="no device"),
    ],
)
def test_without_a_named_device_there_is_no_conflict(model: ModelFacts) -> None:
    assert graph_device_conflict(model, "CPU") is None


def test_device_conflict_of_a_config_json_names_that_file() -> None:
    model = ModelFacts(path="/srv/config.json", kind=ModelKind.config, device="CPU, GPU.0")
    assert graph_device_conflict(model, "CPU") == (
        "/srv/config.json names device 'GPU.0'",
        "place the pool on GPU.0, or name CPU in it and in its models' graphs",
    )


def test_options_are_found_by_their_type() -> None:
    assert [kind for node in parse_pbtxt(EXPORTED).messages("node") for kind, _ in options_of(node)] == [
        LLM_OPTIONS
    ]
