# SPDX-License-Identifier: Apache-2.0
"""`--config_path`: several servables, failures that keep the process up, reloads."""

import json
from pathlib import Path

import pytest
from standin.conftest import Start
from standin.program import LOADED, MODEL, MODEL_WITH_GRAPH, Program, chat

GRAPH_TEXT = (MODEL_WITH_GRAPH / "graph.pbtxt").read_text(encoding="utf-8").replace("../model", str(MODEL))
FAILED = {"error_code": "FAILED_PRECONDITION", "error_message": "FAILED_PRECONDITION"}


def make_graph(directory: Path, text: str = GRAPH_TEXT) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "graph.pbtxt").write_text(text, encoding="utf-8")
    return directory


def make_classic(directory: Path, *versions: int) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for version in versions:
        (directory / str(version)).mkdir()
        (directory / str(version) / "model.xml").touch()
    return directory


def write_config(path: Path, **servables: Path) -> Path:
    entries = [{"config": {"name": name, "base_path": str(base)}} for name, base in servables.items()]
    path.write_text(json.dumps({"model_config_list": entries}), encoding="utf-8")
    return path


def start_config(start: Start, path: Path, *arguments: str, poll: str = "0") -> Program:
    program = start("--config_path", str(path), "--file_system_poll_wait_seconds", poll, *arguments)
    program.wait_for_log(LOADED)
    return program


def statuses(program: Program, name: str) -> list[dict[str, object]]:
    versions: list[dict[str, object]] = program.get("/v1/config").json()[name]["model_version_status"]
    return versions


def test_failed_graph_keeps_the_process_up(start: Start, tmp_path: Path) -> None:
    good = make_graph(tmp_path / "good")
    bad = make_graph(tmp_path / "bad", GRAPH_TEXT.replace(str(MODEL), "/nowhere"))
    program = start_config(start, write_config(tmp_path / "config.json", good=good, bad=bad))
    assert statuses(program, "bad") == [{"version": "1", "state": "LOADING", "status": FAILED}]
    assert statuses(program, "good")[0]["state"] == "AVAILABLE"
    assert program.get("/v2/health/ready").status == 200
    assert program.get("/v2/models/bad/ready").status == 404
    assert [model["id"] for model in program.get("/v3/models").json()["data"]] == ["good"]
    assert program.ask("POST", "/v3/chat/completions", chat("bad")).status == 500
    assert program.ask("POST", "/v3/chat/completions", chat("good")).status == 200


def test_failed_classic_model_says_unknown(start: Start, tmp_path: Path) -> None:
    directory = make_classic(tmp_path / "m", 1)
    (directory / "1" / "model.xml").unlink()
    program = start_config(start, write_config(tmp_path / "config.json", m=directory))
    unknown = {"error_code": "UNKNOWN", "error_message": "UNKNOWN"}
    assert statuses(program, "m") == [{"version": "1", "state": "LOADING", "status": unknown}]
    assert program.get("/v2/models/m/ready").status == 404


def test_watcher_retries_classic_model(start: Start, tmp_path: Path) -> None:
    directory = make_classic(tmp_path / "m", 1)
    (directory / "1" / "model.xml").unlink()
    program = start_config(start, write_config(tmp_path / "config.json", m=directory), poll="1")
    (directory / "1" / "model.xml").touch()
    program.wait_until("/v1/config", '"AVAILABLE"')


def test_watcher_sees_a_changed_graph(start: Start, tmp_path: Path) -> None:
    graph = make_graph(tmp_path / "g", "not a graph")
    program = start_config(start, write_config(tmp_path / "config.json", g=graph), poll="1")
    assert statuses(program, "g")[0]["status"] == FAILED
    make_graph(graph)
    program.wait_until("/v1/config", '"AVAILABLE"')


@pytest.mark.parametrize(
    "exists", [pytest.param(True, id="no versions"), pytest.param(False, id="no directory")]
)
def test_servable_without_versions_is_listed_empty(start: Start, tmp_path: Path, *, exists: bool) -> None:
    if exists:
        (tmp_path / "dummy").mkdir()
    program = start_config(start, write_config(tmp_path / "config.json", dummy=tmp_path / "dummy"))
    assert program.get("/v1/config").text == '{\n"dummy" : \n{\n "model_version_status": []\n}\n}'
    assert program.get("/v2/health/ready").status == 200


