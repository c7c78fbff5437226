# SPDX-License-Identifier: Apache-2.0
"""The command of one instance: arguments, environment, limits and the graph that goes with it."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import world

from ovms_scaler.core import engine
from ovms_scaler.core.books import Books
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.placement import place
from ovms_scaler.core.spec import Pool, Spec

CHAT: Mapping[str, object] = {"model_name": "org/tiny", "model_path": "/srv/models/tiny"}
GRAPH = """\
node: {
  calculator: "HttpLLMCalculator"
  node_options: {
    [type.googleapis.com/mediapipe.LLMCalculatorOptions]: { models_path: "./", device: "GPU" }
  }
}
"""


def command(
    pool: Mapping[str, object] = CHAT, *, model: ModelFacts | None = None, **tables: object
) -> engine.Command:
    """The command of the first instance on a machine of two nodes with two cores."""
    spec, instance = placed(pool, **tables)
    return engine.render_command(instance, spec.pool[0], spec.engine, model or world.model())


def placed(pool: Mapping[str, object], **tables: object) -> tuple[Spec, Instance]:
    spec = world.spec(pool, **tables)
    return spec, place(spec, world.topology(), Books()).instances[0]


def only_pool(**keys: object) -> Pool:
    return world.spec(keys).pool[0]


LLM = (
    "/opt/ovms/bin/ovms --rest_port 8003 --rest_bind_address 127.0.0.1 --rest_workers 257 "
    "--model_name org/tiny --metrics_enable --model_path /run/ovms-scaler/instances/chat-numa0 "
    "--file_system_poll_wait_seconds 0"
)


@pytest.mark.parametrize("kind", [ModelKind.llm, ModelKind.graph], ids=["no graph.pbtxt", "own graph.pbtxt"])
def test_command_for_an_llm_serves_our_graph(kind: ModelKind) -> None:
    assert " ".join(command(model=world.model(kind=kind, graph=GRAPH)).argv) == LLM


def test_command_for_a_classic_model_sizes_its_threads_through_the_plugin() -> None:
    argv = command(model=world.model(kind=ModelKind.classic)).argv
    assert argv[7:] == (
        "--model_name",
        "org/tiny",
        "--metrics_enable",
        "--model_path",
        "/srv/models/tiny",
        "--target_device",
        "CPU",
        "--plugin_config",
        '{"INFERENCE_NUM_THREADS": 2, "NUM_STREAMS": "1"}',
    )


def test_command_for_several_models_leaves_the_rest_to_their_file() -> None:
    spec, instance = placed(CHAT)
    argv = engine.render_command(
        instance, only_config(), spec.engine, world.model(kind=ModelKind.config)
    ).argv
    assert argv[7:] == ("--config_path", "/srv/config.json")


def only_config() -> Pool:
    return replace(only_pool(), model_name=None, model_path=None, config_path="/srv/config.json")


def test_flags_of_the_administrator_come_last() -> None:
    argv = command({**CHAT, "ovms": {"flags": ["--log_level", "DEBUG"]}}).argv
    assert argv[-2:] == ("--log_level", "DEBUG")


@pytest.mark.parametrize(
    ("pool", "slots", "room", "open_files"),
    [
        pytest.param({}, 256, 1280, 8192, id="by default as many as the engine's own default"),
        pytest.param({"graph": {"max_num_seqs": 32}}, 32, 1056, 4096, id="sequences given"),
        pytest.param({"ovms": {"rest_workers": 2}}, 1, 1025, 4096, id="one worker is never free"),
        pytest.param(
            {"ovms": {"rest_workers": 10000}, "waiting_room": 100000}, 9999, 109999, 262144, id="the most"
        ),
        pytest.param(
            {"ovms": {"rest_workers": 2}, "waiting_room": 0}, 1, 1, 2048, id="the least: nobody waits"
        ),
    ],
)
def test_limits_follow_from_the_concurrency(
    pool: dict[str, object], slots: int, room: int, open_files: int
) -> None:
    made, own = command({**CHAT, **pool}), only_pool(**pool)
    assert (made.slots, engine.room(own), made.open_files) == (slots, room, open_files)
    assert made.argv[5:7] == ("--rest_workers", str(slots + 1))
    # What OVMS itself demands of the limit (src/config.cpp).
    assert slots + 1 <= (made.open_files - 15) // 6


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        pytest.param(
            {},
            {"LD_LIBRARY_PATH": "/opt/ovms/lib", "PYTHONPATH": "/opt/ovms/lib/python"},
            id="the tarball's layout",
        ),
        pytest.param(
            {"binary": "/srv/o/bin/ovms"},
            {"LD_LIBRARY_PATH": "/srv/o/lib", "PYTHONPATH": "/srv/o/lib/python"},
            id="installed elsewhere",
        ),
        pytest.param(
            {"library_path": "/l"},
            {"LD_LIBRARY_PATH": "/l", "PYTHONPATH": "/l/python"},
            id="libraries given",
        ),
        pytest.param(
            {"python_path": "/p"},
            {"LD_LIBRARY_PATH": "/opt/ovms/lib", "PYTHONPATH": "/p"},
            id="Python given",
        ),
    ],
)
def test_environment_points_at_the_installation(table: dict[str, object], expected: dict[str, str]) -> None:
    assert command(engine=table).environment == {**expected, "OVMS_GRAPH_QUEUE_OFF": "1"}


def test_environment_of_the_administrator_wins() -> None:
    made = command({**CHAT, "ovms": {"environment": {"OVMS_GRAPH_QUEUE_OFF": "0", "HF_TOKEN": "t"}}})
    assert (made.environment["OVMS_GRAPH_QUEUE_OFF"], made.environment["HF_TOKEN"]) == ("0", "t")


@pytest.mark.parametrize("kind", [ModelKind.llm, ModelKind.graph], ids=["no graph.pbtxt", "own graph.pbtxt"])
def test_own_graph_names_device_threads_and_model(kind: ModelKind) -> None:
    spec, instance = placed(CHAT)
    graphs = engine.render_own_graph(instance, spec.pool[0], world.model(kind=kind, graph=GRAPH))
    assert list(graphs) == ["/run/ovms-scaler/instances/chat-numa0/graph.pbtxt"]
    text = next(iter(graphs.values()))
    assert 'device: "CPU"' in text
    assert 'models_path: "/srv/models/tiny"' in text
    assert '"INFERENCE_NUM_THREADS": 2' in text.replace("\\", "")


@pytest.mark.parametrize("kind", [ModelKind.classic, ModelKind.config])
def test_other_kinds_of_model_get_no_graph(kind: ModelKind) -> None:
    spec, instance = placed(CHAT)
    assert engine.render_own_graph(instance, spec.pool[0], world.model(kind=kind)) == {}


@pytest.mark.parametrize(
    ("pool", "facts", "expected"),
    [
        pytest.param(only_pool(), {}, ("org/tiny",), id="the pool's name"),
        pytest.param(only_config(), {"served_names": ("a", "b")}, ("a", "b"), id="those of a config.json"),
    ],
)
def test_expected_names(pool: Pool, facts: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert engine.expected_names(pool, world.model(**facts)) == expected


# On GPUs

CARDS = (world.gpu("0000:03:00.0"), world.gpu("0000:04:00.0"))
ON_ONE = "chat-gpu-0000:03:00.0"


def on_gpus(placement: str) -> tuple[Spec, Instance]:
    spec = world.spec({**CHAT, "placement": placement})
    return spec, place(spec, world.topology(gpus=CARDS), Books()).instances[0]


@pytest.mark.parametrize(
    ("placement", "device", "policy"),
    [("gpu", "GPU", None), ("hetero", "HETERO:GPU.0,GPU.1", "PIPELINE_PARALLEL")],
)
@pytest.mark.parametrize("kind", [ModelKind.llm, ModelKind.graph], ids=["no graph.pbtxt", "own graph.pbtxt"])
def test_own_graph_on_gpus(kind: ModelKind, placement: str, device: str, policy: str | None) -> None:
    spec, instance = on_gpus(placement)
    graphs = engine.render_own_graph(instance, spec.pool[0], world.model(kind=kind, graph=GRAPH))
    text = graphs[f"/run/ovms-scaler/instances/{instance.id}/graph.pbtxt"]
    assert f'device: "{device}"' in text
    (plugin_config,) = re.findall("plugin_config: '(.*)'", text)
    properties = json.loads(plugin_config)
    assert properties["CACHE_DIR"] == f"/var/cache/ovms/{instance.id}"
    assert properties.get("MODEL_DISTRIBUTION_POLICY") == policy


def test_command_on_a_gpu_names_no_threads_and_keeps_what_was_compiled() -> None:
    spec, instance = on_gpus("gpu")
    made = engine.render_command(instance, spec.pool[0], spec.engine, world.model(kind=ModelKind.classic))
    assert made.argv[12:] == (
        "--target_device",
        "GPU",
        "--plugin_config",
        f'{{"CACHE_DIR": "/var/cache/ovms/{ON_ONE}"}}',
    )


def test_command_on_several_gpus_spreads_the_model_over_them() -> None:
    spec, instance = on_gpus("hetero")
    made = engine.render_command(instance, spec.pool[0], spec.engine, world.model(kind=ModelKind.classic))
    assert made.argv[13] == "HETERO:GPU.0,GPU.1"
    assert json.loads(made.argv[15]) == {
        "CACHE_DIR": "/var/cache/ovms/chat-hetero0",
        "MODEL_DISTRIBUTION_POLICY": "PIPELINE_PARALLEL",
    }


def test_command_for_several_models_on_a_gpu_keeps_what_was_compiled() -> None:
    spec, instance = on_gpus("gpu")
    made = engine.render_command(instance, only_config(), spec.engine, world.model(kind=ModelKind.config))
    assert made.argv[7:] == ("--config_path", "/srv/config.json", "--cache_dir", f"/var/cache/ovms/{ON_ONE}")
