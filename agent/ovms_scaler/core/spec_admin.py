# SPDX-License-Identifier: Apache-2.0
"""The table [admin] of the configuration."""

from dataclasses import dataclass

from ovms_scaler.core.table import key
from ovms_scaler.core.values import loopback_rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """Where the agent shows itself to whoever is on the machine."""

    listen: str = key(
        "127.0.0.1:8002",
        check=loopback_rule,
        example='"127.0.0.1:8002"',
        doc='ADDRESS:PORT of the loopback where metrics and the status page are; "" for nowhere.',
    )
