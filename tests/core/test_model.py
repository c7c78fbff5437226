# SPDX-License-Identifier: Apache-2.0
"""The files that describe a model, parsed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_scaler.core.model import GraphSummary, ServedModel, is_generative, parse_graph, parse_served
from ovms_scaler.errors import InputError

ENTRY: dict[str, Any] = {"config": {"name": "a", "base_path": "a"}}


def test_every_kind_of_served_model_is_listed_in_order() -> None:
    served = parse_served(
        json.dumps(
            {
                "model_config_list": [
                    {
                        "config": {
                            "name": "a",
                            "base_path": "/srv/a",
                            "target_device": "GPU",
                            "plugin_config": {},
                            "nireq": 1,
                        }
                    },
                    {"config": {"name": "m/x"}},
                ],
                "mediapipe_config_list": [{"name": "g", "base_path": "graphs", "graph_path": "g.pbtxt"}],
                "pipeline_config_list": [{"name": "p", "inputs": [], "nodes": [], "outputs": []}],
                "monitoring": {"metrics": {"enable": True, "metrics_list": []}},
            }
        )
    )
    assert served.models == (
        ServedModel(name="a", base_path="/srv/a", device="GPU"),
        ServedModel(name="m/x", base_path="m/x"),
        ServedModel(name="g", base_path="graphs", graph_path="g.pbtxt"),
        ServedModel(name="p", base_path=""),
    )
    assert served.monitoring
    assert served.unknown_keys == ()


def test_an_empty_list_of_models_is_allowed() -> None:
    served = parse_served('{"model_config_list": []}')
    assert served.models == ()
    assert not served.monitoring


def test_unknown_keys_are_listed_with_their_place() -> None:
    served = parse_served(
        json.dumps(
            {
                "model_config_list": [{"config": {"name": "a", "basepath": "x"}, "b": 1}],
                "c": 1,
                "mediapipe_config_list": [{"name": "g", "device": "CPU"}],
            }
        )
    )
    assert served.unknown_keys == (
        "c",
        "model_config_list[0].b",
        "model_config_list[0].config.basepath",
        "mediapipe_config_list[0].device",
    )


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        pytest.param([], "the document must be an object, not an array", id="array"),
        pytest.param({}, "lacks the key 'model_config_list'", id="empty object"),
        pytest.param({"mediapipe_config_list": []}, "lacks the key 'model_config_list'", id="graphs only"),
        pytest.param(
            {"model_config_list": {}}, "model_config_list must be an array, not an object", id="no array"
        ),
        pytest.param(
            {"model_config_list": ["a"]}, "model_config_list[0] must be an object, not a string", id="name"
        ),
        pytest.param(
            {"model_config_list": [{"name": "a"}]},
            "model_config_list[0] lacks the key 'config'",
            id="no config",
        ),
        pytest.param(
            {"model_config_list": [{"config": None}]},
            "model_config_list[0].config must be an object, not null",
            id="null",
        ),
        pytest.param(
            {"model_config_list": [{"config": {"base_path": "a"}}]},
            "model_config_list[0].config lacks the key 'name'",
            id="no name",
        ),
        pytest.param(
            {"model_config_list": [{"config": {"name": ""}}]},
            "model_config_list[0].config.name must not be empty",
            id="empty name",
        ),
        pytest.param(
            {"model_config_list": [{"config": {"name": True}}]},
            "model_config_list[0].config.name must be a string, not a boolean",
            id="boolean as name",
        ),
        pytest.param({"model_config_list": [ENTRY, ENTRY]}, "names the model 'a' twice", id="twice"),
        pytest.param(
            {"model_config_list": [ENTRY], "mediapipe_config_list": [{"name": "a"}]},
            "names the model 'a' twice",
            id="twice, as model and graph",
        ),
        pytest.param(
            {"model_config_list": [], "mediapipe_config_list": 1},
            "mediapipe_config_list must be an array, not a number",
            id="number as list",
        ),
        pytest.param(
            {"model_config_list": [], "pipeline_config_list": [{}]},
            "pipeline_config_list[0].name must be a string, not null",
            id="pipeline without a name",
        ),
        pytest.param(
            {"model_config_list": [], "monitoring": {"metrics": {"enable": "true"}}},
            "monitoring.metrics.enable must be a boolean, not a string",
            id="enable as text",
        ),
    ],
)
def test_broken_config_is_named(document: object, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_served(json.dumps(document))
    assert caught.value.message == problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("{", "is not JSON: ", id="cut"),
        pytest.param("", "is not JSON: ", id="empty"),
        pytest.param("[" * 100000, "is nested too deeply", id="deep"),
    ],
)
def test_what_is_not_json_is_named(text: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_served(text)
    assert caught.value.message.startswith(problem)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "model_config_list",
                        "mediapipe_config_list",
                        "pipeline_config_list",
                        "monitoring",
                        "metrics",
                        "enable",
                        "config",
                        "name",
                        "base_path",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=15,
    )
)
def test_any_json_is_parsed_or_refused(document: object) -> None:
    try:
        served = parse_served(json.dumps(document))
    except InputError:
        return
    assert all(model.name or not model.base_path for model in served.models)


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        pytest.param(
            "node { node_options { [type.googleapis.com/mediapipe.LLMCalculatorOptions] {"
            ' models_path: "./" device: "GPU" draft_models_path: "d" draft_device: "CPU" } } }',
            GraphSummary(devices=("GPU", "CPU"), models_paths=("./", "d"), generates=True),
            id="llm",
        ),
        pytest.param(
            "node: [{ node_options { [x/mediapipe.RerankCalculatorOVOptions] {"
            ' models_path: "a" target_device: "NPU" } } }]',
            GraphSummary(devices=("NPU",), models_paths=("a",), generates=False),
            id="rerank, as list",
        ),
        pytest.param(
            'node { node_options { [x/m.A] { device: "CPU" } } } node { node_options { [x/m.B] {'
            ' device: "CPU" } } }',
            GraphSummary(devices=("CPU",), models_paths=(), generates=False),
            id="one device twice",
        ),
        pytest.param("", GraphSummary(devices=(), models_paths=(), generates=False), id="empty"),
    ],
)
def test_graph_summary(text: str, summary: GraphSummary) -> None:
    assert parse_graph(text) == summary


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param('{"architectures": ["LlamaForCausalLM"]}', True, id="decoder"),
        pytest.param('{"architectures": ["Qwen2VLForConditionalGeneration"]}', True, id="vision"),
        pytest.param('{"architectures": ["GPT2LMHeadModel"]}', True, id="head of a language model"),
        pytest.param('{"architectures": ["BertModel"]}', False, id="encoder"),
        pytest.param('{"architectures": ["XLMRobertaForSequenceClassification"]}', False, id="reranker"),
        pytest.param('{"architectures": []}', True, id="none named"),
        pytest.param("{}", True, id="no such key"),
        pytest.param("[", True, id="not JSON"),
        pytest.param('{"architectures": [1]}', False, id="number"),
    ],
)
def test_generative_by_architecture(config: str, *, expected: bool) -> None:
    assert is_generative(config) is expected
