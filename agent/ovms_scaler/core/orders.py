# SPDX-License-Identifier: Apache-2.0
"""What the administrator ordered beside the configuration: who is drained or restarted, and a pause."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ovms_scaler.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """An instance that is to be out of use since ``since``, seconds since the epoch.

    With ``allow_outage`` it leaves even if no other one serves.
    """

    since: float
    allow_outage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """A process, known by systemd's invocation id, that is to end and be followed by another.

    One that ``is_rolling`` waits for its turn.
    """

    invocation_id: str
    is_rolling: bool = True
    allow_outage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """Everything ordered, by instance id; ``paused_since`` is as ``since``, None while the agent acts."""

    drained: Mapping[str, Drain] = field(default_factory=dict)
    restarts: Mapping[str, Restart] = field(default_factory=dict)
    paused_since: float | None = None

    @property
    def is_paused(self) -> bool:
        return self.paused_since is not None


def orders_document(orders: Orders) -> dict[str, object]:
    """Orders as JSON."""
    return {
        "drained": {
            name: {"since": one.since, "allow_outage": one.allow_outage}
            for name, one in orders.drained.items()
        },
        "restarts": {
            name: {
                "invocation_id": one.invocation_id,
                "is_rolling": one.is_rolling,
                "allow_outage": one.allow_outage,
            }
            for name, one in orders.restarts.items()
        },
        "paused_since": orders.paused_since,
    }


def parse_orders(document: object) -> Orders:
    """Orders of ``orders_document``. Raises InputError: half of what was ordered is not what was ordered."""
    if not isinstance(document, dict) or document.keys() != orders_document(Orders()).keys():
        raise InputError("it must have drained, restarts and paused_since")
    paused_since = document["paused_since"]
    return Orders(
        drained=_parse_each(document["drained"], "drained", _parse_drain),
        restarts=_parse_each(document["restarts"], "restarts", _parse_restart),
        paused_since=None if paused_since is None else _parse_time(paused_since, "paused_since"),
    )


def _parse_each(document: object, key: str, parse: Callable[[dict[str, object]], T]) -> dict[str, T]:
    if not isinstance(document, dict) or not all(isinstance(one, dict) for one in document.values()):
        raise InputError(f"{key} must map instance ids to orders")
    return {str(name): parse(one) for name, one in document.items()}


def _parse_drain(document: dict[str, object]) -> Drain:
    return Drain(
        since=_parse_time(document.get("since"), "since"),
        allow_outage=_parse_truth(document, "allow_outage"),
    )


def _parse_restart(document: dict[str, object]) -> Restart:
    invocation_id = document.get("invocation_id")
    if not isinstance(invocation_id, str) or not invocation_id:
        raise InputError(f"invocation_id must be an invocation id, not {invocation_id!r}")
    return Restart(
        invocation_id=invocation_id,
        is_rolling=_parse_truth(document, "is_rolling"),
        allow_outage=_parse_truth(document, "allow_outage"),
    )


def _parse_time(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{key} must be seconds since the epoch, not {value!r}")
    return float(value)


def _parse_truth(document: dict[str, object], key: str) -> bool:
    value = document.get(key)
    if not isinstance(value, bool):
        raise InputError(f"{key} must be true or false, not {value!r}")
    return value
