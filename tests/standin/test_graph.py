# SPDX-License-Identifier: Apache-2.0
"""graph.pbtxt as OVMS's exporters write it, and what is wrong with others."""

from pathlib import Path

import pytest
from lab.standin.ovms_standin.flags import parse_settings
from lab.standin.ovms_standin.graph import GraphError, GraphSettings, graph_from_options, parse_graph
from standin.program import MODEL_WITH_GRAPH

BASE = Path("/models/chat")


def graph(options: str, *, side_packet: str = "LLM_NODE_RESOURCES:llm") -> str:
    """A graph with these options in its language model node."""
    return (
        'input_stream: "HTTP_REQUEST_PAYLOAD:input"\n'
        f'node: {{ name: "LLMExecutor" calculator: "HttpLLMCalculator" input_side_packet: "{side_packet}"\n'
        f"node_options: {{ [type.googleapis.com / mediapipe.LLMCalculatorOptions]: {{ {options} }} }} }}\n"
    )


def test_graph_of_the_exporter_is_read() -> None:
    text = (MODEL_WITH_GRAPH / "graph.pbtxt").read_text(encoding="utf-8")
    assert parse_graph(text, base_dir=MODEL_WITH_GRAPH) == GraphSettings(
        models_path=MODEL_WITH_GRAPH / "../model",
        device="CPU",
        has_prefix_caching=True,
        plugin_config={"INFERENCE_NUM_THREADS": 1},
        queue="AUTO",
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param('models_path: "./"', GraphSettings(models_path=BASE), id="defaults"),
        pytest.param('models_path: "/abs"', GraphSettings(models_path=Path("/abs")), id="absolute path"),
        pytest.param(
            "models_path: './', device: 'GPU.1', cache_size: 8, max_num_seqs: 16,"
            "max_num_batched_tokens: 1024,"
            "dynamic_split_fuse: false, enable_prefix_caching: true",
            GraphSettings(
                models_path=BASE,
                device="GPU.1",
                cache_size_gb=8,
                max_num_seqs=16,
                max_num_batched_tokens=1024,
                has_dynamic_split_fuse=False,
                has_prefix_caching=True,
            ),
            id="everything, single quotes",
        ),
        pytest.param(
            'models_path: "./" plugin_config: ' + r'"{\"NUM_STREAMS\": \"1\"," "\"X\": true}"'
            'models_path: "./" plugin_config: '
            + r'"{\"NUM_STREAMS\": \"1\"," "\"X\": true}"'
            + " # a note\n",
            GraphSettings(models_path=BASE, plugin_config={"NUM_STREAMS": "1", "X": True}),
            id="escaped and joined strings",
        ),
    ],
)
def test_options_are_read(options: str, expected: GraphSettings) -> None:
    assert parse_graph(graph(options), base_dir=BASE) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("node: {", "not closed", id="open brace"),
        pytest.param("!", "cannot read line 1", id="not text format"),
        pytest.param('node { calculator: "Add" }', "no HttpLLMCalculator", id="another graph"),
        pytest.param(
            graph('models_path: "./"', side_packet="X:x"), "input_side_packet", id="side packet changed"
        ),
        pytest.param(graph('device: "CPU"'), "models_path is missing", id="no models_path"),
        pytest.param(
            graph('models_path: "./" cache_size: "big"'), "cache_size must be", id="size is a word"
        ),
        pytest.param(
            graph('models_path: "./" plugin_config: "{"'), "not JSON", id="plugin_config is not JSON"
        ),
        pytest.param(graph('models_path: "./" pipeline_type: FAST'), "pipeline_type", id="unknown pipeline"),
    ],
)
def test_bad_graph_names_the_fault(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        parse_graph(text, base_dir=BASE)


def test_options_make_a_graph_in_memory() -> None:
    line = "--task text_generation --target_device CPU --cache_size 4 --kv_cache_precision u8 --cache_dir /c"
    settings = parse_settings([*line.split(), "--plugin_config", '{"INFERENCE_NUM_THREADS": 4}'])
    made = graph_from_options(settings, model_dir=BASE)
    assert made.cache_size_gb == 4
    assert made.has_prefix_caching
    assert made.queue == "AUTO"
    assert made.plugin_config == {"INFERENCE_NUM_THREADS": 4, "CACHE_DIR": "/c", "KV_CACHE_PRECISION": "u8"}


def test_cache_dir_twice_is_refused() -> None:
    settings = parse_settings(["--cache_dir", "/c", "--plugin_config", '{"CACHE_DIR": "/d"}'])
    with pytest.raises(GraphError, match="cannot be used together"):
        graph_from_options(settings, model_dir=BASE)
