# SPDX-License-Identifier: Apache-2.0
"""What finished requests tell about engines."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_scaler.core.record import MAX_BYTES, RUN, WINDOW_SEC, Answer, Record, parse_datagram

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
    assert parse_datagram(datagram(upstream, statuses)) == Answer(client="10.0.0.1", tries=tries)


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
    assert len(record._engines[ONE].good) <= 256
    assert len(record._engines[TWO].clients) <= 256
