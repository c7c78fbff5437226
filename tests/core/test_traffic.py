# SPDX-License-Identifier: Apache-2.0
"""Requests are counted for all and for each engine, for ever and over the last seconds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_scaler.core.record import Answer, parse_datagram
from ovms_scaler.core.traffic import BOUNDS_SEC, SHOWN_SEC, WINDOW_SEC, Traffic, quantile

ONE, TWO = 8003, 8004
ROOM = "unix:/run/ovms-scaler-proxy/work/unavailable.sock"


def told(**changes: str) -> Answer:
    """A request as the proxy tells of it: one that the first engine answered well, but for ``changes``."""
    fields = {
        "client": "10.0.0.1", "status": "200", "upstream": "127.0.0.1:8003", "upstream_status": "200",
        "request_time": "1.500", "upstream_header_time": "0.200", "upstream_response_time": "1.498",
        "bytes": "512", "completion": "OK", "worker": "17",
    }  # fmt: skip
    answer = parse_datagram(b"<190>x: " + json.dumps(fields | changes).encode())
    assert answer is not None
    return answer


RETRIED = told(
    upstream="127.0.0.1:8003, 127.0.0.1:8004",
    upstream_status="502, 200",
    upstream_header_time="-, 0.200",
    upstream_response_time="3.000, 1.000",
)
REJECTED = told(
    status="503", upstream=ROOM, upstream_status="200", upstream_header_time="0.001",
    upstream_response_time="0.001",
)  # fmt: skip


def count(*answers: Answer, at_sec: float = 100.5) -> Traffic:
    traffic = Traffic(0.0)
    for answer in answers:
        traffic.note(answer, now_sec=at_sec)
    return traffic


@pytest.mark.parametrize(
    ("answer", "errors", "rejected", "retried", "incomplete", "answered"),
    [
        pytest.param(told(), 0, 0, 0, 0, 1, id="answered"),
        pytest.param(told(status="500", upstream_status="500"), 1, 0, 0, 0, 0, id="an engine's error"),
        pytest.param(told(status="400", upstream_status="400"), 0, 0, 0, 0, 0, id="the client's error"),
        pytest.param(
            told(status="502", upstream_status="502", upstream_header_time="-"), 1, 0, 0, 0, 0,
            id="nobody answered",
        ),
        pytest.param(told(status="503", upstream_status="503"), 1, 0, 0, 0, 0, id="an engine says 503"),
        pytest.param(REJECTED, 0, 1, 0, 0, 0, id="no room"),
        pytest.param(
            told(status="000", upstream_status="-", upstream_header_time="-", completion=""), 1, 0, 0, 1, 0,
            id="cut before the answer",
        ),
        pytest.param(
            told(status="499", upstream_status="-", upstream_header_time="-", completion=""), 0, 0, 0, 1, 0,
            id="the client left",
        ),
        pytest.param(told(completion=""), 0, 0, 0, 1, 1, id="broken off"),
        pytest.param(RETRIED, 0, 0, 1, 0, 1, id="another one answered"),
        pytest.param(told(status="404", upstream="", upstream_status=""), 0, 0, 0, 0, 0, id="refused"),
        pytest.param(Answer(client="a", tries=((ONE, 200),)), 0, 0, 0, 0, 0, id="of an earlier proxy"),
    ],
)  # fmt: skip
def test_what_became_of_a_request(
    answer: Answer, errors: int, rejected: int, retried: int, incomplete: int, answered: int
) -> None:
    front = count(answer).front
    assert front.requests == 1
    assert (front.errors, front.rejected, front.retried, front.incomplete) == (
        errors, rejected, retried, incomplete,
    )  # fmt: skip
    assert front.ttfb.count == answered


def test_each_try_counts_for_its_engine() -> None:
    traffic = count(RETRIED, told())
    one, two = traffic.of(ONE), traffic.of(TWO)
    assert (one.requests, one.errors, one.ttfb.count) == (2, 1, 1)
    assert (two.requests, two.errors, two.ttfb.count) == (1, 0, 1)
    assert traffic.of(9999).requests == 0


def test_the_first_byte_is_waited_for_since_the_first_engine_was_asked() -> None:
    traffic = count(RETRIED)
    assert traffic.front.ttfb.sum_sec == pytest.approx(3.2)
    assert traffic.of(TWO).ttfb.sum_sec == pytest.approx(0.2)


def test_rates_are_those_of_the_last_seconds() -> None:
    traffic = Traffic(0.0)
    for second in range(100):
        for _ in range(5 if second < 95 else 20):
            traffic.note(told(), now_sec=second + 0.5)
    window = traffic.front.window(100.0)  # a second that has begun is short
    assert window.requests_per_sec == pytest.approx((4 * 5 + 5 * 20) / 9)
    assert traffic.front.window(100.0 + WINDOW_SEC).requests_per_sec == 0
    assert traffic.front.window(100.0 + WINDOW_SEC).median_sec is None
    assert traffic.front.requests == 95 * 5 + 5 * 20


def test_rates_after_the_start_are_those_since_then() -> None:
    traffic = Traffic(1000.0)
    for _ in range(12):
        traffic.note(told(), now_sec=1002.0)
    assert traffic.front.window(1003.0).requests_per_sec == pytest.approx(4.0)
    assert traffic.front.window(1000.1).requests_per_sec <= 12


def test_median_and_p99_are_near_the_truth() -> None:
    traffic = Traffic(0.0)
    times_ms = [*range(100, 300, 2), 9000, 9000]
    for time_ms in times_ms:
        traffic.note(told(upstream_header_time=f"{time_ms / 1000:.3f}"), now_sec=1.0)
    window = traffic.front.window(1.5)
    assert window.median_sec == pytest.approx(0.2, rel=0.1)
    assert window.p99_sec == pytest.approx(9.0, rel=0.15)


@given(st.lists(st.floats(0.002, 999.0), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_quantiles_are_within_a_step_of_the_truth(times_sec: list[float], share: float) -> None:
    traffic = Traffic(0.0)
    for time_sec in times_sec:
        traffic.note(told(upstream_header_time=f"{time_sec:.3f}"), now_sec=1.0)
    rank = -(-share * len(times_sec) // 1)
    truth = sorted(float(f"{one:.3f}") for one in times_sec)[max(0, int(rank) - 1)]
    found = quantile(traffic.front.ttfb.counts, share)
    assert found is not None
    assert truth / 1.3 <= found <= truth * 1.3


def test_times_beyond_all_bounds_are_counted() -> None:
    histogram = count(told(upstream_header_time="1500.000")).front.ttfb
    assert histogram.shown()[-1] == (500.0, 0)
    assert histogram.count == 1
    assert quantile(histogram.counts, 0.5) == BOUNDS_SEC[-1]
    assert quantile([0] * len(histogram.counts), 0.5) is None


def test_bounds_are_shown_as_prometheus_counts_them() -> None:
    assert set(SHOWN_SEC) <= set(BOUNDS_SEC)
    assert list(BOUNDS_SEC) == sorted(set(BOUNDS_SEC))
    shown = dict(
        count(told(upstream_header_time="0.250"), told(upstream_header_time="0.251")).front.ttfb.shown()
    )
    assert (shown[0.1], shown[0.25], shown[0.5], shown[500.0]) == (0, 1, 2, 2)


def test_nonsense_does_not_fill_the_memory() -> None:
    traffic = Traffic(0.0)
    for port in range(99999):
        traffic.note(Answer(client="a", tries=((port, 200),)), now_sec=1.0)
    assert traffic.front.requests == 99999
    assert sum(traffic.of(port).requests for port in range(99999)) == 4096
