# SPDX-License-Identifier: Apache-2.0
"""The table [health] of the configuration."""

from dataclasses import dataclass

from ovms_scaler.core.table import key


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRules:
    """When an instance is believed to serve, and when no longer."""

    interval_sec: float = key(0.5, minimum=0.1, maximum=60, example="0.5", doc="Seconds between two probes.")
    timeout_sec: float = key(
        0.4,
        minimum=0.1,
        maximum=60,
        example="0.4",
        doc="Seconds after which a probe without an answer has failed; the next one follows at once.",
    )
    failures: int = key(
        2,
        minimum=1,
        maximum=100,
        example="2",
        doc="Failed probes in a row before an instance that served is taken out of rotation.",
    )
    successes: int = key(
        3,
        minimum=1,
        maximum=100,
        example="3",
        doc="Good probes in a row before one that was taken out of rotation is put back; when that happens "
        "again, it has to be well for longer each time, up to a minute.",
    )
    stall_sec: int = key(
        10,
        minimum=2,
        maximum=86400,
        example="10",
        doc="Seconds with requests in work, no part of an answer and nothing computed, on CPU or GPU, after "
        "which an instance hangs.",
    )
    busy_sec: int = key(
        1800,
        minimum=10,
        maximum=86400,
        example="1800",
        doc="Seconds with requests in work and no part of an answer after which an instance hangs although "
        "it computes.",
    )
    canary_interval_sec: int = key(
        60,
        minimum=0,
        maximum=86400,
        example="60",
        doc="Seconds without a request after which an instance is asked for one token; 0 for never.",
    )
    canary_timeout_sec: int = key(
        5,
        minimum=1,
        maximum=3600,
        example="5",
        doc="Seconds for that token; one that has computed nothing for twice as long hangs.",
    )
    repair_attempts: int = key(
        3,
        minimum=0,
        maximum=100,
        example="3",
        doc="Times within repair_window_sec that an instance which hangs or errs is killed and started "
        "again; after these it is quarantined.",
    )
    repair_window_sec: int = key(
        1800,
        minimum=1,
        maximum=86400,
        example="1800",
        doc="Seconds after which a repair no longer counts.",
    )
