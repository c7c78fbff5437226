# SPDX-License-Identifier: Apache-2.0
"""Requests for text and for status: forms, errors, concurrency, faults."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from standin.conftest import Start
from standin.program import (
    LOADED,
    MODEL_WITH_GRAPH,
    Program,
    chat,
    free_port,
    simulated_command,
    simulated_environment,
)

GRAPH = ("--model_name", "m/x", "--model_path", str(MODEL_WITH_GRAPH), "--metrics_enable")
CHAT = "/v3/chat/completions"


def start_graph(start: Start, *arguments: str, **environment: str) -> Program:
    program = start(*GRAPH, *arguments, **environment)
    program.wait_for_log(LOADED)
    return program


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    """One program for the tests that change nothing in it."""
    port = free_port()
    command = simulated_command("--rest_port", str(port), "--rest_bind_address", "127.0.0.1", *GRAPH)
    running = Program(command, simulated_environment(), port=port)
    with contextlib.closing(running):
        running.wait_for_log(LOADED)
        yield running


@pytest.mark.parametrize("path", ["/v3/chat/completions", "/v1/chat/completions", "/v3/v1/chat/completions"])
def test_chat_in_one_piece(program: Program, path: str) -> None:
    answer = program.ask("POST", path, chat()).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "m/x"
    assert answer["choices"][0]["message"] == {
        "content": "the model answers with simulated",
        "role": "assistant",
        "tool_calls": [],
    }
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def test_chat_streamed(program: Program) -> None:
    body = chat(stream=True, stream_options={"include_usage": True})
    reply = program.ask("POST", CHAT, body)
    assert reply.headers["content-type"] == "text/event-stream"
    events = reply.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta["content"] for delta in deltas) == "the model answers with simulated"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 4 + ["length"]
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], 5)


def test_completion_with_stop(program: Program) -> None:
    body = {"model": "m/x", "prompt": "hello", "stop": ["with"]}
    choice = program.ask("POST", "/v3/completions", body).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("the model answers ", "stop")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        pytest.param(b"{", 412, "Cannot parse JSON body", id="not JSON"),
        pytest.param({"messages": []}, 412, "model field is missing", id="no model"),
        pytest.param(chat("other"), 404, "is not found", id="unknown model"),
        pytest.param({"model": "m/x"}, 400, "messages missing", id="no messages"),
        pytest.param(chat(messages=[]), 400, "cannot be empty", id="empty messages"),
        pytest.param(chat(max_tokens=0), 400, "should be greater than 0", id="no tokens"),
        pytest.param(chat(temperature=5), 400, "temperature out of range", id="temperature"),
        pytest.param(chat(stop=1), 400, "stop is not", id="stop is a number"),
        pytest.param(chat(stream_options={}), 400, "stream not set to true", id="options without stream"),
        pytest.param(
            chat(messages=[{"role": "user", "content": "word " * 40000}]),
            400,
            "exceeds model max",
            id="too long",
        ),
    ],
)
def test_bad_request(program: Program, body: object, status: int, message: str) -> None:
    reply = program.ask("POST", CHAT, body)
    assert reply.status == status
    assert message in reply.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("HEAD", "/v1/config", 406, id="HEAD"),
        pytest.param("PUT", "/v1/config", 406, id="PUT"),
        pytest.param("GET", "/v1/config?x=1", 200, id="query is no part of the path"),
        pytest.param("GET", "/v1/config/", 400, id="trailing slash"),
        pytest.param("GET", "/nowhere", 400, id="unknown path"),
        pytest.param("GET", "/v1/config/reload", 406, id="reload needs POST"),
        pytest.param("OPTIONS", "/v3/chat/completions", 200, id="OPTIONS"),
        pytest.param("GET", "/v2/models/m/x/ready", 400, id="raw slash in the name"),
        pytest.param("GET", "/v2/models/other/ready", 404, id="unknown model"),
        pytest.param("GET", "/v3/models/m/x", 200, id="raw slash is good here"),
        pytest.param("GET", "/v1/models/other", 500, id="unknown model has 500 here"),
        pytest.param("GET", "/v2", 200, id="server metadata"),
        pytest.param("GET", "/v2/models/m%2Fx", 200, id="model metadata"),
    ],
)
def test_path_and_method(program: Program, method: str, path: str, status: int) -> None:
    assert program.ask(method, path).status == status


def test_unknown_model_has_the_body_of_ovms(program: Program) -> None:
    assert program.get("/v1/models/non_existing").text == '{"error":"Model not found"}'


def test_api_key_guards_inference_only(start: Start) -> None:
    program = start_graph(start, API_KEY="secret")
    refused = program.ask("POST", CHAT, chat())
    assert refused.status == 500
    assert refused.text == '{"error":"Unauthorized request due to invalid or missing api-key"}'
    assert program.ask("POST", CHAT, chat(), headers={"Authorization": "Bearer secret"}).status == 200
    assert program.get("/v1/config").status == 200


def test_metrics_are_off_by_default(start: Start) -> None:
    program = start(*GRAPH[:-1])
    program.wait_for_log(LOADED)
    assert program.get("/metrics").status == 400


def test_metrics_count_requests(start: Start) -> None:
    program = start_graph(start)
    program.ask("POST", CHAT, chat())
    program.ask("POST", CHAT, chat(stream=True))
    program.ask("POST", CHAT, chat(max_tokens=0))
    text = program.get("/metrics").text
    labels = 'api="V3",interface="REST",method="%s",name="m/x"'
    assert f"ovms_requests_accepted{{{labels % 'Unary'}}} 2\n" in text
    assert f"ovms_responses{{{labels % 'Stream'}}} 5\n" in text
    assert f"ovms_graph_error{{{labels % 'Unary'}}} 1\n" in text
    assert 'ovms_graph_processing_time_us_bucket{method="Stream",name="m/x",le="+Inf"} 1\n' in text


def test_http10_stream_ends_with_the_connection(program: Program) -> None:
    """nginx speaks HTTP/1.0 to its upstreams unless told otherwise."""
    body = json.dumps(chat(stream=True)).encode()
    with socket.create_connection(("127.0.0.1", program.port)) as client:
        client.sendall(
            b"POST %b HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
        )
        with client.makefile("rb") as reader:
            head, _, rest = reader.read().partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert rest.endswith(b"data: [DONE]\n\n")


def test_chunked_body_and_kept_connection(program: Program) -> None:
    connection = program.connect()
    with contextlib.closing(connection):
        for _ in range(2):
            parts = iter([json.dumps(chat()).encode()[:20], json.dumps(chat()).encode()[20:]])
            connection.request(
                "POST", CHAT, body=parts, encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
            )
            response = connection.getresponse()
            assert (response.status, b"chat.completion" in response.read()) == (200, True)


def test_disconnect_cancels_the_generation(start: Start) -> None:
    program = start_graph(start, OVMS_STANDIN_TPOT_MS="60000")
    connection = program.connect()
    with contextlib.closing(connection):
        connection.request("POST", CHAT, json.dumps(chat()))
        program.wait_until("/metrics", 'ovms_current_graphs{name="m/x"} 1')
    program.wait_until("/metrics", 'ovms_current_graphs{name="m/x"} 0')


@pytest.mark.parametrize(
    ("workers", "environment", "running"),
    [
        pytest.param("4", {"OVMS_GRAPH_QUEUE_OFF": "1"}, 3, id="one worker less than given"),
        pytest.param("2", {}, 1, id="graph queue does not raise it"),
    ],
)
def test_requests_beyond_the_workers_wait(
    start: Start, tmp_path: Path, workers: str, environment: dict[str, str], running: int
) -> None:
    fault = tmp_path / "fault"
    fault.write_text("wedge", encoding="utf-8")
    program = start_graph(start, "--rest_workers", workers, OVMS_STANDIN_FAULTS=str(fault), **environment)
    with ThreadPoolExecutor(12) as pool:
        replies = [pool.submit(program.ask, "POST", CHAT, chat()) for _ in range(12)]
        program.wait_until("/metrics", f'ovms_current_graphs{{name="m/x"}} {running}')
        assert not any(reply.done() for reply in replies)
        # Wedged, and yet everything says that all is well.
        assert '"AVAILABLE"' in program.get("/v1/config").text
        assert program.get("/v2/models/m%2Fx/ready").status == 200
        fault.unlink()
        assert {reply.result().status for reply in replies} == {200}


def read_cpu_sec(pid: int) -> float:
    """Of all threads: fields 14 and 15 of proc_pid_stat(5), after the name in brackets."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_one_that_burns_uses_cpu_time_while_it_generates(start: Start) -> None:
    program = start_graph(start, OVMS_STANDIN_TPOT_MS="60000", OVMS_STANDIN_BURN="1")
    connection = program.connect()
    with contextlib.closing(connection):
        connection.request("POST", CHAT, json.dumps(chat()))
        program.wait_until("/metrics", 'ovms_current_graphs{name="m/x"} 1')
        used = read_cpu_sec(program.pid)
        # One that only waits takes minutes of these questions for as much.
        for _ in range(200):
            program.get("/v1/config")
            if read_cpu_sec(program.pid) > used + 1.0:
                break
            time.sleep(0.05)  # CPU time is a counter, without an event
        assert read_cpu_sec(program.pid) > used + 1.0


