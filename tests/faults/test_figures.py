# SPDX-License-Identifier: Apache-2.0
"""The figures of the fault table are those of what was seen, and faults are as long as their bars say."""

import math
import os
import subprocess
import tomllib

import pytest

from faults import figures, memory, table
from faults.answers import Outcome, judge
from faults.catalogue import FAULTS, Fault, at_length
from faults.figures import Record, Request
from faults.planned import NEW_MODEL, SAME_MODEL
from faults.rig import Shape, render_config
from faults.run import Options, Result, compute_answer_sec

UNARY = b'{"choices": []}'
STREAM = b"data: {}\n\ndata: [DONE]\n\n"


def answer(body: bytes, *, status: str = "200 OK", fields: str = "X-OVMS-Instance: chat-numa0") -> bytes:
    return f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


@pytest.mark.parametrize(
    ("data", "kind", "outcome"),
    [
        (b"", "unary", Outcome.lost),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "unary", Outcome.lost),
        (answer(UNARY, fields=f"Content-Length: {len(UNARY)}"), "unary", Outcome.answered),
        (answer(UNARY[:-1], fields=f"Content-Length: {len(UNARY)}"), "unary", Outcome.cut),
        (answer(UNARY), "unary", Outcome.answered),
        (answer(UNARY[:-1]), "unary", Outcome.cut),
        (answer(chunked(STREAM, b""), fields="Transfer-Encoding: chunked"), "stream", Outcome.answered),
        (answer(chunked(STREAM), fields="Transfer-Encoding: chunked"), "stream", Outcome.cut),
        (answer(chunked(STREAM[:10], b""), fields="Transfer-Encoding: chunked"), "stream", Outcome.cut),
        (answer(b"<html>", status="502 Bad Gateway"), "stream", Outcome.wrong),
    ],
)
def test_an_answer_is_judged_by_its_head_and_its_end(data: bytes, kind: str, outcome: Outcome) -> None:
    assert judge(data, is_streamed=kind == "stream").outcome is outcome


def test_who_answered_and_whether_an_error_is_json_is_told() -> None:
    assert judge(answer(UNARY), is_streamed=False).instance == "chat-numa0"
    assert judge(answer(b'{"error": {}}', status="503 Busy"), is_streamed=False).is_json
    assert not judge(answer(b"<html>", status="503 Busy"), is_streamed=False).is_json


def request(
    kind: str,
    outcome: Outcome,
    *,
    took: float = 0.2,
    status: int = 0,
    instance: str = "",
    trouble: str = "",
) -> Request:
    return Request(
        kind=kind,
        began=10.0,
        ended=10.0 + took,
        outcome=outcome,
        status=status,
        instance=instance,
        trouble=trouble,
    )


def record(
    *,
    requests: list[Request] | None = None,
    posts: list[tuple[float, int]] | None = None,
    changes: list[tuple[float, int, bool]] | None = None,
) -> Record:
    ready = [(0.0, 8003, True), (0.0, 8004, True)]
    return Record(requests=requests or [], posts=posts or [], changes=changes or ready, ended=20.0)


def test_requests_are_counted_by_what_became_of_them() -> None:
    requests = [
        request("unary", Outcome.answered),
        request("stream", Outcome.answered, took=1.5),
        request("stream", Outcome.cut, instance="a"),
        request("unary", Outcome.lost, trouble="TimeoutError"),
        request("stream", Outcome.lost),
        request("unary", Outcome.wrong),
        request("poison", Outcome.lost, took=9.0),
    ]
    found = figures.compute(record(requests=requests), fault_at=3.0, victims=())
    assert (found.sent, found.answered, found.cut) == (6, 2, 1)
    assert (found.lost_unary, found.lost_streamed, found.wrong, found.timed_out) == (1, 1, 1, 1)
    assert found.slowest_sec == pytest.approx(1.5)
    assert found.cut_by == {"a": 1}
    assert found.odd == {"poison lost": 1}
    assert (found.last_request_sec, found.full_strength_sec) == (None, None)


