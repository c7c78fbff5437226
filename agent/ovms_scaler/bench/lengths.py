# SPDX-License-Identifier: Apache-2.0
"""How long prompts and answers are to be: a number, a range, or a mean with a long tail."""

import math
import random
import re
from dataclasses import dataclass

from ovms_scaler.errors import InputError

MAX_LENGTH = 131_072
# Shape of what people type and get: a long tail. 1.0 gives a median of 0.6 of the mean.
_SIGMA = 1.0
_TAIL = 8.0
_SHORTEST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Numbers of tokens from ``low`` to ``high``, all alike; with ``mean`` log-normal around it instead."""

    low: int
    high: int
    mean: float | None = None

    def draw(self, source: random.Random) -> int:
        """One length; the same source gives the same."""
        if self.mean is None:
            return source.randint(self.low, self.high)
        drawn = source.lognormvariate(math.log(self.mean) - _SIGMA**2 / 2, _SIGMA)
        return min(self.high, max(self.low, round(drawn)))

    def __str__(self) -> str:
        if self.mean is not None:
            return f"~{self.mean:g}"
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def parse_lengths(text: str) -> Lengths:
    """``"256"``, ``"14-40"`` (all alike) or ``"~220"`` (log-normal, mean 220). Raises InputError."""
    found = re.fullmatch(r"(?P<about>~)?(?P<low>[0-9]{1,9})(?:-(?P<high>[0-9]{1,9}))?", text)
    if found is None or (found["about"] and found["high"]):
        raise InputError(f"a length must be like 256, 14-40 or ~220, not {text!r}")
    low = int(found["low"])
    high = int(found["high"] or low)
    if not 1 <= low <= high <= MAX_LENGTH:
        raise InputError(f"a length must be from 1 to {MAX_LENGTH}, the smaller first, not {text!r}")
    if found["about"]:
        top = min(MAX_LENGTH, max(low, math.ceil(low * _TAIL)))
        return Lengths(low=min(low, _SHORTEST), high=top, mean=float(low))
    return Lengths(low=low, high=high)
