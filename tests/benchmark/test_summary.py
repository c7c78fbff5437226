# SPDX-License-Identifier: Apache-2.0
"""The rows of the report from outcomes that were made by hand."""

from dataclasses import replace
from typing import Any

import pytest
from bench_lab import outcome, run

from ovms_scaler.bench.outcome import Failure, Kind, Outcome, outcome_document, parse_outcome
from ovms_scaler.bench.run import WorkerReport
from ovms_scaler.bench.series import draw_series, ecdf
from ovms_scaler.bench.summary import list_notes, summarise

CUT = Failure(kind=Kind.cut, message="ended")


def failed(failure: Failure = CUT, **changes: Any) -> Outcome:
    return outcome(failure=failure, **changes)


def test_the_figures_of_two_requests() -> None:
    slow = outcome(
        1, due_sec=0.0, first_sec=2.0, last_sec=8.0, end_sec=9.0, input_tokens=30, generated_tokens=7
    )
    found = summarise(run(outcome(), slow, duration_sec=10.0))
    assert (found.successful_requests, found.failed_requests) == (2, 0)
    assert (found.input_tokens, found.generated_tokens) == (40, 12)
    assert (found.requests_per_sec, found.output_tokens_per_sec, found.total_tokens_per_sec) == (
        0.2,
        1.2,
        5.2,
    )
    assert found.ttft_sec is not None
    assert (found.ttft_sec.mean, found.ttft_sec.median) == (1.25, 1.25)
    assert found.tpot_sec is not None
    # (2.5 - 1.5) / 4 and (8 - 2) / 6
    assert found.tpot_sec.mean == pytest.approx(0.625)
    assert found.latency_sec is not None
    assert found.latency_sec.max == 9.0


def test_latency_counts_from_when_it_was_due() -> None:
    waited = outcome(due_sec=0.0, sent_sec=50.0, first_sec=51.0, last_sec=52.0, end_sec=52.0)
    assert (waited.ttft_sec, waited.latency_sec) == (51.0, 52.0)


def test_what_failed_is_in_no_latency_and_no_throughput() -> None:
    alone = summarise(run(outcome()))
    with_failed = summarise(run(outcome(), failed(end_sec=500.0, generated_tokens=1000, gaps_us=(10**9,))))
    assert with_failed.failed_requests == 1
    same = replace(with_failed, failed_requests=0, errors=())
    assert same == alone


def test_nothing_but_failures_has_no_latency() -> None:
    found = summarise(run(failed()))
    assert (found.ttft_sec, found.latency_sec, found.tokens_per_event) == (None, None, None)
    assert found.output_tokens_per_sec == 0.0


def test_errors_by_how_they_failed() -> None:
    full = Failure(kind=Kind.status, status=503, code="unavailable", message="full")
    found = summarise(
        run(
            failed(end_sec=4.0, instance="chat-numa1"),
            failed(end_sec=3.0),
            failed(end_sec=5.0),
            failed(full, end_sec=1.0, instance=""),
        )
    )
    rows = [(row.label, row.count, row.first_sec, row.instances) for row in found.errors]
    assert rows == [
        ("cut in mid-stream", 3, 3.0, {"chat-numa0": 2, "chat-numa1": 1}),
        ("rejected: HTTP 503 (unavailable)", 1, 1.0, {}),
    ]


def test_what_a_server_says_of_an_error_has_bounds_and_steers_no_terminal() -> None:
    said = "one\ntwo\u202e" + "m" * 200_000
    failure = Failure(kind=Kind.reported, code="\x1b[31m" + "c" * 2000, message=said)
    assert failure.label.startswith("error within the stream (\\x1b[31mccc")
    assert len(failure.label) < 100
    assert failure.message.startswith("one\\ntwo\\u202emmm")
    assert failure.message.endswith("m...")
    assert len(failure.message) < 600
    assert Failure(kind=Kind.cut, message=failure.message).message == failure.message


def test_a_code_of_its_own_for_each_request_is_no_row_of_its_own() -> None:
    several = [failed(Failure(kind=Kind.status, status=400, code=f"req-{number}")) for number in range(40)]
    busy = [failed(Failure(kind=Kind.status, status=400, code="busy"))] * 3
    done = run(*several, *busy)
    rows = [(row.label, row.count) for row in summarise(done).errors]
    assert rows[:2] == [("HTTP 400 (36 other codes)", 36), ("HTTP 400 (busy)", 3)]
    assert len(rows) == 6
    assert set(draw_series(done)["over_time"]["errors"]) == {label for label, _ in rows}


