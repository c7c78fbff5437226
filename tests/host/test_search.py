# SPDX-License-Identifier: Apache-2.0
"""Models and programs as they lie about on disks."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from ovms_scaler.core.model import ModelKind
from ovms_scaler.host import search
from ovms_scaler.host.search import find_models, find_program, read_path

GRAPH = """\
node { calculator: "HttpLLMCalculator" node_options: {
  [type.googleapis.com / mediapipe.LLMCalculatorOptions]: { models_path: "./" } } }
"""
SERVED = '{"model_config_list": [{"config": {"name": "a", "base_path": "a"}}]}'
OF_HUGGING_FACE = '{"architectures": ["LlamaForCausalLM"]}'


def write(root: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def export(path: str) -> dict[str, str]:
    """What an export of an LLM to OpenVINO writes."""
    return {
        f"{path}/openvino_model.xml": "<net/>",
        f"{path}/openvino_model.bin": "1234",
        f"{path}/openvino_tokenizer.xml": "<net/>",
        f"{path}/config.json": OF_HUGGING_FACE,
    }


def paths(found: search.Search, root: Path) -> list[str]:
    return [os.path.relpath(one.path, root) for one in found.models]


def test_every_kind_is_found_by_path(tmp_path: Path) -> None:
    files = export("org/llm") | {
        "graph/graph.pbtxt": GRAPH,
        "below/1/graph.pbtxt": GRAPH,
        "resnet/3/model.xml": "<net/>",
        "config.json": SERVED,
        "notes/README": "",
        "numbered/2024/report.txt": "",
    }
    write(tmp_path, files)
    found = find_models([tmp_path])
    assert paths(found, tmp_path) == ["below", "config.json", "graph", "org/llm", "resnet"]
    kinds = [one.kind for one in found.models]
    assert kinds == [ModelKind.graph, ModelKind.config, ModelKind.graph, ModelKind.llm, ModelKind.classic]
    assert (found.refused, found.missed) == ((), "")


def test_the_directory_itself_may_be_the_model(tmp_path: Path) -> None:
    write(tmp_path, export("llm"))
    assert paths(find_models([tmp_path / "llm"]), tmp_path) == ["llm"]


def test_what_was_meant_to_be_one_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"llama/model.safetensors": "", "llama/config.json": OF_HUGGING_FACE})
    found = find_models([tmp_path])
    assert found.models == ()
    (refused,) = found.refused
    assert "another format than OpenVINO's" in (refused.problem or "")


def test_a_model_below_one_that_cannot_be_served_is_found(tmp_path: Path) -> None:
    write(tmp_path, {"org/model.safetensors": ""} | export("org/openvino"))
    assert paths(find_models([tmp_path]), tmp_path) == ["org/openvino"]


def test_parts_of_a_model_are_no_models(tmp_path: Path) -> None:
    write(tmp_path, export("llm") | export("llm/draft"))
    assert paths(find_models([tmp_path]), tmp_path) == ["llm"]


def test_hidden_directories_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, export(".cache/llm"))
    assert find_models([tmp_path]).models == ()


def test_a_link_leads_to_what_is_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, export("disk/llm"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models/llama").symlink_to(tmp_path / "disk/llm")
    assert paths(find_models([tmp_path / "models"]), tmp_path) == ["models/llama"]


def test_a_model_is_found_once_and_by_its_own_path(tmp_path: Path) -> None:
    write(tmp_path, export("org/llm"))
    (tmp_path / "current").symlink_to("org/llm")
    (tmp_path / "org/loop").symlink_to("..")
    assert paths(find_models([tmp_path, tmp_path / "org"]), tmp_path) == ["org/llm"]


def test_directories_that_do_not_exist_are_no_error(tmp_path: Path) -> None:
    assert find_models([tmp_path / "gone"]) == search.Search()


def test_a_link_to_nothing_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to("nowhere")
    assert find_models([tmp_path]) == search.Search()


def test_deep_trees_are_not_searched_to_the_ground(tmp_path: Path) -> None:
    write(tmp_path, export("a/a/a/a") | export("b/b/b/b/b"))
    assert paths(find_models([tmp_path]), tmp_path) == ["a/a/a/a"]


@pytest.mark.parametrize(("directories", "seconds"), [(3, 10.0), (100, -1.0)], ids=["many", "long"])
def test_a_search_that_ended_early_says_so(directories: int, seconds: float, tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"d{number}").mkdir()
    found = find_models([tmp_path], max_directories=directories, max_sec=seconds)
    assert "the search ended at " in found.missed


def test_what_a_path_names(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": SERVED} | export("llm"))
    assert read_path(str(tmp_path / "config.json")).kind is ModelKind.config
    assert read_path(str(tmp_path / "llm")).kind is ModelKind.llm
    assert "No such file" in (read_path(str(tmp_path / "gone")).problem or "")


def test_the_program_is_found_in_the_path_beside_its_libraries(tmp_path: Path) -> None:
    program = tmp_path / "opt/ovms-2026/bin/ovms"
    write(tmp_path, {"opt/ovms-2026/bin/ovms": "#!/bin/sh\n"})
    link = tmp_path / "bin/ovms"
    link.parent.mkdir()
    link.symlink_to(program)
    assert find_program(str(link.parent), default="/nonexistent/ovms") is None  # it cannot be executed
    program.chmod(0o755)
    assert find_program(str(link.parent), default="/nonexistent/ovms") == str(program)
    assert find_program("", default=str(program)) == str(program)
