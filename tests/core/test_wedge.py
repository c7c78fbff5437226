# SPDX-License-Identifier: Apache-2.0
"""What is known of GPUs that hung: the count of attempts, and the note that outlives the agent."""

import json
from dataclasses import replace

import pytest

from ovms_scaler.core.wedge import (
    Wedge,
    note_failed,
    note_hang,
    note_recovered,
    parse_wedges,
    start_over,
    wedges_document,
)

A = "0000:03:00.0"
HANG = Wedge(methods=("rebind",), detail="guc timeout", at_sec=100.0)


def again(
    known: Wedge | None,
    *methods: str,
    now_sec: float = 200.0,
    window_sec: float = 600.0,
    detail: str = "more",
) -> Wedge:
    return note_hang(known, methods=methods, detail=detail, now_sec=now_sec, window_sec=window_sec)


@pytest.mark.parametrize(
    ("methods", "attempt", "method"),
    [
        ((), 1, "restart"),
        ((), 7, "restart"),
        (("none",), 1, "restart"),
        (("unknown",), 1, "restart"),
        (("rebind",), 1, "rebind"),
        (("rebind",), 3, "rebind"),
        (("rebind", "bus-reset", "cold-reset"), 2, "bus-reset"),
        (("rebind", "bus-reset", "cold-reset"), 3, "cold-reset"),
        (("rebind", "bus-reset", "cold-reset"), 4, "cold-reset"),
        (("vendor-specific",), 1, "vendor-specific"),
    ],
)
def test_method(methods: tuple[str, ...], attempt: int, method: str) -> None:
    assert replace(HANG, methods=methods, attempt=attempt).method == method


def test_first_hang() -> None:
    assert again(None, "rebind") == Wedge(methods=("rebind",), detail="more", at_sec=200.0)


def test_kernels_word_counts_more_than_a_coredump_whichever_is_first() -> None:
    dumped = again(None, detail="coredump", now_sec=100.0)
    assert (dumped.method, dumped.detail) == ("restart", "coredump")
    told = again(dumped, "rebind", detail="wedged")
    assert told == replace(dumped, methods=("rebind",), detail="wedged")
    assert again(told, detail="coredump") == told


def test_report_while_it_is_not_recovered_is_about_the_same_hang() -> None:
    failed = replace(HANG, attempt=3, error="did not help")
    told = replace(failed, methods=("bus-reset",), detail="more")
    assert again(failed, "bus-reset") == told
    assert again(failed, "bus-reset", now_sec=1e6) == told


def test_hang_soon_after_a_recovery_counts_on_and_a_later_one_from_the_start() -> None:
    recovered = note_recovered(replace(HANG, attempt=2, error="did not help"))
    assert (recovered.is_recovered, recovered.error, recovered.attempt) == (True, "", 2)
    assert again(recovered, "rebind", now_sec=700.0) == Wedge(
        methods=("rebind",), detail="more", at_sec=700.0, attempt=3
    )
    assert again(recovered, "rebind", now_sec=700.5).attempt == 1


def test_failed_attempt_is_counted_from_its_end() -> None:
    failed = note_failed(HANG, "did not help", now_sec=150.0)
    assert failed == replace(HANG, attempt=2, error="did not help", at_sec=150.0)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        pytest.param(HANG, HANG, id="not tried yet"),
        pytest.param(replace(HANG, attempt=9, error="did not help"), HANG, id="given up"),
        pytest.param(replace(HANG, is_recovered=True, attempt=2), None, id="recovered"),
        pytest.param(replace(HANG, methods=("vendor-specific",)), None, id="not ours to recover"),
        pytest.param(
            replace(HANG, methods=("rebind", "vendor-specific"), attempt=2),
            replace(HANG, methods=("rebind", "vendor-specific")),
            id="the first method is ours",
        ),
    ],
)
def test_start_over(known: Wedge, expected: Wedge | None) -> None:
    assert start_over(known) == expected


def test_note_comes_back() -> None:
    wedges = {
        A: HANG,
        "0000:04:00.0": Wedge(
            methods=("none", "x"), detail="ü", at_sec=0.5, attempt=4, is_recovered=True, error="e"
        ),
    }
    assert parse_wedges(json.loads(json.dumps(wedges_document(wedges)))) == wedges


GOOD = {"methods": ["rebind"], "at_sec": 100.0, "attempt": 2}


@pytest.mark.parametrize("document", [None, [], "text", 7, {}, {A: None}, {A: []}, {A: "x"}, {A: {}}])
def test_junk_is_nothing(document: object) -> None:
    assert parse_wedges(document) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("methods", "rebind"),
        ("methods", None),
        ("at_sec", "now"),
        ("at_sec", None),
        ("at_sec", float("nan")),
        ("at_sec", float("inf")),
        ("attempt", 1.5),
        ("attempt", "2"),
    ],
)
def test_entry_that_makes_no_sense_is_left_out_and_the_others_stay(name: str, value: object) -> None:
    document = {A: {**GOOD, name: value}, "0000:04:00.0": GOOD}
    assert parse_wedges(json.loads(json.dumps(document))).keys() == {"0000:04:00.0"}


def test_entry_that_makes_little_sense_is_taken_for_the_harmless() -> None:
    document = {A: {**GOOD, "methods": [1], "attempt": -3, "is_recovered": "yes", "detail": 5, "more": 1}}
    assert parse_wedges(document) == {A: Wedge(methods=("1",), detail="5", at_sec=100.0)}
