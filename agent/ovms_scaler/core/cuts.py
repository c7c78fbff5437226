# SPDX-License-Identifier: Apache-2.0
"""Counts requests that the proxy cut: those which outlived their worker's time (proxy.shutdown_timeout_sec).

A worker of an earlier configuration leaves when its last request has ended, or closes what is left after
that time. It says so nowhere but in the access log, as of requests that did not complete, with the status
that the client had got by then or "000" (ngx_shutdown_timer_handler, ngx_http_terminate_request). A client
that went away leaves the same trace; but what was cut has lasted longer than the worker was leaving.
"""

import json
from collections.abc import Collection

# nginx reads the clock once in a turn of its event loop; a request may seem to have begun that much later.
_CLOCK_SEC = 0.1
_MAX_BYTES = 8192  # of a datagram
_MARK = b'"completion":""'


class Cuts:
    """``count`` are those since the agent has started."""

    def __init__(self) -> None:
        self.count = 0
        self._leaving: frozenset[int] = frozenset()
        self._left: frozenset[int] = frozenset()
        self._cap_sec = float("inf")

    def expect(self, leaving: Collection[int], *, cap_sec: float) -> None:
        """Take in the ids of the workers that are leaving now, and the time that each has.

        One that has gone since the last look may have said something that was not read yet.
        """
        self._left, self._leaving = self._leaving, frozenset(leaving)
        self._cap_sec = cap_sec

    def note(self, data: bytes) -> None:
        """Take in a line of the access log (core/nginx_text.py)."""
        if _MARK not in data or len(data) > _MAX_BYTES:
            return  # what nearly all are is not worth reading
        try:
            document = json.loads(data[data.index(b"{") :])
            worker, lasted_sec = int(document["worker"]), float(document["request_time"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return
        if worker in self._leaving | self._left and lasted_sec >= self._cap_sec - _CLOCK_SEC:
            self.count += 1