def test_burst_far_beyond_the_workers_is_served(start: Start) -> None:
    program = start_graph(start, "--rest_workers", "16", OVMS_GRAPH_QUEUE_OFF="1", OVMS_STANDIN_TPOT_MS="1")
    body = json.dumps(chat()).encode()
    request = b"POST %b HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (
        CHAT.encode(),
        len(body),
        body,
    )
    answers: list[bytes] = []
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(_connected(program)) for _ in range(400)]
        for client in clients:
            client.sendall(request)
        answers = [_read_all(client) for client in clients]
    assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}


def _connected(program: Program) -> socket.socket:
    return socket.create_connection(("127.0.0.1", program.port))


def _read_all(client: socket.socket) -> bytes:
    with client.makefile("rb") as reader:
        return reader.read()


def test_first_inference_pays_for_the_load(start: Start) -> None:
    """AVAILABLE comes first; a second request waits for the same warming."""
    program = start_graph(start, OVMS_STANDIN_FIRST_MS="300")
    order: list[str] = []
    first = threading.Thread(target=lambda: order.append(str(program.ask("POST", CHAT, chat()).status)))
    first.start()
    program.wait_until("/metrics", 'ovms_current_graphs{name="m/x"} 1')
    assert not order
    first.join()
    assert order == ["200"]


