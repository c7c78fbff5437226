# SPDX-License-Identifier: Apache-2.0
"""What is noted of a unit that was seen running, and what that says of one that runs no more."""

from dataclasses import dataclass

from ovms_scaler.core.facts import UnitFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Which ovms.target it ran under and, if on GPUs, as which process with which.

    The latter two are empty for one that was stopped by hand: it stays so, whatever becomes of its GPUs.
    """

    activation: str
    invocation: str = ""
    devices: str = ""

    @classmethod
    def parse(cls, text: str) -> "Note":
        words = text.split(" ")
        if len(words) != 3:
            return cls(activation=words[0])
        return cls(activation=words[0], invocation=words[1], devices=words[2])

    @property
    def text(self) -> str:
        return f"{self.activation} {self.invocation} {self.devices}" if self.invocation else self.activation

    def counts(self, activation: str, devices: str | None) -> bool:
        """Whether what runs no more was stopped by hand, if not by the agent."""
        return self.activation == activation and (not self.invocation or self.devices == devices)


def has_ended(unit: UnitFacts) -> bool:
    """Whether it was stopped; a stop that took too long ends with that result."""
    return unit.active_state == "inactive" or unit.result == "timeout"
