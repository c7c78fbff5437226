# SPDX-License-Identifier: Apache-2.0
"""Streams of chat completions, in whatever pieces they come."""

import json

import pytest
from bench_lab import DONE, event, text, usage
from hypothesis import given
from hypothesis import strategies as st

from ovms_scaler.bench.outcome import Kind
from ovms_scaler.bench.stream import MAX_EVENT_BYTES, Answer, Events, StreamError, parse_error

WHOLE = text("Hello") + text(" wörld\n") + usage(7, 5) + DONE


def read(data: bytes, *sizes: int) -> list[bytes]:
    events, found, at = Events(), [], 0
    for size in sizes:
        found += events.feed(data[at : at + size])
        at += size
    return found + events.feed(data[at:])


def take(*pieces: bytes) -> Answer:
    answer = Answer()
    for at, piece in enumerate(pieces):
        for one in Events().feed(piece):
            answer.take(one, float(at))
    return answer


@given(st.lists(st.integers(0, 40), max_size=30))
def test_pieces_do_not_matter(sizes: list[int]) -> None:
    assert read(WHOLE, *sizes) == read(WHOLE)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_comments_and_other_fields(end: bytes) -> None:
    lines = [b": ping", b"event: x", b"data: one", b"data:two", b"id: 7", b"", b"data: three", b"", b""]
    assert read(end.join(lines)) == [b"one\ntwo", b"three"]


def test_an_event_that_is_not_ended_is_none() -> None:
    assert read(b"data: one\n") == []


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(StreamError) as refused:
        Events().feed(b"x" * (MAX_EVENT_BYTES + 1))
    assert refused.value.failure.kind is Kind.nonsense


def test_tokens_are_those_of_usage_whatever_the_events() -> None:
    # Nine tokens, of which one event held seven.
    answer = take(text("a"), text("b c d e f g h"), text("i"), usage(30, 9), DONE)
    assert (answer.input_tokens, answer.generated_tokens) == (30, 9)
    assert answer.gaps_us == [1_000_000, 1_000_000]
    assert (answer.first_at, answer.last_at, answer.done_at) == (0.0, 2.0, 4.0)


def test_the_first_token_is_the_first_text() -> None:
    role = event({"choices": [{"delta": {"role": "assistant", "content": None}}]})
    empty = event({"choices": [{"delta": {"content": ""}}]})
    assert take(role, empty, text("a"), DONE).first_at == 2.0


@pytest.mark.parametrize("delta", [{"reasoning_content": "hm"}, {"tool_calls": [{"index": 0}]}])
def test_thoughts_and_calls_of_tools_are_text_too(delta: dict[str, object]) -> None:
    assert take(event({"choices": [{"delta": delta}]})).first_at == 0.0


def test_the_last_usage_counts() -> None:
    assert take(usage(3, 1), usage(3, 2), DONE).generated_tokens == 2


@pytest.mark.parametrize(
    "data", [b"hello", b"[1]", b"{", b'"text"', b"\xff\xfe", b"[" * 100_000], ids=lambda data: repr(data[:9])
)
def test_what_is_no_chunk_is_nonsense(data: bytes) -> None:
    with pytest.raises(StreamError) as refused:
        Answer().take(data, 0.0)
    assert refused.value.failure.kind is Kind.nonsense


@pytest.mark.parametrize(
    "chunk",
    [{}, {"choices": 1}, {"choices": [1, {"delta": 2}]}, {"usage": {"completion_tokens": -1}}, {"usage": 7}],
)
def test_odd_chunks_say_nothing(chunk: object) -> None:
    answer = take(event(chunk))
    assert (answer.first_at, answer.generated_tokens) == (None, None)


def test_an_error_within_the_stream() -> None:
    with pytest.raises(StreamError) as failed:
        take(text("a"), event({"error": {"message": "out of memory", "code": "oom"}}))
    failure = failed.value.failure
    assert (failure.kind, failure.code, failure.message) == (Kind.reported, "oom", "out of memory")


@pytest.mark.parametrize(
    "data",
    [
        b'event: error\ndata: {"message": "boom", "type": "server_error"}\n\n',
        b"event: error\ndata: boom\n\n",
        event({"object": "error", "message": "boom", "type": "server_error", "code": None}),
    ],
)
def test_errors_in_the_forms_of_other_servers(data: bytes) -> None:
    with pytest.raises(StreamError) as failed:
        take(text("a"), data)
    assert (failed.value.failure.kind, failed.value.failure.message) == (Kind.reported, "boom")


def test_only_the_event_that_is_named_error_is_one() -> None:
    with pytest.raises(StreamError):
        read(b"event: ping\ndata: 1\n\nevent: error\ndata: 2\n\n")
    assert read(b"event: error\n\ndata: 1\n\nevent: error\nevent: chunk\ndata: 2\n\n") == [b"1", b"2"]


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"error": {"message": "no", "type": "t", "code": "c"}}, ("no", "c")),
        ({"error": {"message": "no", "type": "t", "code": None}}, ("no", "t")),
        (
            {"error": "Mediapipe graph definition is not found"},
            ("Mediapipe graph definition is not found", ""),
        ),
        ({"object": "error", "message": "no", "type": "t", "code": 400}, ("no", "400")),
        ({"error": 7}, ("", "")),
        ([], ("", "")),
    ],
)
def test_errors_in_the_forms_of_openai_and_ovms(document: object, found: tuple[str, str]) -> None:
    assert parse_error(json.loads(json.dumps(document))) == found