def test_an_answer_of_one_token_has_no_time_per_further_token() -> None:
    found = summarise(run(outcome(generated_tokens=1, gaps_us=(), last_sec=1.5)))
    assert found.tpot_sec is None
    assert found.ttft_sec is not None


def test_several_tokens_in_an_event_are_told() -> None:
    found = summarise(run(*[outcome(number, generated_tokens=20) for number in range(100)]))
    assert found.tokens_per_event == 4.0
    (note,) = list_notes(found)
    assert note.startswith("SEVERAL TOKENS IN ONE EVENT: 4.00 on average")


@pytest.mark.parametrize("gaps_us", [(), (0, 0, 0)])
def test_an_answer_in_one_piece_says_nothing_of_its_tokens(gaps_us: tuple[int, ...]) -> None:
    pieces = [outcome(number, last_sec=1.5, gaps_us=gaps_us) for number in range(30)]
    found = summarise(run(outcome(), *pieces))
    assert (found.tpot_sec.count if found.tpot_sec else 0) == (31 if gaps_us else 1)
    (note,) = [note for note in list_notes(found) if note.startswith("ALL AT ONCE")]
    assert "30 of 31 answers" in note


@pytest.mark.parametrize(("tail_sec", "is_told"), [(0.0, False), (0.05, False), (0.5, True)])
def test_a_connection_that_stays_open_after_the_answer_is_told(tail_sec: float, *, is_told: bool) -> None:
    found = summarise(run(outcome(tail_sec=tail_sec)))
    notes = [note for note in list_notes(found) if note.startswith("CONNECTIONS STAY OPEN")]
    assert bool(notes) is is_told
    if is_told:
        assert "500 ms on average after the end of an answer" in notes[0]


def test_answers_without_text_are_told() -> None:
    mute = [outcome(number, first_sec=None, last_sec=None, gaps_us=()) for number in range(3)]
    found = summarise(run(outcome(), *mute))
    assert found.ttft_sec is not None
    assert found.ttft_sec.count == 1
    (note,) = [note for note in list_notes(found) if note.startswith("NO TEXT")]
    assert "3 of 4 answers" in note


def test_answers_that_are_shorter_than_asked_are_told() -> None:
    short = [outcome(number, fixed_len=9) for number in range(3)]
    found = summarise(run(outcome(fixed_len=5), *short, outcome(4, fixed_len=None)))
    (note,) = [note for note in list_notes(found) if note.startswith("SHORT")]
    assert note.startswith("SHORT ANSWERS: 3 of 5 answers were shorter than asked")


def worker(share: float = 0.1, lag: float = 0.0) -> WorkerReport:
    return WorkerReport(pid=1, cpu_share=share, lags=(lag,) * 100)


SPOILT = "it read answers 20 ms late or more for 1 % of the time, and events with text came each 20 ms"


@pytest.mark.parametrize(
    ("workers", "changes", "limit"),
    [
        ((worker(), worker()), {}, ""),
        ((worker(), worker(0.97)), {}, "its busiest process used 97% of a core"),
        ((worker(lag=0.2),), {}, "it read answers 200 ms late or more for 1 % of the time"),
        ((worker(lag=0.02),), {}, ""),
        # Of 20 ms each: with a time to the first token of 500 ms this would do no harm.
        ((worker(lag=0.02),), {"gaps_us": (20_000,) * 4, "last_sec": 1.58}, SPOILT),
        # What came late came together, so that half of the gaps are 0.
        ((worker(lag=0.02),), {"gaps_us": (0, 0, 0, 80_000), "last_sec": 1.58}, SPOILT),
        ((worker(lag=0.004),), {"gaps_us": (2_000,) * 4, "last_sec": 1.508}, ""),
        ((worker(lag=0.02),), {"gaps_us": (), "last_sec": 1.5, "generated_tokens": 1}, ""),
        ((worker(),), {"late_sec": 0.1}, "requests were sent 100 ms late on average"),
        ((worker(),), {"late_sec": 0.02}, ""),
    ],
)
def test_a_client_that_cannot_keep_up_says_so(
    workers: tuple[WorkerReport, ...], changes: dict[str, float], limit: str
) -> None:
    outcomes = [outcome(number, **changes) for number in range(200)]
    found = summarise(run(*outcomes, workers=workers))
    assert found.client.limit == limit
    assert any(note.startswith("THE CLIENT WAS THE LIMIT") for note in list_notes(found)) is bool(limit)