def test_an_engine_that_left_and_came_back() -> None:
    changes = [(0.0, 8003, True), (3.1, 8003, False), (6.0, 8003, True), (0.0, 8004, True)]
    posts = [(2.9, 8003), (3.5, 8003), (4.0, 8004), (6.5, 8003), (7.0, 8003)]
    seen = record(changes=changes, posts=posts)
    found = figures.compute(seen, fault_at=3.0, victims=(8003,))
    assert found.last_request_sec == pytest.approx(0.5)
    assert found.full_strength_sec == pytest.approx(3.5)
    assert figures.posts_while_not_ready(seen, 3.0, 8003) == 1
    assert figures.posts_while_not_ready(seen, 3.0, 8003, after=3.6) == 0


def test_an_engine_that_is_asked_to_the_end_and_never_itself_again() -> None:
    posts = [(when / 2, 8003) for when in range(40)]
    found = figures.compute(record(posts=posts), fault_at=3.0, victims=(8003,))
    assert found.last_request_sec == math.inf
    assert found.full_strength_sec == math.inf


def test_an_engine_that_nobody_asks_any_more() -> None:
    found = figures.compute(record(posts=[(1.0, 8003)]), fault_at=3.0, victims=(8003,))
    assert found.last_request_sec == 0.0
    assert found.full_strength_sec == math.inf


def test_refusals_are_told_by_status_with_the_slowest() -> None:
    requests = [
        request("unary", Outcome.wrong, status=503, took=0.002),
        request("stream", Outcome.wrong, status=503, took=0.004),
        request("unary", Outcome.wrong, status=503, took=0.030),
        request("unary", Outcome.wrong, status=502, took=0.2),
    ]
    seen = record(requests=requests, posts=[(1.0, 8004), (2.0, 8003), (3.0, 8004)])
    found = figures.compute(seen, fault_at=3.0, victims=())
    assert list(found.statuses) == ["502", "503"]
    assert found.statuses["503"].count == 3
    assert found.statuses["503"].median_ms == pytest.approx(4)
    assert found.statuses["503"].slowest_ms == pytest.approx(30)
    assert found.posts == {"8003": 1, "8004": 2}
    row = Result(figures=found, record=seen, fault_at=3.0, listening_at=0.0, victims=(), notes=("a note",))
    text = table.render_markdown({("kill", "ovms-scaler"): row})
    assert "1 x 502 (median after 200 ms, slowest 200 ms)" in text
    assert "3 x 503 (median after 4 ms, slowest 30 ms); a note" in text


@pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda fault: fault.name)
def test_a_fault_at_length_is_never_less(fault: Fault) -> None:
    options = Options()
    longer, extent = at_length(fault, options)
    assert longer.happen is fault.happen
    assert longer.engines.token_ms >= fault.engines.token_ms
    assert extent.seconds >= options.seconds
    assert extent.loading_sec >= options.loading_sec
    assert extent.slow_sec >= options.slow_sec
    assert extent.times >= options.times
    # The last seconds show who serves again: systemd waits two before it starts an engine.
    if fault.bar.loading_sec:
        assert extent.seconds > options.fault_sec + 2 + fault.bar.loading_sec
    if fault.bar.slow_sec:
        assert extent.seconds > options.fault_sec + fault.bar.slow_sec


def test_answers_take_as_long_as_their_tokens() -> None:
    assert compute_answer_sec(Shape()) == pytest.approx(0.2)
    longer, _ = at_length(FAULTS["reloads"], Options())
    assert compute_answer_sec(longer.engines) == pytest.approx(30, rel=0.1)


def test_changes_and_rules_of_health_are_in_the_configuration() -> None:
    shape = Shape(instances=1, health="stall_sec = 10")
    flags = tomllib.loads(render_config(shape, flags=SAME_MODEL.flags))
    assert flags["pool"][0]["ovms"]["flags"] == ["--log_level", SAME_MODEL.word]
    assert flags["pool"][0]["instances_per_node"] == 1
    assert flags["health"] == {"stall_sec": 10}
    model = tomllib.loads(render_config(Shape(), model_path=NEW_MODEL.model_path))
    assert model["pool"][0]["model_path"] == NEW_MODEL.word
    assert "health" not in model


def test_a_zombie_is_dead() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        assert not memory.is_dead(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert memory.is_dead(process.pid)
    assert memory.is_dead(process.pid)
