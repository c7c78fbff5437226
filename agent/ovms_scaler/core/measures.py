# SPDX-License-Identifier: Apache-2.0
"""The document of what instances do and use: ``GET /v1/measures``, which ``ovms-scalerctl top`` shows.

Whatever is unknown is null, never 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ovms_scaler.core.instance import Instance
from ovms_scaler.core.traffic import WINDOW_SEC, Histogram, Series, Traffic
from ovms_scaler.core.use import (
    CardsUse,
    HostUse,
    InstanceUse,
    NodeUse,
    add_known,
    busy_share,
    choose_span,
    cpu_cores,
    cpu_share,
)

Document = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What was seen lately, the oldest first: of the machine, and of the cards of each instance on GPUs."""

    host: Sequence[HostUse] = ()
    cards: Mapping[str, Sequence[CardsUse]] | None = None

    def of_cards(self, instance: str) -> Sequence[CardsUse]:
        return (self.cards or {}).get(instance, ())


def measures_document(
    instances: Iterable[Instance], traffic: Traffic | None, looks: Looks, *, at: float, now_sec: float
) -> Document:
    """``at`` is ``now_sec`` in seconds since the epoch. Without ``traffic`` nobody tells of requests.

    ``use_span_sec`` is over how long CPU time was looked at, null while it was once only.
    """
    wanted = sorted(instances, key=lambda one: one.id)
    span = choose_span(looks.host)
    last = looks.host[-1] if looks.host else None
    connections = last.connections if last is not None else None
    in_flight = {one.id: connections.get(one.port) if connections is not None else None for one in wanted}
    return {
        "at": round(at, 3),
        "window_sec": WINDOW_SEC,
        "use_span_sec": round(span[1].at_sec - span[0].at_sec, 3) if span is not None else None,
        "front": {
            **_requests(traffic.front if traffic is not None else None, now_sec),
            **_only_front(traffic.front if traffic is not None else None, now_sec),
            "in_flight": add_known(in_flight.values()) if wanted else 0,
        },
        "instances": [
            {
                "id": one.id,
                **_requests(traffic.of(one.port) if traffic is not None else None, now_sec),
                "in_flight": in_flight[one.id],
                **_use(one, last, span),
                "gpus": _cards(one, looks.of_cards(one.id)),
            }
            for one in wanted
        ],
        "nodes": [_node(node, span) for node in (last.nodes if last is not None else ())],
        "gpus": _all_cards(wanted, looks),
    }


def _requests(series: Series | None, now_sec: float) -> Document:
    if series is None:
        names = ("requests_per_sec", "errors_per_sec", "ttfb_sec", "requests_total", "errors_total")
        return {**dict.fromkeys(names), "ttfb_histogram": None}
    window = series.window(now_sec)
    ttfb = None
    if window.median_sec is not None and window.p99_sec is not None:
        ttfb = {"median": round(window.median_sec, 4), "p99": round(window.p99_sec, 4)}
    return {
        "requests_per_sec": round(window.requests_per_sec, 3),
        "errors_per_sec": round(window.errors_per_sec, 3),
        "ttfb_sec": ttfb,
        "requests_total": series.requests,
        "errors_total": series.errors,
        "ttfb_histogram": _histogram(series.ttfb),
    }


def _histogram(ttfb: Histogram) -> Document:
    """As Prometheus counts: in each bucket are all that took at most so many seconds."""
    buckets: dict[str, int] = {f"{bound:g}": count for bound, count in ttfb.shown()}
    return {"buckets": {**buckets, "+Inf": ttfb.count}, "sum_sec": round(ttfb.sum_sec, 3)}


def _only_front(front: Series | None, now_sec: float) -> Document:
    if front is None:
        names = ("rejected_per_sec", "rejected_total", "retried_total", "incomplete_total")
        return {**dict.fromkeys(names)}
    return {
        "rejected_per_sec": round(front.window(now_sec).rejected_per_sec, 3),
        "rejected_total": front.rejected,
        "retried_total": front.retried,
        "incomplete_total": front.incomplete,
    }


def _use(instance: Instance, last: HostUse | None, span: tuple[HostUse, HostUse] | None) -> Document:
    own = last.instances.get(instance.id, InstanceUse()) if last is not None else InstanceUse()
    by_node = own.memory.by_node if own.memory is not None else None
    return {
        "cpu_cores": _round(cpu_cores(span, instance.id)),
        "cpu_sec_total": _round(own.cpu_sec),
        "memory_bytes": own.memory.memory_bytes if own.memory is not None else None,
        "memory_by_node": {str(node): size for node, size in by_node.items()} if by_node else None,
    }


def _cards(instance: Instance, looks: Sequence[CardsUse]) -> list[Document]:
    last, span = (looks[-1] if looks else None), choose_span(looks)
    found: list[Document] = []
    for address in instance.gpus:
        card = last.cards.get(address) if last is not None else None
        found.append(
            {
                "address": address,
                "busy_share": _round(busy_share(span, last, address)),
                "memory_bytes": card.memory_bytes if card is not None else None,
            }
        )
    return found


def _node(node: NodeUse, span: tuple[HostUse, HostUse] | None) -> Document:
    return {
        "id": node.id,
        "cpu_share": _round(cpu_share(span, node.id)),
        "memory_used_bytes": node.memory_used_bytes,
        "memory_bytes": node.memory_bytes,
    }


def _all_cards(wanted: Sequence[Instance], looks: Looks) -> list[Document]:
    """Each card once, with what its instances make of it together."""
    owners: dict[str, list[str]] = {}
    for one in wanted:
        for address in one.gpus:
            owners.setdefault(address, []).append(one.id)
    documents: list[Document] = []
    for address, names in sorted(owners.items()):
        shares, sizes = [], []
        for name in names:
            own = looks.of_cards(name)
            last = own[-1] if own else None
            shares.append(busy_share(choose_span(own), last, address))
            card = last.cards.get(address) if last is not None else None
            sizes.append(card.memory_bytes if card is not None else None)
        known = [share for share in shares if share is not None]
        documents.append(
            {
                "address": address,
                "busy_share": _round(max(known)) if len(known) == len(shares) else None,
                "memory_used_bytes": add_known(sizes),
            }
        )
    return documents


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
