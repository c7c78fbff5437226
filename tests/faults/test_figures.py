# SPDX-License-Identifier: Apache-2.0
"""The figures of the fault table are those of what was seen."""

import math

import pytest

from faults import figures
from faults.answers import Outcome, judge
from faults.figures import Record, Request

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
    kind: str, outcome: Outcome, *, took: float = 0.2, instance: str = "", trouble: str = ""
) -> Request:
    return Request(
        kind=kind, began=10.0, ended=10.0 + took, outcome=outcome, instance=instance, trouble=trouble
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