def test_empty_configuration(start: Start, tmp_path: Path) -> None:
    program = start_config(start, write_config(tmp_path / "config.json"))
    assert program.get("/v1/config").text == "{}"
    assert program.get("/v2/health/ready").status == 200


def test_newest_version_serves_and_the_old_one_ends(start: Start, tmp_path: Path) -> None:
    directory = make_classic(tmp_path / "m", 1)
    program = start_config(start, write_config(tmp_path / "config.json", m=directory))
    make_classic(directory, 2)
    assert program.ask("POST", "/v1/config/reload").status == 200
    assert [(item["version"], item["state"]) for item in statuses(program, "m")] == [
        ("1", "END"),
        ("2", "AVAILABLE"),
    ]


def test_reload_adds_retires_and_brings_back(start: Start, tmp_path: Path) -> None:
    one, two = make_graph(tmp_path / "one"), make_graph(tmp_path / "two")
    config = write_config(tmp_path / "config.json", one=one)
    program = start_config(start, config)
    write_config(config, two=two)
    reloaded = program.ask("POST", "/v1/config/reload")
    assert (reloaded.status, reloaded.text) == (200, program.get("/v1/config").text)
    assert statuses(program, "one")[0]["state"] == "END"
    assert statuses(program, "two")[0]["state"] == "AVAILABLE"
    assert program.ask("POST", "/v3/chat/completions", chat("one")).status == 404
    write_config(config, one=one)
    program.ask("POST", "/v1/config/reload")
    assert program.ask("POST", "/v3/chat/completions", chat("one")).status == 200


def test_reload_errors(start: Start, tmp_path: Path) -> None:
    graph = make_graph(tmp_path / "g")
    config = write_config(tmp_path / "config.json", g=graph)
    program = start_config(start, config)
    failed = '{\n\t"error": "Reloading config file failed. Check server logs for more info."\n}'
    write_config(config, g=graph, missing=tmp_path / "missing")
    reloaded = program.ask("POST", "/v1/config/reload")
    assert (reloaded.status, reloaded.text) == (400, failed)
    config.write_text("{", encoding="utf-8")
    reloaded = program.ask("POST", "/v1/config/reload")
    assert (reloaded.status, reloaded.text) == (412, failed)
    config.unlink()
    reloaded = program.ask("POST", "/v1/config/reload")
    assert reloaded.text == '{\n\t"error": "Config file not found or cannot open."\n}'
    assert program.ask("POST", "/v3/chat/completions", chat("g")).status == 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "not JSON", id="not JSON"),
        pytest.param("{}", "model_config_list is required", id="no list"),
        pytest.param('{"model_config_list": [], "x": 1}', "'x' is not known", id="unknown key"),
        pytest.param(
            '{"model_config_list": [{"config": {}}]}', ".name must be a string", id="entry without name"
        ),
        pytest.param(
            '{"model_config_list": [{"config": {"name": "m", "devices": 1}}]}',
            "'devices'",
            id="unknown entry key",
        ),
        pytest.param(None, "No such file", id="no file"),
    ],
)
def test_bad_configuration_ends_with_one(
    start: Start, tmp_path: Path, text: str | None, message: str
) -> None:
    config = tmp_path / "config.json"
    if text is not None:
        config.write_text(text, encoding="utf-8")
    program = start("--config_path", str(config))
    assert program.wait() == 1
    assert message in "".join(program.log)


def test_directory_as_config_path_and_metrics_in_the_file(start: Start, tmp_path: Path) -> None:
    make_graph(tmp_path / "g")
    config = {
        "model_config_list": [],
        "mediapipe_config_list": [{"name": "g"}],
        "monitoring": {"metrics": {"enable": True, "metrics_list": ["ovms_current_graphs"]}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    program = start_config(start, tmp_path)
    assert program.get("/v2/models/g/ready").status == 200
    assert 'ovms_current_graphs{name="g"} 0' in program.get("/metrics").text
