# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from ovms_scaler.core.cuts import Cuts

CAP_SEC = 60


def told(**changes: object) -> bytes:
    """What nginx says of a request that it cut after a minute."""
    fields = {"client": "::1", "status": "200", "request_time": "61.5", "completion": "", "worker": "17"}
    return b"<190>Nov 21 15:54:14 nginx: " + json.dumps(fields | changes, separators=(",", ":")).encode()


def counted(*data: bytes) -> int:
    cuts = Cuts()
    cuts.expect(frozenset({17, 18}), cap_sec=CAP_SEC)
    for one in data:
        cuts.note(one)
    return cuts.count


def test_requests_that_a_leaving_worker_did_not_complete_in_the_time_it_had_are_cut() -> None:
    assert counted(told(), told(status="000", worker="18")) == 2


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(told(completion="OK"), id="it completed"),
        pytest.param(told(worker="19"), id="its worker stays"),
        pytest.param(told(request_time="59.0"), id="its client left"),
        pytest.param(told(request_time="soon"), id="no number"),
        pytest.param(told(request_time="nan"), id="not a number"),
        pytest.param(told(worker=[]), id="a list"),
        pytest.param(b"", id="nothing"),
        pytest.param(b'"completion":"" {', id="cut off"),
        pytest.param(b'{"completion":"",' * 9000, id="too long"),
        pytest.param(b'"completion":""' + b'{"a":' * 1000, id="deep"),
    ],
)
def test_nothing_else_is_counted(data: bytes) -> None:
    assert counted(data) == 0


def test_what_a_worker_said_last_is_counted_after_it_has_gone() -> None:
    cuts = Cuts()
    cuts.expect(frozenset({17}), cap_sec=CAP_SEC)
    cuts.expect(frozenset(), cap_sec=CAP_SEC)
    cuts.note(told())
    cuts.expect(frozenset(), cap_sec=CAP_SEC)
    cuts.note(told())
    assert cuts.count == 1
