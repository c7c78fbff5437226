# SPDX-License-Identifier: Apache-2.0
"""How long prompts and answers are to be: a number, a range, or a mean with a long tail."""

import math
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist, fmean

from ovms_scaler.errors import InputError

MAX_LENGTH = 131_072
# Shape of what people type and get: a long tail. 1.0 gives a median of 0.6 of the mean.
_SIGMA = 1.0
_TAIL = 8.0
_SHORTEST = 4
# Fine enough that what is cut off above and below, and rounded, counts as much as it will.
_STEPS = 1000
_HALVINGS = 50
# From here on all are as short or as long as they may be.
_REACH = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Numbers of tokens from ``low`` to ``high``, all alike; with ``mean`` log-normal around it instead."""

    low: int
    high: int
    mean: float | None = None

    def draw(self, count: int, source: random.Random) -> list[int]:
        """So many lengths in no order; the same source gives the same.

        The distribution is cut into as many parts of equal probability, and one length is drawn from each:
        stratified sampling. Else 200 lengths with a long tail would be 20 % more or less than their mean,
        by the seed, as a few long ones are there or not. What is cut off at ``low`` and ``high`` is made up
        for by the middle, so the mean is ``mean`` all the same.
        """
        shares = [(index + source.random()) / count for index in range(count)]
        source.shuffle(shares)
        if self.mean is None:
            return [min(self.high, self.low + int(share * (self.high - self.low + 1))) for share in shares]
        middle = self._find_middle()
        return [self._at(score, middle) for score in _scores(shares)]

    def _at(self, score: float, middle: float) -> int:
        """The length so many standard deviations from the median, whose logarithm is ``middle``."""
        return min(self.high, max(self.low, round(math.exp(middle + _SIGMA * score))))

    def _find_middle(self) -> float:
        """The logarithm of the median with which the lengths have their mean."""
        scores = _scores((index + 0.5) / _STEPS for index in range(_STEPS))
        below, above = math.log(self.low) - _REACH, math.log(self.high) + _REACH
        for _ in range(_HALVINGS):
            middle = (below + above) / 2
            if fmean(self._at(score, middle) for score in scores) < (self.mean or 0.0):
                below = middle
            else:
                above = middle
        return (below + above) / 2

    def __str__(self) -> str:
        if self.mean is not None:
            return f"~{self.mean:g}"
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def _scores(shares: Iterable[float]) -> list[float]:
    """Of a normal distribution, the values that these shares of all are below."""
    normal = NormalDist()
    # It has no value at the very ends.
    return [normal.inv_cdf(min(max(share, 1e-12), 1 - 1e-12)) for share in shares]


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
        return Lengths(low=max(1, min(low // 2, _SHORTEST)), high=top, mean=float(low))
    return Lengths(low=low, high=high)
