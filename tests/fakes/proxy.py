# SPDX-License-Identifier: Apache-2.0
"""A proxy in memory that takes files, or refuses them and goes on with what it had."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from ovms_scaler.core import route
from ovms_scaler.core.nginx import ProxyFiles
from ovms_scaler.errors import HostError, SilenceError
from ovms_scaler.host.nginx import ProxyOutcome


@dataclass(slots=True, kw_only=True)
class FakeProxy:
    """``refuses`` is text that no configuration may hold; ``installed`` every generation that took."""

    files: ProxyFiles = field(default_factory=lambda: ProxyFiles(files={}, generation=""))
    running: str | None = None
    refuses: str = ""
    installed: list[str] = field(default_factory=list)
    silent: bool = False  # no reload, as systemd does not answer
    answering: asyncio.Event = field(default_factory=asyncio.Event)  # cleared: an installation does not end

    def __post_init__(self) -> None:
        self.answering.set()

    def read(self) -> ProxyFiles:
        return self.files

    async def read_generation(self) -> str | None:
        await asyncio.sleep(0)
        return self.running

    async def install(self, files: ProxyFiles) -> ProxyOutcome:
        """As the real one: a refused configuration stays out, membership is taken all the same."""
        await self.answering.wait()
        if self.silent:
            raise SilenceError("cannot reload the proxy: systemd does not answer")
        if self.refuses and self.refuses in files.files[route.CONFIGURATION]:
            if route.CONFIGURATION in self.files.files:
                self._take(route.fall_back(self.files.files, files.files))
            raise HostError("cannot use the new proxy configuration: nginx refuses it", hint="look at it")
        before = self.files.files, self.running
        self._take(files.files)
        return ProxyOutcome(
            generation=self.files.generation,
            is_written=self.files.files != before[0],
            is_reloaded=self.running != before[1],
            withheld=(),
        )

    def _take(self, texts: Mapping[str, str]) -> None:
        self.files = route.add_generation(texts)
        if self.running != self.files.generation:
            self.installed.append(self.files.generation)
        self.running = self.files.generation
