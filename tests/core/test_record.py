# SPDX-License-Identifier: Apache-2.0
"""What finished requests tell about engines."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_scaler.core.record import MAX_BYTES, RUN, SHARE_SEC, WINDOW_SEC, Answer, Record, parse_datagram

ONE, TWO = 8003, 8004


def datagram(upstream: str, statuses: str, client: str = "10.0.0.1") -> bytes:
    document = {"client": client, "upstream": upstream, "upstream_status": statuses}
    return b"<190>Nov 21 10:00:00 nginx: " + json.dumps(document).encode()


@pytest.mark.parametrize(
    ("upstream", "statuses", "tries"),
    [
        pytest.param("127.0.0.1:8003", "200", ((ONE, 200),), id="one"),
        pytest.param("127.0.0.1:8003, 127.0.0.1:8004", "502, 200", ((ONE, 502), (TWO, 200)), id="two"),
        pytest.param(
            "127.0.0.1:8003, unix:/run/u.sock : 127.0.0.1:8003", "404, 200 : 404",
            ((ONE, 404), (ONE, 404)), id="last resort",
        ),
        pytest.param("127.0.0.1:8003", "-", (), id="the client left"),
        pytest.param("", "", (), id="refused by the proxy"),
    ],
)  # fmt: skip
def test_tries_are_read_in_order(upstream: str, statuses: str, tries: tuple[tuple[int, int], ...]) -> None:
    answer = parse_datagram(datagram(upstream, statuses))
    assert answer is not None
    assert (answer.client, answer.tries) == ("10.0.0.1", tries)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"hello", b"{", b"<190>x: []", b"<190>x: {}", b"{" * 5000, b"\xff{\xff}",
        datagram("127.0.0.1:8003", "200, 200"), datagram("127.0.0.1:8003", "200", "x" * MAX_BYTES),
        b'{"client": 1, "upstream": "", "upstream_status": ""}',
    ],
)  # fmt: skip
def test_nonsense_is_none(data: bytes) -> None:
    assert parse_datagram(data) is None


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary() | st.text().map(str.encode) | st.builds(datagram, st.text(), st.text(), st.text()))
def test_whatever_arrives_is_taken(data: bytes) -> None:
    answer = parse_datagram(data)
    if answer is not None:
        Record().note(answer, now_sec=0)


def feed(record: Record, port: int, *statuses: int, client: str = "a", at: float = 0.0) -> bool:
    for status in statuses:
        record.note(Answer(client=client, tries=((port, status),)), now_sec=at)
    return record.is_suspect(port, now_sec=at)


@pytest.mark.parametrize("status", [400, 500, 502, 504])
def test_errors_and_nothing_else_make_suspect(status: int) -> None:
    record = Record()
    assert not feed(record, ONE, *[status] * (RUN - 1))
    assert record.note(Answer(client="a", tries=((ONE, status),)), now_sec=0) == (ONE,)
    assert not record.is_suspect(TWO, now_sec=0)
    assert not record.is_suspect(ONE, now_sec=WINDOW_SEC + 1)


@pytest.mark.parametrize("status", [401, 404, 413, 422, 429, 499])
def test_what_is_about_the_request_does_not_count(status: int) -> None:
    assert not feed(Record(), ONE, *[status] * 50)


def test_a_success_ends_the_run() -> None:
    record = Record()
    feed(record, ONE, *[400] * RUN)
    assert not feed(record, ONE, 200, *[400] * (RUN - 1))


def test_errors_far_apart_are_no_run() -> None:
    record = Record()
    for number in range(20):
        assert not feed(record, ONE, 500, at=number * (WINDOW_SEC + 1))


def test_another_process_is_judged_from_scratch() -> None:
    record = Record()
    feed(record, ONE, *[400] * RUN)
    record.forget(ONE)
    assert not record.is_suspect(ONE, now_sec=0)


def test_clients_that_are_answered_well_elsewhere_convict() -> None:
    record = Record()
    for client in ("a", "b"):
        feed(record, ONE, *[400] * RUN, client=client)
    assert not record.is_convicted(ONE, (ONE, TWO), now_sec=0)
    feed(record, TWO, 200, client="a")
    assert not record.is_convicted(ONE, (ONE, TWO), now_sec=0)
    feed(record, TWO, 200, client="b")
    assert record.is_convicted(ONE, (ONE, TWO), now_sec=0)
    feed(record, ONE, 200)
    assert not record.is_convicted(ONE, (ONE, TWO), now_sec=0)


def test_one_that_errs_most_of_the_time_is_suspect() -> None:
    record, suspect = Record(), 0
    for number in range(100):
        status = 200 if number % 5 == 0 else 500
        suspect += bool(feed(record, ONE, status, client=f"c{number % 7}", at=number * 0.1))
    assert suspect > 80
    assert not record.is_suspect(ONE, now_sec=11 + WINDOW_SEC)


def test_some_errors_among_answers_make_nobody_suspect() -> None:
    record = Record()
    for number in range(1000):
        assert not feed(record, ONE, 500 if number % 3 == 0 else 200, at=number * 0.1)


def test_old_answers_do_not_hide_new_errors() -> None:
    record = Record()
    feed(record, ONE, *[200] * 1000, at=0.0)
    errors = [400, 400, 400, 200] * 10
    assert not feed(record, ONE, *errors, at=SHARE_SEC)
    assert feed(record, ONE, *errors, at=2 * SHARE_SEC)
    feed(record, TWO, *[200] * 1000, at=0.0)
    assert feed(record, TWO, *errors, at=2 * SHARE_SEC)


def several(record: Record, port: int, statuses: list[int], *, clients: int = 5) -> None:
    for number in range(100):
        status = statuses[number % len(statuses)]
        feed(record, port, status, client=f"c{number % clients}", at=number * 0.05)


def test_a_token_is_outweighed_by_many_requests_that_others_answer_well() -> None:
    record = Record()
    several(record, ONE, [500, 500, 400, 200])
    several(record, TWO, [200])
    assert record.is_convicted(ONE, (ONE, TWO), now_sec=5.0, generates=True)
    assert not record.is_convicted(TWO, (ONE, TWO), now_sec=5.0, generates=True)


def test_a_token_is_not_outweighed_by_few() -> None:
    record = Record()
    for client in ("a", "b"):
        feed(record, ONE, *[400] * RUN, client=client)
        feed(record, TWO, 200, client=client)
    assert record.is_convicted(ONE, (ONE, TWO), now_sec=0)
    assert not record.is_convicted(ONE, (ONE, TWO), now_sec=0, generates=True)


def test_bad_requests_that_fail_anywhere_convict_nobody() -> None:
    record = Record()
    several(record, ONE, [500, 500, 400, 200])
    several(record, TWO, [500, 200, 200, 200])
    assert not record.is_convicted(ONE, (ONE, TWO), now_sec=5.0, generates=True)
    assert not record.is_convicted(ONE, (ONE, TWO), now_sec=5.0)


def test_a_run_by_chance_convicts_nobody() -> None:
    record = Record()
    for number in range(2000):
        status = 400 if number % 13 == 0 else 200
        feed(record, ONE, status, client=f"c{number % 200}", at=number * 0.0025)
        feed(record, TWO, status, client=f"c{(number + 7) % 200}", at=number * 0.0025)
    feed(record, ONE, *[400] * RUN, client="c1", at=5.0)
    assert record.is_suspect(ONE, now_sec=5.0)
    assert not record.is_convicted(ONE, (ONE, TWO), now_sec=5.0, generates=True)
    assert not record.is_convicted(ONE, (ONE, TWO), now_sec=5.0)


def test_clients_that_fail_everywhere_convict_nobody() -> None:
    record = Record()
    for client in ("a", "b", "c"):
        feed(record, ONE, *[400] * RUN, client=client)
        feed(record, TWO, 200, 400, client=client)
    feed(record, TWO, 400, client="a")
    assert not record.is_convicted(ONE, (ONE, TWO), now_sec=0)
    assert not record.is_convicted(TWO, (ONE, TWO), now_sec=0)


def test_what_is_remembered_is_bounded() -> None:
    record = Record()
    for number in range(10_000):
        feed(record, ONE, 200, client=f"good {number}")
        feed(record, TWO, 400, client=f"bad {number}")
    for port in (ONE, TWO):
        assert all(len(span.clients) <= 256 for span in record._engines[port].spans)
