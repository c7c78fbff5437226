# SPDX-License-Identifier: Apache-2.0
"""From start to stop: what answers in which phase, signals, and exit codes."""

import contextlib
import http.client
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from standin.conftest import Start
from standin.program import LOADED, MODEL, MODEL_WITH_GRAPH, REST_OPEN, chat, free_port

GRAPH = ("--model_name", "m/x", "--model_path", str(MODEL_WITH_GRAPH))


def test_loading_answers_as_if_nothing_were_configured(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    program = start(*GRAPH, OVMS_STANDIN_LOAD_GATE=str(gate))
    program.wait_for_log(REST_OPEN)
    config = program.get("/v1/config")
    assert (config.status, config.text) == (200, "{}")
    assert program.get("/v2/health/live").status == 200
    ready = program.get("/v2/health/ready")
    assert (ready.status, ready.text) == (503, '{"error":"Server is not ready"}')
    assert program.get("/v2/models/m%2Fx/ready").status == 404
    assert program.get("/v3/models").json() == {"data": [], "object": "list"}
    inference = program.ask("POST", "/v3/chat/completions", chat())
    assert inference.status == 404
    assert inference.json()["error"] == "Mediapipe graph definition with requested name is not found"
    gate.unlink()
    program.wait_for_log(LOADED)
    assert program.get("/v1/config").json()["m/x"]["model_version_status"][0]["state"] == "AVAILABLE"
    assert program.get("/v2/health/ready").status == 200
    assert program.get("/v2/models/m%2Fx/ready").status == 200
    assert program.ask("POST", "/v3/chat/completions", chat()).status == 200


def test_log_says_that_nothing_real_runs(start: Start) -> None:
    program = start(*GRAPH)
    program.wait_for_log(LOADED)
    log = "".join(program.log)
    assert "stand-in for tests, not OpenVINO Model Server" in log
    assert "SIMULATED" in log
    assert "Mediapipe: m/x state changed to: AVAILABLE after handling: ValidationPassedEvent: " in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_cuts_connections_and_ends_well(start: Start, number: signal.Signals) -> None:
    program = start(*GRAPH, OVMS_STANDIN_TPOT_MS="60000")
    program.wait_for_log(LOADED)
    connection = program.connect()
    with contextlib.closing(connection):
        connection.request("POST", "/v3/chat/completions", body=json.dumps(chat(stream=True)))
        response = connection.getresponse()
        assert response.readline().startswith(b"data: ")
        program.send(number)
        # Cut, not ended: the chunked body has no last chunk.
        with pytest.raises((OSError, http.client.IncompleteRead), match=r"reset|IncompleteRead"):
            response.read()
    assert program.wait() == 0


def test_signal_during_load_waits_for_its_end(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    program = start(*GRAPH, OVMS_STANDIN_LOAD_GATE=str(gate))
    program.wait_for_log(REST_OPEN)
    program.send(signal.SIGTERM)
    # It goes on answering for longer than its look at the signal takes.
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        assert program.get("/v1/config").text == "{}"
    gate.unlink()
    assert program.wait() == 0
    assert LOADED in "".join(program.log)


def test_hangup_kills(start: Start) -> None:
    program = start(*GRAPH)
    program.wait_for_log(LOADED)
    program.send(signal.SIGHUP)
    assert program.wait() == -signal.SIGHUP


def test_taken_port_ends_with_one(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = start(*GRAPH, port=listener.getsockname()[1])
        assert program.wait() == 1
    assert "Failed to start REST server" in "".join(program.log)


def test_host_name_as_address_aborts(start: Start) -> None:
    program = start(*GRAPH, "--rest_bind_address", "localhost")
    assert program.wait() == -signal.SIGABRT


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        pytest.param(("--model_path", "/does/not/exist"), 1, "/does/not/exist", id="no such directory"),
        pytest.param(
            ("--model_path", str(MODEL_WITH_GRAPH), "--target_device", "CPU"),
            os.EX_USAGE,
            "unsupported model settings: target_device",
            id="device beside a graph",
        ),
        pytest.param(
            ("--model_path", str(MODEL), "--target_device", "GPU.7"),
            1,
            "'GPU.7'",
            id="card that is not there",
        ),
        pytest.param(
            ("--model_path", str(MODEL), "--plugin_config", "{"),
            1,
            "plugin_config is not JSON",
            id="bad properties",
        ),
        pytest.param(
            (
                "--model_path",
                str(MODEL),
                "--metrics_enable",
                "--metrics_list",
                "ovms_graph_request_latency_us",
            ),
            1,
            "ovms_graph_request_latency_us",
            id="metric that cannot be enabled",
        ),
        pytest.param(("--model_path", str(MODEL), "--pull"), 1, "downloads nothing", id="download"),
    ],
)
def test_start_that_fails(start: Start, arguments: tuple[str, ...], exit_code: int, message: str) -> None:
    program = start("--model_name", "m/x", *arguments)
    assert program.wait() == exit_code
    assert message in "".join(program.log)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--task", "text_generation", "--target_device", "CPU"), id="task given"),
        pytest.param(("--target_device", "CPU"), id="task inferred from the model's config.json"),
        pytest.param(("--cache_size", "2", "--max_num_seqs", "8"), id="graph option given"),
    ],
)
def test_graph_in_memory_serves(start: Start, arguments: tuple[str, ...]) -> None:
    program = start("--model_name", "m/x", "--model_path", str(MODEL), *arguments)
    program.wait_for_log(LOADED)
    assert program.ask("POST", "/v3/chat/completions", chat()).status == 200


def test_graph_option_overrides_the_graph_on_disk(start: Start, tmp_path: Path) -> None:
    """With any graph option OVMS builds its own graph, with the model beside the ignored graph.pbtxt."""
    (tmp_path / "graph.pbtxt").write_text("not a graph", encoding="utf-8")
    (tmp_path / "openvino_model.xml").touch()
    program = start("--model_name", "m/x", "--model_path", str(tmp_path), "--cache_size", "1")
    program.wait_for_log(LOADED)


def test_log_path_gets_a_copy(start: Start, tmp_path: Path) -> None:
    program = start(*GRAPH, "--log_path", str(tmp_path / "log"))
    program.wait_for_log(LOADED)
    assert REST_OPEN in (tmp_path / "log").read_text(encoding="utf-8")


def test_several_addresses(start: Start) -> None:
    program = start(*GRAPH, "--rest_bind_address", "127.0.0.1,127.0.0.2", port=free_port())
    program.wait_for_log(LOADED)
    with socket.create_connection(("127.0.0.2", program.port)):
        assert program.get("/v2/health/live").status == 200