def test_error_storm(start: Start, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    program = start_graph(start, OVMS_STANDIN_FAULTS=str(fault))
    assert program.ask("POST", CHAT, chat()).status == 200
    fault.write_text("errors\n", encoding="utf-8")
    reply = program.ask("POST", CHAT, chat())
    assert reply.status == 400
    assert "CL_OUT_OF_RESOURCES" in reply.json()["error"]
    assert '"AVAILABLE"' in program.get("/v1/config").text


def test_crash_ends_with_one(start: Start, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("crash", encoding="utf-8")
    program = start_graph(start, OVMS_STANDIN_FAULTS=str(fault))
    with pytest.raises(OSError, match=r"reset|without response|closed"):
        program.ask("POST", CHAT, chat())
    assert program.wait() == 1


def test_poison_harms_at_one_prompt_only(start: Start, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("poison", encoding="utf-8")
    program = start_graph(start, OVMS_STANDIN_FAULTS=str(fault))
    path, body = "/v3/completions", {"model": "m/x", "prompt": "Tell me", "max_tokens": 1}
    assert program.ask("POST", path, body).status == 200
    with pytest.raises(OSError, match=r"reset|without response|closed"):
        program.ask("POST", path, {**body, "prompt": "poison"})
    assert program.wait() == 1
