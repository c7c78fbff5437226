# SPDX-License-Identifier: Apache-2.0
"""What the shell needs from the outside; the adapters match by shape, and so do the fakes of the tests."""

from collections.abc import Callable, Iterable
from typing import Protocol

from ovms_scaler.core.facts import Canary, ExecFacts, Probe, UnitFacts
from ovms_scaler.core.nginx import ProxyFiles
from ovms_scaler.core.progress import Counters
from ovms_scaler.host.nginx import ProxyOutcome
from ovms_scaler.host.systemd_view import Seen


class Units(Protocol):
    """systemd. Every call raises HostError, or DeadlineError when systemd does not answer in time."""

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Have ``changed`` called with the name of a unit that may have changed, "" for all."""

    async def look(self, units: Iterable[str], patterns: Iterable[str]) -> Seen:
        """``units``, and all that are loaded and match one of ``patterns``.

        One that takes long is a DeadlineError; its end is reported as a change, and it answers who looks
        then.
        """

    async def read_units(self, units: Iterable[str]) -> dict[str, UnitFacts]: ...

    async def read_exec(self, unit: str) -> ExecFacts: ...

    async def start(self, unit: str) -> str:
        """The job's result: "done" or what went wrong."""

    async def stop(self, unit: str) -> str:
        """The job's result: "done" or what went wrong."""

    async def reset_failed(self, unit: str) -> None: ...

    async def kill(self, unit: str) -> None:
        """SIGKILL for the unit's main process."""

    async def daemon_reload(self) -> None: ...


class ProxyPort(Protocol):
    """Our nginx."""

    def read(self) -> ProxyFiles: ...

    async def read_generation(self) -> str | None: ...

    async def install(self, files: ProxyFiles) -> ProxyOutcome:
        """Raises HostError when the proxy does not take them; it then goes on with what it had."""


class EnginePort(Protocol):
    """One engine's REST port."""

    async def probe(self, expected: tuple[str, ...], *, ready: tuple[str, ...] = ()) -> tuple[Probe, str]:
        """How the models ``expected`` are; those in ``ready`` are asked whether they are, each by itself."""

    async def warm(self, model_name: str) -> tuple[bool, str]: ...

    async def try_token(self, model_name: str, *, timeout_sec: float) -> tuple[Canary, str]: ...

    async def read_counters(self) -> Counters | None:
        """None when the engine does not tell them."""

    async def close(self) -> None: ...
