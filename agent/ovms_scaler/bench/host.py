# SPDX-License-Identifier: Apache-2.0
"""What a measurement needs of the agent; ovms_scaler.ctl has it over the control socket."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an order is: who is not there yet, in a sentence, and why it cannot go on, "" if it can."""

    waits_for: str
    trouble: str


class Host(Protocol):
    """The agent of this machine. Every call may block, and raise ScalerError."""

    def status(self) -> Document:
        """The status document."""
        ...

    def measures(self) -> Document:
        """The measures document."""
        ...

    def drain(self, name: str) -> Document:
        """Have an instance taken out of use; what ``judge`` needs to know of the order."""
        ...

    def undrain(self, name: str) -> Document:
        """Have it taken into use again."""
        ...

    def reload(self) -> Document:
        """Have the configuration taken, with an outage if need be."""
        ...

    def judge(self, verb: str, order: Document, status: Document) -> Progress | None:
        """How far the order is; None when this status is older than it."""
        ...
