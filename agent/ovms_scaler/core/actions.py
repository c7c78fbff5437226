# SPDX-License-Identifier: Apache-2.0
"""The closed set of things the agent does to the host, each able to say so in one line."""

from collections.abc import Mapping
from dataclasses import dataclass

from ovms_scaler.core.instance import unit_name
from ovms_scaler.core.nginx import ProxyFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTarget:
    """Start ovms.target, once in each boot."""

    def describe(self) -> str:
        return "start ovms.target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Write all files of an instance that does not run."""

    instance: str
    files: Mapping[str, str]

    def describe(self) -> str:
        return f"write {', '.join(sorted(self.files))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Remove all files of an instance that is no longer wanted and does not run."""

    instance: str

    def describe(self) -> str:
        return f"remove the files of {self.instance}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start an instance, forgetting earlier failures first."""

    instance: str

    def describe(self) -> str:
        return f"start {unit_name(self.instance)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Stop an instance that gets no requests any more.

    ``at_once``: by SIGKILL, as it hangs; systemd would wait for it until TimeoutStopSec= is over, and so
    would the clients whose requests it has.
    """

    instance: str
    at_once: bool = False

    def describe(self) -> str:
        return f"stop {unit_name(self.instance)}{' by SIGKILL' if self.at_once else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """SIGKILL for an engine that hangs or only errs; Restart=always brings it back.

    The connections are reset at once, so that the proxy asks another instance for what has no answer yet.
    Only the process ``invocation_id`` is meant, by its ``pid`` where that is known: another is innocent.
    """

    instance: str
    invocation_id: str
    reason: str
    pid: int = 0

    def describe(self) -> str:
        return f"kill {unit_name(self.instance)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recover:
    """Bring a GPU that hangs back; with the method ``restart`` its instance may just start again."""

    instance: str
    address: str
    method: str

    def describe(self) -> str:
        return f"recover GPU {self.address} by {self.method}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallProxy:
    """Give the proxy its files and make it take them; ``added`` and ``removed`` are instances."""

    files: ProxyFiles
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def describe(self) -> str:
        changes = [f"+{name}" for name in self.added] + [f"-{name}" for name in self.removed]
        return f"install proxy generation {self.files.generation}" + (
            f" ({' '.join(changes)})" if changes else ""
        )


Action = StartTarget | Write | Remove | Start | Stop | Kill | Recover | InstallProxy
