# SPDX-License-Identifier: Apache-2.0
"""What everything that stands for the proxy must do: run on the fake and on a real nginx."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from proxy_lab import Engine, free_port, member, render, upstream

from ovms_scaler.core import nginx, route
from ovms_scaler.core.nginx import ProxyFiles
from ovms_scaler.daemon.ports import ProxyPort
from ovms_scaler.errors import HostError

# An address that no machine has: nginx reads it and cannot use it.
UNUSABLE = "192.0.2.1"


@dataclass(frozen=True, kw_only=True)
class ProxyBench:
    """A proxy under test that runs nothing yet; it refuses every configuration that holds UNUSABLE."""

    proxy: ProxyPort
    directory: Path
    port: int

    def files(self, *names: str, listen: str = "127.0.0.1", body_bytes: int = 1 << 24) -> ProxyFiles:
        engines = [Engine(instance=name, port=9) for name in ("chat-numa0", "chat-numa1")]
        front = nginx.Front(listen=(f"{listen}:{self.port}",), upstreams=(upstream("chat", engines),))
        members = tuple(member(engine) for engine in engines if engine.instance in names)
        return render(self.directory, (front,), {"chat": members}, client_max_body_bytes=body_bytes)

    async def is_in_force(self, files: ProxyFiles) -> bool:
        return (
            dict(self.proxy.read().files) == dict(files.files)
            and await self.proxy.read_generation() == files.generation
        )


def bench_port() -> int:
    return free_port()


class ProxyContract:
    """Subclasses provide the ``bench`` fixture."""

    async def test_at_first_there_is_nothing(self, bench: ProxyBench) -> None:
        assert dict(bench.proxy.read().files) == {}
        assert await bench.proxy.read_generation() is None

    async def test_what_is_installed_is_in_force(self, bench: ProxyBench) -> None:
        for names in ((), ("chat-numa0",), ("chat-numa0", "chat-numa1"), ("chat-numa1",)):
            files = bench.files(*names)
            await bench.proxy.install(files)
            assert await bench.is_in_force(files)
            assert bench.proxy.read().generation == files.generation

    async def test_another_configuration_takes_the_place_of_the_first(self, bench: ProxyBench) -> None:
        await bench.proxy.install(bench.files("chat-numa0"))
        changed = bench.files("chat-numa0", body_bytes=1 << 20)
        await bench.proxy.install(changed)
        assert await bench.is_in_force(changed)

    async def test_the_same_again_changes_nothing(self, bench: ProxyBench) -> None:
        files = bench.files("chat-numa0")
        await bench.proxy.install(files)
        await bench.proxy.install(files)
        assert await bench.is_in_force(files)

    async def test_what_is_refused_leaves_the_configuration_before_with_the_new_members(
        self, bench: ProxyBench
    ) -> None:
        await bench.proxy.install(bench.files("chat-numa0", "chat-numa1"))
        refused = bench.files("chat-numa1", listen=UNUSABLE)
        with pytest.raises(HostError):
            await bench.proxy.install(refused)
        assert await bench.is_in_force(bench.files("chat-numa1"))
        assert route.CONFIGURATION in refused.files
