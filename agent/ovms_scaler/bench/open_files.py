# SPDX-License-Identifier: Apache-2.0
"""How many connections a process may have: each is an open file."""

import resource
import sys
from collections.abc import Sequence

from ovms_scaler.bench.load import Ask
from ovms_scaler.errors import InputError

# What a process of the client has open beside its connections.
_OTHERS = 32


def take_all() -> None:
    """Let this process open as many as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def read_most() -> int:
    """How many a process may open once it has taken all."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if most == resource.RLIM_INFINITY else most


def check(asks: Sequence[Ask], window: int, processes: int) -> None:
    """Raise InputError when so many processes may not have ``window`` connections.

    How many an open loop without a bound will have nobody knows.
    """
    at_once = min(window, len(asks))
    needed = -(-at_once // max(1, processes))
    most = max(1, read_most() - _OTHERS)
    is_unbounded = window >= len(asks) and any(ask.due_sec for ask in asks)
    if needed > most and not is_unbounded:
        raise InputError(
            f"{at_once} requests at once need {needed} connections in each process of the client, which may "
            f"have {most}",
            hint=f"--workers {-(-at_once // most)}, or a higher limit (ulimit -Hn)",
        )
