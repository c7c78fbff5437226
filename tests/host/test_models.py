# SPDX-License-Identifier: Apache-2.0
"""Model directories as people leave them, in real trees."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovms_scaler.core.model import ModelKind
from ovms_scaler.core.spec import Pool
from ovms_scaler.host import models
from ovms_scaler.host.models import read_model

GRAPH = """\
node { calculator: "HttpLLMCalculator" node_options: {
  [type.googleapis.com / mediapipe.LLMCalculatorOptions]: { models_path: "./", device: "GPU" } } }
"""
POOL = Pool(name="chat", model_name="m", model_path="/srv/m")
CONFIG_POOL = Pool(name="many", config_path="/srv/config.json")
NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "srv").mkdir()
    return tmp_path


def write(root: Path, files: Mapping[str, str | bytes]) -> None:
    """Files below the root by path; a path that ends in "/" is a directory, "->" before a text a link."""
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            file.mkdir(exist_ok=True)
        elif isinstance(content, bytes):
            file.write_bytes(content)
        elif content.startswith("->"):
            file.symlink_to(content[2:])
        else:
            file.write_text(content)


EXPORT = {
    "srv/m/openvino_model.xml": "<net/>",
    "srv/m/openvino_model.bin": "12345678",
    "srv/m/openvino_tokenizer.xml": "<net/>",
    "srv/m/openvino_tokenizer.bin": "12",
    "srv/m/openvino_detokenizer.bin": "12",
    "srv/m/config.json": '{"architectures": ["LlamaForCausalLM"]}',
}


def test_fifo_is_no_file_and_nobody_waits_for_its_writer(root: Path) -> None:
    write(root, {"srv/m/": ""})
    os.mkfifo(root / "srv/m/graph.pbtxt")
    os.mkfifo(root / "srv/config.json")
    assert "graph.pbtxt is not a regular file" in str(read_model(POOL, root).problem)
    assert "config.json is not a regular file" in str(read_model(CONFIG_POOL, root).problem)


def test_export_without_a_graph(root: Path) -> None:
    write(root, EXPORT)
    facts = read_model(POOL, root)
    assert (facts.kind, facts.weights_bytes, facts.generates, facts.problem) == (
        ModelKind.llm,
        8,
        True,
        None,
    )
    assert (facts.path, facts.graph_directory, facts.graph, facts.device) == ("/srv/m", "/srv/m", None, None)
    assert (facts.served_names, facts.monitoring, facts.warnings) == ((), None, ())


def test_export_without_a_tokenizer_is_warned_of(root: Path) -> None:
    write(root, {path: text for path, text in EXPORT.items() if "tokenizer" not in path})
    assert read_model(POOL, root).warnings == (
        "'/srv/m' has no openvino_tokenizer.xml, without which OVMS cannot serve text",
    )


@pytest.mark.parametrize(
    "below", [pytest.param("", id="in the directory"), pytest.param("1", id="in version 1")]
)
def test_graph(root: Path, below: str) -> None:
    place = os.path.normpath(f"srv/m/{below}")
    write(root, {f"{place}/graph.pbtxt": GRAPH, f"{place}/openvino_model.bin": "1234"})
    facts = read_model(POOL, root)
    assert (facts.kind, facts.graph, facts.graph_directory) == (ModelKind.graph, GRAPH, f"/{place}")
    assert (facts.device, facts.generates, facts.weights_bytes) == ("GPU", True, 4)


def test_weights_are_those_that_the_graph_names_and_counted_once(root: Path) -> None:
    graph = GRAPH.replace('"./"', '"../w"').replace("device:", 'draft_models_path: "../w/draft" device:')
    write(
        root,
        {
            "srv/m/graph.pbtxt": graph,
            "srv/m/old.bin": "x" * 99,
            "srv/w/openvino_model.bin": "12345",
            "srv/w/draft/openvino_model.bin": "123",
        },
    )
    assert read_model(POOL, root).weights_bytes == 8


def test_classic_counts_the_newest_version_by_number(root: Path) -> None:
    write(
        root,
        {
            "srv/m/9/m.xml": "<net/>",
            "srv/m/9/m.bin": "1",
            "srv/m/10/m.xml": "<net/>",
            "srv/m/10/m.bin": "123",
            "srv/m/11/": "",
            "srv/m/notes": "",
        },
    )
    facts = read_model(POOL, root)
    assert (facts.kind, facts.weights_bytes, facts.generates) == (ModelKind.classic, 3, False)


@pytest.mark.parametrize(
    ("files", "problem", "hint"),
    [
        pytest.param({}, "No such file or directory", "check the path", id="missing"),
        pytest.param({"srv/m": "file"}, "it is not a directory", "model_path is the directory", id="a file"),
        pytest.param(
            {"srv/m/": ""}, "the directory is empty", "export or copy the model into it", id="empty"
        ),
        pytest.param(
            {"srv/m": "->nowhere"}, "No such file or directory", "check the path", id="link to nothing"
        ),
        pytest.param({"srv/m": "->m"}, "Too many levels of symbolic links", None, id="link to itself"),
        pytest.param(
            {"srv/m/README": "x"},
            "it has no graph.pbtxt, no openvino_model.xml and no numbered version",
            "that an export to OpenVINO wrote",
            id="something else",
        ),
        pytest.param(
            {"srv/m/model.safetensors": "x", "srv/m/config.json": "{}"},
            "it holds a model in another format than OpenVINO's",
            "optimum-cli",
            id="PyTorch weights",
        ),
        pytest.param(
            {"srv/m/resnet.xml": "x", "srv/m/resnet.bin": "x"},
            "the model lies in the directory itself, not in a numbered one",
            "the directory 1",
            id="classic model without a version",
        ),
        pytest.param(
            {"srv/m/1/": ""}, "no numbered directory in it holds a model", "model.xml", id="empty version"
        ),
        pytest.param(
            {"srv/m/openvino_model.xml": "x", "srv/m/openvino_model.bin": "->/gone"},
            "'openvino_model.bin' in it is a link to nothing",
            "copy what the link",
            id="dangling weights",
        ),
        pytest.param(
            {"srv/m/graph.pbtxt": "->gone"},
            "'graph.pbtxt' in it is a link to nothing",
            "copy",
            id="dangling graph",
        ),
        pytest.param(
            {"srv/m/graph.pbtxt": "node {"},
            "its graph.pbtxt cannot be understood: line 1, column 7",
            "export the model again",
            id="broken graph",
        ),
        pytest.param(
            {"srv/m/graph.pbtxt": b"\xff\xfe"},
            "graph.pbtxt is not UTF-8 at byte 0",
            "export",
            id="graph is not text",
        ),
        pytest.param(
            {"srv/m/graph.pbtxt": "#" * (models.MAX_FILE_BYTES + 1)},
            "graph.pbtxt is larger than 4194304 bytes",
            "export",
            id="graph is huge",
        ),
        pytest.param({"srv/m/graph.pbtxt/": ""}, "Is a directory", None, id="graph is a directory"),
        pytest.param(
            {"srv/m/graph.pbtxt": GRAPH.replace("./", "weights")},
            "its graph.pbtxt names models_path 'weights', which does not exist",
            "relative to the graph",
            id="graph without its model",
        ),
        pytest.param(
            {"srv/m/openvino_model.xml": "x", "srv/m/config.json": '{"architectures": ["BertModel"]}'},
            "it is not a model that generates text, and has no graph.pbtxt",
            "export_model.py",
            id="embeddings without a graph",
        ),
    ],
)
def test_what_cannot_be_served_says_why(
    root: Path, files: Mapping[str, str | bytes], problem: str, hint: str | None
) -> None:
    write(root, files)
    facts = read_model(POOL, root)
    assert facts.kind is None
    assert facts.problem is not None
    assert facts.problem.startswith("cannot serve '/srv/m': ")
    assert problem in facts.problem
    assert (facts.hint is None) == (hint is None)
    assert (hint or "") in (facts.hint or "")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("pool", "path"),
    [
        pytest.param(POOL, "srv/m", id="directory"),
        pytest.param(CONFIG_POOL, "srv/config.json", id="config.json"),
    ],
)
def test_what_this_user_may_not_read_is_a_problem(root: Path, pool: Pool, path: str) -> None:
    write(root, {**EXPORT, "srv/config.json": '{"model_config_list": []}'})
    (root / path).chmod(0)
    with as_nobody():
        facts = read_model(pool, root)
    (root / path).chmod(0o755)
    assert facts.problem == f"cannot serve '/{path}': Permission denied"
    assert facts.hint == "check the permissions of the path"


@pytest.mark.parametrize(
    ("path", "mode", "warning"),
    [
        pytest.param(
            "srv",
            0o750,
            "cannot pass '/srv' unless its owner, group or ACL allows it (mode 0750)",
            id="parent",
        ),
        pytest.param(
            "srv/m",
            0o751,
            "cannot read '/srv/m' unless its owner, group or ACL allows it (mode 0751)",
            id="directory cannot be listed",
        ),
        pytest.param(
            "srv/m",
            0o754,
            "cannot read '/srv/m' unless its owner, group or ACL allows it (mode 0754)",
            id="directory cannot be passed",
        ),
        pytest.param(
            "srv/m/openvino_model.bin",
            0o600,
            "cannot read '/srv/m/openvino_model.bin' unless its owner, group or ACL allows it (mode 0600)",
            id="weights",
        ),
    ],
)
def test_what_the_instances_may_not_read_is_warned_of(
    root: Path, path: str, mode: int, warning: str
) -> None:
    write(root, EXPORT)
    (root / path).chmod(mode)
    facts = read_model(POOL, root)
    assert facts.problem is None
    assert facts.warnings == (f"the user 'ovms' {warning}",)


def test_version_directories_are_looked_into(root: Path) -> None:
    write(root, {"srv/m/1/m.xml": "<net/>", "srv/m/1/m.bin": "1", "srv/m/notes.txt": "x"})
    (root / "srv/m/notes.txt").chmod(0o600)
    assert read_model(POOL, root).warnings == ()
    (root / "srv/m/1/m.bin").chmod(0o640)
    assert "cannot read '/srv/m/1/m.bin'" in read_model(POOL, root).warnings[0]
    (root / "srv/m/1").chmod(0o750)
    assert "cannot read '/srv/m/1' unless" in read_model(POOL, root).warnings[0]


def test_access_is_judged_along_links(root: Path) -> None:
    write(root, {path.replace("srv/m", "store/private/v1"): text for path, text in EXPORT.items()})
    write(root, {"srv/m": "->../store/private/v1"})
    (root / "store/private").chmod(0o700)
    assert read_model(POOL, root).warnings == (
        "the user 'ovms' cannot pass '/store/private' unless its owner, group or ACL allows it (mode 0700)",
    )


def config(*entries: dict[str, object], **more: object) -> str:
    return json.dumps({"model_config_list": [{"config": entry} for entry in entries], **more})


METRICS = {"monitoring": {"metrics": {"enable": True}}}


def test_config_json_adds_up_its_models(root: Path) -> None:
    write(
        root,
        {
            "srv/config.json": config(
                {"name": "a", "base_path": "m"},
                {"name": "b", "base_path": "/srv/b"},
                {"name": "c", "base_path": "g", "graph_path": "sub/other.pbtxt"},
                **METRICS,
            ),
            **EXPORT,
            "srv/b/1/x.xml": "<net/>",
            "srv/b/1/x.bin": "1234",
            "srv/g/sub/other.pbtxt": GRAPH,
            "srv/g/sub/openvino_model.bin": "12",
        },
    )
    facts = read_model(CONFIG_POOL, root)
    assert (facts.kind, facts.served_names, facts.weights_bytes) == (ModelKind.config, ("a", "b", "c"), 14)
    assert (facts.device, facts.generates, facts.monitoring, facts.warnings) == ("GPU", True, True, ())


def test_config_json_warns_of_what_it_leaves_out(root: Path) -> None:
    write(root, {"srv/config.json": config({"name": "a", "base_path": "gone", "odd": 1})})
    facts = read_model(CONFIG_POOL, root)
    assert (facts.kind, facts.problem, facts.weights_bytes) == (ModelKind.config, None, None)
    assert facts.warnings == (
        "'/srv/config.json' has the key 'model_config_list[0].config.odd', which OVMS may refuse",
        "'/srv/config.json' does not enable monitoring.metrics: its engines cannot be measured",
        "'a': cannot serve '/srv/gone': No such file or directory",
    )


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        pytest.param({}, "No such file or directory", id="missing"),
        pytest.param({"srv/config.json/": ""}, "it is a directory", id="directory"),
        pytest.param({"srv/config.json": "{"}, "is not JSON: Expecting property name", id="cut"),
        pytest.param(
            {"srv/config.json": "{}"}, "lacks the key 'model_config_list'", id="another config.json"
        ),
        pytest.param({"srv/config.json": config()}, "it names no model", id="no models"),
        pytest.param({"srv/config.json": b"\xff"}, "config.json is not UTF-8 at byte 0", id="not text"),
    ],
)
def test_config_json_that_cannot_be_served_says_why(
    root: Path, files: Mapping[str, str | bytes], problem: str
) -> None:
    write(root, files)
    facts = read_model(CONFIG_POOL, root)
    assert facts.kind is None
    assert facts.hint
    assert facts.problem is not None
    assert facts.problem.startswith(f"cannot serve '/srv/config.json': {problem}")
