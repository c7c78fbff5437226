# SPDX-License-Identifier: Apache-2.0
"""The stand-in as it is built, with real OpenVINO GenAI and the tiny model; build.sh makes it."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from standin.program import LOADED, MODEL, MODEL_WITH_GRAPH, TESTS, Program, chat, free_port

pytestmark = pytest.mark.system

CHAT = "/v3/chat/completions"


def root() -> Path:
    """Where build.sh put the program."""
    return Path(os.environ.get("OVMS_STANDIN_ROOT", TESTS.parent / ".cache" / "ovms-standin"))


def start_built(*arguments: str, **environment: str) -> Program:
    lib = root() / "lib"
    paths = {"LD_LIBRARY_PATH": str(lib), "PYTHONPATH": str(lib / "python")}
    port = free_port()
    command = [str(root() / "bin" / "ovms"), "--rest_port", str(port), "--rest_bind_address", "127.0.0.1"]
    settings = {"PATH": os.environ["PATH"], "OVMS_GRAPH_QUEUE_OFF": "1", **paths, **environment}
    return Program([*command, "--model_name", "m/x", *arguments], settings, port=port)


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    running = start_built("--model_path", str(MODEL_WITH_GRAPH), "--rest_workers", "32", "--metrics_enable")
    with contextlib.closing(running):
        running.wait_for_log(LOADED)
        yield running


def test_log_names_the_engine(program: Program) -> None:
    assert any("Stand-in engine: OpenVINO GenAI" in line for line in program.log)


def test_openai_client_unary_and_streamed_agree(program: Program) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{program.port}/v3", api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["m/x"]
        whole = client.chat.completions.create(
            model="m/x",
            messages=[{"role": "user", "content": "What is OpenVINO?"}],
            max_tokens=40,
            temperature=0,
        )
        chunks = list(
            client.chat.completions.create(
                model="m/x",
                messages=[{"role": "user", "content": "What is OpenVINO?"}],
                max_completion_tokens=40,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(text) > 20
    assert whole.usage == chunks[-1].usage
    assert chunks[-1].usage is not None
    # Where a made-up model ends depends on the processor's rounding.
    assert 0 < chunks[-1].usage.completion_tokens <= 40


def test_seed_decides_a_sampled_answer(program: Program) -> None:
    def text(seed: int) -> object:
        body = {"model": "m/x", "prompt": "One", "max_tokens": 20, "ignore_eos": True, "seed": seed}
        return program.ask("POST", "/v3/completions", body).json()["choices"][0]["text"]

    assert text(1) == text(1) != text(2)


def test_stop_string_ends_and_is_left_out(program: Program) -> None:
    body = {"model": "m/x", "prompt": "One", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    whole = program.ask("POST", "/v3/completions", body).json()["choices"][0]["text"]
    stop = whole[10:13]
    choice = program.ask("POST", "/v3/completions", {**body, "stop": [stop]}).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert stop not in choice["text"]
    assert whole.startswith(choice["text"])


def test_prompt_beyond_the_context_is_refused(program: Program) -> None:
    reply = program.ask("POST", "/v3/completions", {"model": "m/x", "prompt": "word " * 5000})
    assert reply.status == 400
    assert "exceeds model max length: 2048" in reply.json()["error"]


def test_sampling_that_genai_refuses_is_a_client_error(program: Program) -> None:
    reply = program.ask("POST", CHAT, chat(top_p=0))
    assert reply.status == 400
    assert "top_p" in reply.json()["error"]
    assert program.ask("POST", CHAT, chat()).status == 200


def test_status_answers_while_hundreds_generate(program: Program) -> None:
    body = chat(max_tokens=64, ignore_eos=True)
    with ThreadPoolExecutor(200) as pool:
        replies = [pool.submit(program.ask, "POST", CHAT, body) for _ in range(200)]
        program.wait_until("/metrics", 'ovms_current_graphs{name="m/x"} 31')
        started = time.monotonic()
        assert program.get("/v1/config").status == 200
        assert time.monotonic() - started < 2.0
        assert {reply.result().json()["usage"]["completion_tokens"] for reply in replies} == {64}


def test_disconnect_frees_the_engine(program: Program) -> None:
    connection = program.connect()
    with contextlib.closing(connection):
        connection.request("POST", CHAT, json.dumps(chat(max_tokens=1900, ignore_eos=True, stream=True)))
        assert connection.getresponse().readline().startswith(b"data: ")
    program.wait_until("/metrics", 'ovms_current_graphs{name="m/x"} 0')


@pytest.mark.parametrize(
    ("plugin_config", "message"),
    [
        pytest.param(
            '{"NO_SUCH_PROPERTY": 1}', "Unsupported property NO_SUCH_PROPERTY", id="unknown property"
        ),
        pytest.param('{"INFERENCE_NUM_THREADS": "many"}', "INFERENCE_NUM_THREADS", id="threads is a word"),
    ],
)
def test_property_that_openvino_refuses_fails_the_start(plugin_config: str, message: str) -> None:
    running = start_built(
        "--model_path", str(MODEL), "--task", "text_generation", "--plugin_config", plugin_config
    )
    with contextlib.closing(running):
        assert running.wait() == 1
        assert message in "".join(running.log)


def test_thread_properties_are_taken() -> None:
    """GenAI takes sampler_num_threads for itself and passes the rest on to the plugin."""
    properties = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": "1",
        "sampler_num_threads": 1,
        "ENABLE_CPU_PINNING": False,
    }
    running = start_built(
        "--model_path", str(MODEL), "--task", "text_generation", "--plugin_config", json.dumps(properties)
    )
    with contextlib.closing(running):
        running.wait_for_log(LOADED)
        assert running.ask("POST", CHAT, chat()).status == 200


def test_wedge_holds_generations_and_lets_go(tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("wedge", encoding="utf-8")
    running = start_built(
        "--model_path", str(MODEL), "--metrics_enable", "--rest_workers", "4", OVMS_STANDIN_FAULTS=str(fault)
    )
    with contextlib.closing(running), ThreadPoolExecutor(1) as pool:
        running.wait_for_log(LOADED)
        reply = pool.submit(running.ask, "POST", CHAT, chat())
        running.wait_until("/metrics", 'ovms_current_graphs{name="m/x"} 1')
        assert running.get("/v2/models/m%2Fx/ready").status == 200
        assert not reply.done()
        fault.unlink()
        assert reply.result().status == 200


def test_missing_library_path_is_the_loader_error() -> None:
    running = start_built("--version", LD_LIBRARY_PATH="/nowhere")
    with contextlib.closing(running):
        assert running.wait() == 127
        assert "error while loading shared libraries" in "".join(running.log)
