# SPDX-License-Identifier: Apache-2.0
"""The document of measures: every number where it is known, null where it is not."""

import json
from typing import Any

import world

from ovms_scaler.core.books import Books
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.measures import Looks, measures_document
from ovms_scaler.core.record import Answer
from ovms_scaler.core.target import resolve
from ovms_scaler.core.traffic import Traffic
from ovms_scaler.core.use import CardsUse, CardUse, HostUse, InstanceUse, MemoryUse, NodeUse

CARD = "0000:03:00.0"
ONE, CARDS = "chat-numa0", "fast-gpu-0000:03:00.0"
GIB = 1 << 30


def instances() -> tuple[Instance, ...]:
    """One on a node and one on a card."""
    spec = world.spec({"name": "chat", "nodes": "0"}, {"name": "fast", "placement": "gpu", "listen": "8001"})
    models = {pool.name: world.model() for pool in spec.pool}
    return resolve(spec, world.topology(gpus=[world.gpu(CARD)]), models, Books()).instances


def port_of(name: str) -> int:
    return next(one.port for one in instances() if one.id == name)


def host(at_sec: float, cpu_sec: float) -> HostUse:
    memory = MemoryUse(memory_bytes=3 * GIB, by_node={0: 2 * GIB, 1: GIB})
    return HostUse(
        at_sec=at_sec,
        instances={ONE: InstanceUse(cpu_sec=cpu_sec, memory=memory)},
        nodes=(NodeUse(id=0, busy=int(at_sec), total=int(at_sec) * 2, memory_used_bytes=5, memory_bytes=9),),
        connections={port_of(ONE): 3, port_of(CARDS): 4},
    )


def cards(at_sec: float, idle_sec: float) -> CardsUse:
    return CardsUse(at_sec=at_sec, cards={CARD: CardUse(idle_sec=(idle_sec,), memory_bytes=GIB)})


def document(traffic: Traffic | None, looks: Looks) -> Any:
    made = measures_document(instances(), traffic, looks, at=1000.0004, now_sec=100.5)
    return json.loads(json.dumps(made, allow_nan=False))


def find(made: Any, name: str) -> Any:
    return next(one for one in made["instances"] if one["id"] == name)


def test_everything_that_is_known() -> None:
    traffic = Traffic(0.0)
    for status in (200, 200, 500):
        answer = Answer(
            client="a", tries=((port_of(ONE), status),), status=status, header_sec=(0.25,), ttfb_sec=0.25
        )
        traffic.note(answer, now_sec=100.0)
    looks = Looks(
        host=[host(10.0, 100.0), host(12.0, 103.0)], cards={CARDS: [cards(10.0, 5.0), cards(12.0, 5.5)]}
    )
    made = document(traffic, looks)
    assert (made["at"], made["window_sec"], made["use_span_sec"]) == (1000.0, 10.0, 2.0)
    assert made["front"] | {"ttfb_sec": None, "ttfb_histogram": None} == {
        "requests_per_sec": round(3 / 9.5, 3),
        "errors_per_sec": round(1 / 9.5, 3),
        "rejected_per_sec": 0.0,
        "in_flight": 7,
        "ttfb_sec": None,
        "ttfb_histogram": None,
        "requests_total": 3,
        "errors_total": 1,
        "rejected_total": 0,
        "retried_total": 0,
        "incomplete_total": 0,
    }
    assert 0.2 <= made["front"]["ttfb_sec"]["median"] <= made["front"]["ttfb_sec"]["p99"] <= 0.25
    histogram = made["front"]["ttfb_histogram"]
    assert (histogram["buckets"]["0.1"], histogram["buckets"]["0.25"], histogram["buckets"]["+Inf"]) == (
        0,
        2,
        2,
    )
    assert list(histogram["buckets"])[-1] == "+Inf"
    assert histogram["sum_sec"] == 0.5
    one = find(made, ONE)
    assert (one["requests_total"], one["errors_total"], one["in_flight"]) == (3, 1, 3)
    assert (one["cpu_cores"], one["cpu_sec_total"]) == (1.5, 103.0)
    assert (one["memory_bytes"], one["memory_by_node"]) == (3 * GIB, {"0": 2 * GIB, "1": GIB})
    assert one["gpus"] == []
    assert find(made, CARDS)["gpus"] == [{"address": CARD, "busy_share": 0.75, "memory_bytes": GIB}]
    assert made["nodes"] == [{"id": 0, "cpu_share": 0.5, "memory_used_bytes": 5, "memory_bytes": 9}]
    assert made["gpus"] == [{"address": CARD, "busy_share": 0.75, "memory_used_bytes": GIB}]


def test_what_is_unknown_is_null() -> None:
    made = document(None, Looks())
    assert made["front"] == dict.fromkeys(made["front"])
    one, on_card = find(made, ONE), find(made, CARDS)
    assert one == dict.fromkeys(one) | {"id": ONE, "gpus": []}
    assert on_card["gpus"] == [{"address": CARD, "busy_share": None, "memory_bytes": None}]
    assert made["gpus"] == [{"address": CARD, "busy_share": None, "memory_used_bytes": None}]
    assert (made["nodes"], made["use_span_sec"]) == ([], None)


def test_the_first_look_tells_what_needs_no_second() -> None:
    made = document(Traffic(0.0), Looks(host=[host(10.0, 100.0)]))
    one = find(made, ONE)
    assert (one["cpu_cores"], one["cpu_sec_total"], one["memory_bytes"]) == (None, 100.0, 3 * GIB)
    assert (one["requests_per_sec"], one["ttfb_sec"]) == (0.0, None)
    assert made["nodes"][0]["cpu_share"] is None


def test_one_unknown_makes_the_sum_unknown() -> None:
    last = HostUse(at_sec=1.0, connections={port_of(ONE): 3})
    made = document(Traffic(0.0), Looks(host=[last]))
    assert (find(made, ONE)["in_flight"], find(made, CARDS)["in_flight"]) == (3, None)
    assert made["front"]["in_flight"] is None


def test_keys_are_the_same_whatever_is_known() -> None:
    known, unknown = document(Traffic(0.0), Looks(host=[host(1.0, 1.0)])), document(None, Looks())
    assert known.keys() == unknown.keys()
    assert known["front"].keys() == unknown["front"].keys()
    assert find(known, ONE).keys() == find(unknown, ONE).keys()


def test_without_instances_nothing_is_in_flight() -> None:
    made = measures_document((), Traffic(0.0), Looks(host=[HostUse(at_sec=1.0)]), at=1.0, now_sec=1.0)
    assert made["instances"] == made["gpus"] == []
    assert isinstance(made["front"], dict)
    assert made["front"]["in_flight"] == 0
