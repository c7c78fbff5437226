# SPDX-License-Identifier: Apache-2.0
"""When requests are due."""

import math
import random
from collections.abc import Sequence


def arrivals(count: int, request_rate: float, seed: int) -> Sequence[float]:
    """Seconds from the beginning: a Poisson process of ``request_rate`` per second, the first at 0.

    Gaps are exponential, as those of clients that know nothing of each other. All are due at once when the
    rate is infinite.
    """
    if math.isinf(request_rate):
        return [0.0] * count
    source = random.Random(f"arrivals {seed}")
    due, times = 0.0, []
    for _ in range(count):
        times.append(due)
        due += source.expovariate(request_rate)
    return times
