# SPDX-License-Identifier: Apache-2.0
"""When an engine that was taken out of rotation is believed again: after some good probes in a row.

Each time that it is put back costs two reloads of the proxy, and those whom it fails next. So one that was
taken out again and again has to be well for longer each time.
"""

# Times that it was taken out count for so long.
MEMORY_SEC = 600.0
# To be well for so long at the second time, twice as long at each further one, up to the last.
FIRST_WAIT_SEC = 2.0
LONGEST_WAIT_SEC = 60.0


class Probation:
    """Of one engine process; ``now_sec`` is any clock that does not go back."""

    def __init__(self, *, successes: int) -> None:
        """``successes`` are the good probes in a row that it takes at least."""
        self.successes = successes
        self._outs: tuple[float, ...] = ()
        self._is_out = False
        self._good = 0
        self._good_since_sec = 0.0

    def note_out(self, *, now_sec: float) -> None:
        """It is not believed to serve."""
        if not self._is_out:
            recent = [at for at in self._outs if now_sec - at < MEMORY_SEC]
            self._outs = (*recent[-99:], now_sec)
        self._is_out, self._good = True, 0

    def note_bad(self) -> None:
        """A probe failed, which alone proves nothing."""
        self._good = 0

    def note_good(self, *, now_sec: float) -> str:
        """A good probe: why it is not believed yet all the same, "" when it is."""
        if not self._is_out:
            return ""
        if not self._good:
            self._good_since_sec = now_sec
        self._good += 1
        wait_sec = self._wait_sec()
        if self._good >= self.successes and now_sec - self._good_since_sec >= wait_sec:
            self._is_out = False
            return ""
        wait = f" and {wait_sec:g} s, as it was taken out {len(self._outs)} times" if wait_sec else ""
        return f"it answers again, and is put back after {self.successes} good probes in a row{wait}"

    def _wait_sec(self) -> float:
        again = len(self._outs) - 1
        return min(FIRST_WAIT_SEC * 2.0 ** (min(again, 12) - 1), LONGEST_WAIT_SEC) if again > 0 else 0.0