def test_the_process_that_hands_out_may_be_the_limit() -> None:
    found = summarise(run(outcome(), workers=(worker(0.25),), own_cpu_share=0.9))
    assert found.client.limit == "the process that hands out its requests used 90% of a core"
    assert found.client.cores == pytest.approx(1.15)
    assert "use another machine (--url), or several at once" in list_notes(found)[0]


def test_more_processes_are_no_way_out_where_cpus_are_short() -> None:
    outcomes = [outcome(number) for number in range(200)]
    (note, *_) = list_notes(summarise(run(*outcomes, workers=(worker(0.03, lag=0.2),))))
    assert "it waited for CPUs" in note
    assert "--workers" not in note


def test_what_the_client_lacks_is_its_limit() -> None:
    lacking = Failure(kind=Kind.own_limit, message="Too many open files")
    found = summarise(run(outcome(), failed(lacking), failed(lacking), workers=(worker(),)))
    assert found.client.limit == "2 requests could not be sent: Too many open files"
    assert [row.label for row in found.errors] == ["the client's own limit"]


def test_a_dead_process_of_the_client_is_its_limit() -> None:
    lost = failed(Failure(kind=Kind.client, message="process 7 ended"))
    found = summarise(run(outcome(), lost, workers=(worker(),)))
    assert found.client.limit == "one of its processes died"


def test_an_interrupted_run_says_so() -> None:
    found = summarise(run(outcome(), unfinished=9, is_interrupted=True))
    assert list_notes(found)[0] == "INTERRUPTED: 9 requests are missing, after 10.0 s."


@pytest.mark.parametrize("one", [outcome(), failed(), outcome(first_sec=None, last_sec=None, gaps_us=())])
def test_an_outcome_comes_back_from_its_document(one: Outcome) -> None:
    assert parse_outcome(outcome_document(one)) == one


def test_what_is_drawn() -> None:
    series = draw_series(run(outcome(), failed(end_sec=3.9, due_sec=3.4), duration_sec=4.0))
    over_time = series["over_time"]
    width = over_time["bucket_sec"]
    assert sum(over_time["output_tokens_per_sec"]) * width == pytest.approx(5)
    assert sum(over_time["requests_per_sec"]) * width == pytest.approx(1)
    # One request for two seconds, and one for half a second.
    assert sum(over_time["in_flight"]) * width == pytest.approx(2.5)
    assert sum(over_time["errors"]["cut in mid-stream"]) == 1
    assert series["ttft_sec"] == [(0.5, 1.0)]


def test_the_last_bucket_counts_over_its_own_time_and_makes_no_peak() -> None:
    # Ten at once all the time, five tokens each, and the last of them just in a bucket of its own.
    busy = [
        outcome(number, due_sec=0.0, first_sec=20.001, last_sec=20.001, end_sec=20.001, gaps_us=())
        for number in range(10)
    ]
    over_time = draw_series(run(*busy, duration_sec=20.001))["over_time"]
    assert over_time["in_flight"] == [pytest.approx(10)] * len(over_time["in_flight"])
    assert max(over_time["output_tokens_per_sec"]) <= 50 / over_time["bucket_sec"]
    spent = len(over_time["in_flight"]) * over_time["bucket_sec"]
    assert spent <= 20.001


def test_requests_that_were_given_up_are_in_flight_to_the_end() -> None:
    over_time = draw_series(run(outcome(), duration_sec=4.0, given_up=(3.0, 3.5, 99.0)))["over_time"]
    # The one that ended took two seconds.
    assert sum(over_time["in_flight"]) * over_time["bucket_sec"] == pytest.approx(2 + 1 + 0.5)


def test_a_distribution_has_its_ends() -> None:
    drawn = ecdf(float(value) for value in range(10_001))
    assert len(drawn) == 200
    assert drawn[0] == (0.0, 0.0)
    assert drawn[-1] == (10_000.0, 1.0)
    assert ecdf([]) == []
