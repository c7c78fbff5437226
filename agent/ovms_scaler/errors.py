# SPDX-License-Identifier: Apache-2.0
"""The whole exception tree.

ScalerError              anything this project raises on purpose
├── InputError           somebody's text is wrong: it names the thing, the value and the rule
│   ├── ConfigError      the configuration, with every problem found in it
│   └── UnknownNameError no instance and no pool has that name
├── RefusedError         an order that would do harm now
└── HostError            something outside did not do what was asked
    ├── DeadlineError    it did not answer in time
    │   └── SilenceError systemd answers nobody: what it was asked for may be as good as ever
    └── UnreachableError the agent cannot be asked
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


class ScalerError(Exception):
    """A failure with one sentence for people and, where there is one, the way out."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class InputError(ScalerError):
    """Text from outside (a file, an answer, a request) breaks a rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong in the configuration.

    ``file`` is the file it stands in ("" when it is the combination of several), ``key`` the path of the
    key as ``pool[0].placement``, ``rule`` a sentence with the value in it. ``value`` is what stands there,
    for programs; None where nothing does.
    """

    file: str
    key: str
    rule: str
    hint: str | None = None
    value: object = field(default=None, compare=False)

    def __str__(self) -> str:
        # A name in quotes may hold anything, also what would move a terminal's cursor.
        shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in self.key)
        where = ": ".join(part for part in (self.file, shown) if part)
        line = f"{where}: {self.rule}" if where else self.rule
        return f"{line}\n  hint: {self.hint}" if self.hint else line


class ConfigError(InputError):
    """Every problem of a configuration at once, so that one look is enough to mend it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UnknownNameError(InputError):
    """An order names what is not there."""


class RefusedError(ScalerError):
    """An order that cannot be carried out as things are."""


class HostError(ScalerError):
    """systemd, the proxy, a file or an engine refused or failed."""


class DeadlineError(HostError):
    """What was asked did not answer before its deadline."""


class SilenceError(DeadlineError):
    """systemd cannot be reached, or answers nothing."""


class UnreachableError(HostError):
    """The agent gives no answer on its control socket."""
