# SPDX-License-Identifier: Apache-2.0
"""The verb that measures: what it refuses, what it says, and how it ends."""

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_lab import MODEL, Caller, Front, Script, good, serving, text
from ctl_lab import CTL, Ctl, FakeAgent, instance, status

from ovms_scaler.ctl.bench_config import name_sides

Call = Callable[..., Any]
Process = subprocess.Popen[str]
SMALL = ("--num-prompts", "8", "--max-concurrency", "2", "--output-len", "2", "--workers", "1")


class Threaded:
    """A front in a thread of its own, as the verb has an event loop of its own, too."""

    def __init__(self) -> None:
        self.front = Front()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._ready.wait()

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with serving() as self.front:
            self._ready.set()
            await self._over.wait()

    def close(self) -> None:
        assert self._loop is not None
        assert self._over is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()


@pytest.fixture
def front() -> Iterator[Front]:
    threaded = Threaded()
    yield threaded.front
    threaded.close()


def endpoint(front: Front, **changes: object) -> dict[str, object]:
    usual = {"upstream": "chat", "serves": MODEL, "url": front.url, "needs_api_key": False}
    return usual | changes


def told(agent: FakeAgent, *endpoints: dict[str, object], **changes: object) -> FakeAgent:
    """An agent whose front this is."""
    document = status(instance(upstream="chat"), observed_sec=time.monotonic(), **changes)
    document["proxy"] = {"generation": "00c0ffee00c0ffee", "endpoints": list(endpoints)}
    agent.say(document, path="/v1/status")
    agent.say({"at": 1.0, "window_sec": 10.0}, path="/v1/measures")
    return agent


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--num-prompts", "0"], "num-prompts"),
        (["--request-rate", "0"], "request-rate"),
        (["--request-rate", "nan"], "'nan' is not a number"),
        (["--timeout", "nan"], "'nan' is not a number"),
        (["--temperature", "nan"], "'nan' is not a number"),
        (["--input-len", "40-14"], "--input-len: a length must be from 1"),
        (["--dataset-path", "x", "--input-len", "5"], "--input-len is of synthetic prompts"),
        (["--scale", "1-4"], "--scale: numbers of instances must be like 1,2,4"),
        (["--scale", "1", "--url", "http://x/v3"], "not with --url"),
        (["--against-whole", "--allow-outage"], "--against-whole goes with --scale"),
        (["--scale", "1", "--against-whole"], "give --allow-outage too"),
        (["--compare", "a", "b"], "give --allow-outage too"),
        (["--compare", "a", "b", "--scale", "1", "--allow-outage"], "not together"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(arguments: list[str], said: str, ctl: Ctl) -> None:
    refused = ctl("bench", *arguments)
    assert (refused.status, refused.out) == (2, "")
    assert said in refused.err


def test_the_agents_own_front_is_measured(front: Front, agent: FakeAgent, ctl: Ctl, tmp_path: Path) -> None:
    told(agent, endpoint(front))
    html = tmp_path / "report.html"
    measured = ctl("bench", *SMALL, "--socket", agent.socket, "--html", html)
    assert (measured.status, measured.err) == (0, f"report: {html}\n")
    lines = measured.out.splitlines()
    assert lines[0] == f"{MODEL} at {front.url}"
    # As vLLM's benchmark prints it.
    assert "============ Serving Benchmark Result ============" in lines
    assert "Successful requests:                     8" in lines
    assert "Total generated tokens:                  16" in lines
    assert "-----Time per Output Token (excl. 1st token)------" in lines
    assert html.read_text().startswith("<!DOCTYPE html>")
    # Two to warm up.
    assert len(front.bodies) == 10


def test_a_report_that_cannot_be_written_is_told_before_anything_is_measured(
    front: Front, ctl: Ctl, tmp_path: Path
) -> None:
    page = tmp_path / "nowhere" / "report.html"
    refused = ctl("bench", *SMALL, "--url", front.url, "--socket", "/nowhere", "--html", page)
    assert (refused.status, refused.out) == (1, "")
    assert "No such file or directory" in refused.err
    assert front.bodies == []


def test_a_report_that_cannot_be_written_at_the_end_is_shown_all_the_same(front: Front, ctl: Ctl) -> None:
    measured = ctl("bench", *SMALL, "--url", front.url, "--socket", "/nowhere", "--html", "/dev/full")
    assert measured.status == 1
    assert "Successful requests:                     8" in measured.out.splitlines()
    assert "cannot write /dev/full: No space left on device" in measured.err
    assert "hint: " in measured.err


def test_an_interrupt_counts_for_more_than_a_page_that_cannot_be_written(front: Front) -> None:
    async def script(caller: Caller) -> None:
        if caller.number == 6:
            process.send_signal(signal.SIGINT)
        await good(caller)

    front.script = script
    arguments = (*SMALL, "--num-prompts", "5000", "--url", front.url, "--socket", "/nowhere")
    with begin(*arguments, "--html", "/dev/full") as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Successful requests:" in out
    assert "cannot write /dev/full" in err


@pytest.mark.parametrize("link", [False, True])
def test_nothing_is_left_where_a_report_was_to_be(
    front: Front, ctl: Ctl, tmp_path: Path, *, link: bool
) -> None:
    page = tmp_path / "report.html"
    if link:
        page.symlink_to("elsewhere.html")
    front.gets["/v3/models"] = (503, {})
    refused = ctl("bench", *SMALL, "--url", front.url, "--socket", "/nowhere", "--html", page)
    assert refused.status == 1
    assert list(tmp_path.iterdir()) == [page] * link


def test_a_report_of_before_stays_until_there_is_another(front: Front, ctl: Ctl, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("before")
    arguments = (*SMALL, "--url", front.url, "--socket", "/nowhere", "--html", page)
    usual = front.gets["/v3/models"]
    front.gets["/v3/models"] = (503, {})
    ctl("bench", *arguments)
    assert page.read_text() == "before"
    front.gets["/v3/models"] = usual
    assert ctl("bench", *arguments).status == 0
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_json_is_one_document(front: Front, ctl: Ctl) -> None:
    measured = ctl("bench", *SMALL, "--url", front.url, "--socket", "/nowhere", "--json", "--seed", "7")
    document = measured.json()
    assert measured.status == 0
    (measurement,) = document["measurements"]
    assert measurement["summary"]["successful_requests"] == 8
    assert measurement["summary"]["errors"] == []
    assert measurement["resources"]["missing"].startswith("cannot reach the agent")
    assert document["endpoint"] == {"url": front.url, "model": MODEL}
    assert document["load"]["seed"] == 7
    assert document["software"]["engine"] == "Engine 1"


def test_failed_requests_are_told_and_end_with_1(front: Front, ctl: Ctl) -> None:
    async def script(caller: Caller) -> None:
        if caller.number == 6:
            await caller.tell(503, {"error": {"message": "full", "code": "unavailable"}})
        elif caller.number == 7:
            await caller.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            await caller.send(text("one"))
            caller.reset()
        else:
            await good(caller)

    front.script = script
    measured = ctl("bench", *SMALL, "--url", front.url, "--socket", "/nowhere")
    assert measured.status == 1
    lines = measured.out.splitlines()
    assert "Successful requests:                     6" in lines
    assert "Failed requests:                         2" in lines
    assert "rejected: HTTP 503 (unavailable):        1" in lines
    assert "cut in mid-stream:                       1" in lines


def test_what_is_long_is_folded_on_a_screen(front: Front, ctl: Ctl) -> None:
    async def script(caller: Caller) -> None:
        if caller.number % 2:
            said = {"message": "no room for it " * 20 + "here", "code": "c" * 50}
            await caller.tell(503, {"error": said})
        else:
            await good(caller)

    front.script = script
    url = ("--url", front.url, "--socket", "/nowhere")
    measured = ctl("bench", *SMALL, *url, "--input-len", "10000-20000", "--shared-prefix", "10000")
    assert measured.status == 1
    lines = measured.out.splitlines()
    assert max(map(len, lines)) <= 80
    # What vLLM's benchmark prints, too, stays as it is.
    assert "Successful requests:                     4" in lines
    # Nothing of it is lost, and the rest of an example is below its beginning.
    assert measured.out.count("no room for") + measured.out.count("no\n  room for") >= 10
    assert any(line.startswith("  ") and line.endswith("here") for line in lines)


async def no_model(caller: Caller) -> None:
    await caller.tell(404, {"error": "Mediapipe graph definition with requested name is not found"})


async def html(caller: Caller) -> None:
    await caller.tell(200, "<html>", "text/html")


@pytest.mark.parametrize(
    ("script", "gets", "arguments", "said"),
    [
        (good, None, ["--model", "org/tiny2"], "no model 'org/tiny2' is served at "),
        (good, None, ["--model", "org/tiny2"], "hint: did you mean --model org/tiny?"),
        (good, {"data": []}, [], "no model is served at "),
        (good, {"data": [{"id": "a"}, {"id": "b"}]}, [], "choose one with --model: a, b"),
        (no_model, "?", ["--model", "x"], "HTTP 404: Mediapipe graph definition"),
        (html, "?", ["--model", "x"], "the answer is text/html, not text/event-stream"),
        (good, "?", [], "does not say which models it serves (HTTP 404)"),
        (good, "?", [], "hint: the URL ends with /v3 for OVMS"),
        (good, 503, [], "nobody can say which models are served\n  hint: ovms-scalerctl status"),
    ],
)
def test_a_front_that_cannot_be_measured_is_told(
    script: Script, gets: object, arguments: list[str], said: str, front: Front, ctl: Ctl
) -> None:
    front.script = script
    if gets is not None:
        status = gets if isinstance(gets, int) else 200 if isinstance(gets, dict) else 404
        front.gets["/v3/models"] = (status, gets)
    refused = ctl("bench", *SMALL, "--url", front.url, "--socket", "/nowhere", *arguments)
    assert (refused.status, refused.out) == (1, "")
    assert said in refused.err
    assert "hint: " in refused.err


def test_a_front_that_is_down_is_told(agent: FakeAgent, ctl: Ctl) -> None:
    told(agent, endpoint(Front(port=1)))
    refused = ctl("bench", *SMALL, "--socket", agent.socket)
    assert (refused.status, refused.out) == (1, "")
    assert "cannot measure http://127.0.0.1:1/v3: connection refused" in refused.err
    assert "hint: ovms-scalerctl status; systemctl status ovms-scaler-proxy" in refused.err


def test_without_an_agent_it_says_what_to_type(ctl: Ctl) -> None:
    refused = ctl("bench", "--socket", "/nowhere/control.sock")
    assert (refused.status, refused.out) == (3, "")
    assert "or name a front with --url" in refused.err


@pytest.mark.parametrize(
    ("endpoints", "arguments", "said"),
    [
        ((), (), "the configuration has no pool"),
        (
            ({}, {"upstream": "code", "serves": "org/code"}),
            (),
            "several models are served: org/code, org/tiny",
        ),
        (
            ({}, {"upstream": "code", "serves": "org/code"}),
            ("--model", "org/tinny"),
            "no model 'org/tinny' is served here\n  hint: did you mean --model org/tiny?",
        ),
        (({"needs_api_key": True},), (), "needs an API key"),
    ],
)
def test_what_the_agent_tells_of_its_front(
    endpoints: tuple[dict[str, object], ...],
    arguments: tuple[str, ...],
    said: str,
    agent: FakeAgent,
    ctl: Ctl,
) -> None:
    told(agent, *(endpoint(Front(port=1), **changes) for changes in endpoints))
    refused = ctl("bench", "--socket", agent.socket, *arguments)
    assert refused.status == 1
    assert said in refused.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read "),
        (b"", " is empty"),
        (b"[]", " has no entry"),
        (b'[{"conversations": [', " is not JSON: line 1, entry 1: "),
        (b'[{"id": 1}]', "of 1 1 no conversations"),
        (b"\xff\xfe", " is not UTF-8"),
    ],
)
def test_a_dataset_that_is_none_is_told(content: bytes | None, said: str, ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    if content is not None:
        file.write_bytes(content)
    refused = ctl("bench", "--url", "http://127.0.0.1:1/v3", "--socket", "/nowhere", "--dataset-path", file)
    assert (refused.status, refused.out) == (1, "")
    assert said in refused.err
    assert "hint: " in refused.err


def test_conversations_are_asked(front: Front, ctl: Ctl, tmp_path: Path) -> None:
    turns = [{"value": "What is the answer to it?"}, {"value": "It is 42, as you know very well."}]
    file = tmp_path / "data.json"
    # As a file from Windows begins.
    file.write_text("\ufeff" + json.dumps([{"conversations": turns}]), encoding="utf-8")
    small = ("--num-prompts", "3", "--max-concurrency", "1", "--num-warmups", "1", "--workers", "1")
    measured = ctl("bench", *small, "--url", front.url, "--socket", "/nowhere", "--dataset-path", file)
    assert measured.status == 0
    body = front.bodies[-1]
    assert body["messages"][0]["content"].endswith(": What is the answer to it?")
    assert body["max_tokens"] == 8
    assert "ignore_eos" not in body


def test_a_key_is_sent_from_its_file(front: Front, ctl: Ctl, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("\n")
    refused = ctl("bench", "--url", front.url, "--socket", "/nowhere", "--api-key-file", key)
    assert refused.status == 1
    assert "has no API key" in refused.err


def test_scaling_is_refused_while_the_agent_is_paused(front: Front, agent: FakeAgent, ctl: Ctl) -> None:
    told(agent, endpoint(front), orders={"paused_since": 1.0, "drained": {}})
    refused = ctl("bench", *SMALL, "--scale", "1", "--socket", agent.socket)
    assert refused.status == 1
    assert "the agent is paused\n  hint: ovms-scalerctl resume" in refused.err


def test_configurations_are_checked_before_anything_is_changed(
    front: Front, agent: FakeAgent, ctl: Ctl, config: Path
) -> None:
    told(agent, endpoint(front), config={"file": str(config), "error": ""})
    wrong = config.with_name("wrong.toml")
    wrong.write_text('[[pool]]\nname = "chat"\nmodle_path = "/x"\n')
    before = config.read_bytes()
    refused = ctl("bench", *SMALL, "--compare", config, wrong, "--allow-outage", "--socket", agent.socket)
    assert refused.status == 1
    assert f"{wrong}: pool[0].modle_path" in refused.err
    assert "bench-check" not in refused.err
    assert config.read_bytes() == before
    assert sorted(path.name for path in config.parent.iterdir()) == ["config.toml", "wrong.toml"]
    assert not [request for request in agent.requests if request.startswith("POST")]


def test_a_url_that_is_none_is_told(ctl: Ctl) -> None:
    refused = ctl("bench", "--url", "http://[::1/v3", "--socket", "/nowhere")
    assert refused.status == 1
    assert "cannot use the URL 'http://[::1/v3'" in refused.err


def test_a_configuration_that_is_not_in_force_is_not_put_in_force(
    front: Front, agent: FakeAgent, ctl: Ctl, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(agent, endpoint(front), config={"file": str(config), "error": ""})
    monkeypatch.setattr("ovms_scaler.releases.releases.is_taken", lambda _: False)
    refused = ctl("bench", *SMALL, "--compare", config, config, "--allow-outage", "--socket", agent.socket)
    assert refused.status == 1
    assert f"{config} has changed since the agent took it" in refused.err
    assert not [request for request in agent.requests if request.startswith("POST")]


def test_a_file_that_is_no_toml_has_no_whole_one(
    front: Front, agent: FakeAgent, ctl: Ctl, config: Path
) -> None:
    told(agent, endpoint(front), config={"file": str(config), "error": ""})
    config.write_text("[[pool]\n")
    arguments = ("--scale", "1", "--against-whole", "--allow-outage", "--socket", agent.socket)
    refused = ctl("bench", *SMALL, *arguments)
    assert refused.status == 1
    assert str(config) in refused.err


@pytest.mark.parametrize(
    ("one", "two", "names"),
    [
        ("/a/x.toml", "/b/y.toml", ("x.toml", "y.toml")),
        ("/a/x.toml", "/b/x.toml", ("/a/x.toml", "/b/x.toml")),
        ("x.toml", "x.toml", ("x.toml, the first", "x.toml, the second")),
    ],
)
def test_sides_can_be_told_apart(one: str, two: str, names: tuple[str, str]) -> None:
    assert name_sides(Path(one), Path(two)) == names


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_what_was_measured_before_an_interrupt_is_told(number: signal.Signals, front: Front) -> None:
    enough = threading.Event()

    async def script(caller: Caller) -> None:
        if caller.number < 7:
            await good(caller)
            return
        enough.set()
        await caller.writer.wait_closed()

    front.script = script
    small = ("--num-prompts", "50", "--max-concurrency", "2", "--num-warmups", "2", "--workers", "1")
    command = [*CTL, "bench", *small, "--url", front.url, "--json"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OVMS_SCALER_SOCKET": "/nowhere"},
        start_new_session=True,
    ) as process:
        assert enough.wait(30)
        # To the whole group, as a terminal does it.
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    (measurement,) = json.loads(out)["measurements"]
    summary = measurement["summary"]
    assert summary["is_interrupted"]
    assert (summary["successful_requests"], summary["failed_requests"]) == (5, 0)
    assert summary["unfinished_requests"] == 45


def begin(*arguments: object, stderr: int = subprocess.PIPE, before: tuple[str, ...] = ()) -> Process:
    return subprocess.Popen(
        [*before, *CTL, "bench", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


def test_a_hang_up_does_not_end_what_nohup_started(front: Front) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    async def script(caller: Caller) -> None:
        begun.set()
        await asyncio.to_thread(goes_on.wait, 30)
        await good(caller)

    front.script = script
    ignoring = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    with begin(*SMALL, "--url", front.url, "--socket", "/nowhere", before=ignoring) as process:
        assert begun.wait(30)
        process.send_signal(signal.SIGHUP)
        goes_on.set()
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Successful requests:                     8" in out


def test_a_terminal_that_goes_away_is_no_trouble(front: Front) -> None:
    enough = threading.Event()

    async def script(caller: Caller) -> None:
        if caller.number < 3:
            await good(caller)
            return
        enough.set()
        await caller.writer.wait_closed()

    front.script = script
    ours, theirs = os.openpty()
    arguments = (*SMALL, "--num-warmups", "1", "--url", front.url, "--socket", "/nowhere", "--json")
    with begin(*arguments, stderr=theirs) as process:
        os.close(theirs)
        assert enough.wait(30)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out)["is_interrupted"]


def test_what_stays_drained_is_told_also_when_nothing_was_measured(front: Front, agent: FakeAgent) -> None:
    told(agent, endpoint(front))
    document = json.loads(agent.answers["/v1/status"][1])
    document["instances"] = [instance(name, upstream="chat") for name in ("chat-numa0", "chat-numa1")]
    agent.say(document, path="/v1/status")
    order = {"accepted": True, "instances": ["chat-numa1"], "ordered_sec": 1.0}
    agent.say(order, path="/v1/drain")
    agent.say({"error": {"message": "no space left on device"}}, status=500, path="/v1/undrain")
    with begin(*SMALL, "--scale", "1", "--socket", agent.socket) as process:
        while "POST /v1/drain" not in agent.requests[:-1]:
            assert agent.asked.acquire(timeout=30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "interrupted before anything was measured" in err
    assert "not put back: chat-numa1 stays drained: no space left on device" in err
    assert "hint: ovms-scalerctl undrain chat-numa1" in err
