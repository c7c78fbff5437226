# SPDX-License-Identifier: Apache-2.0
import asyncio
import fcntl
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from proxy_lab import Engine, engines, free_port, member, proxy, render, run, send, upstream

from ovms_scaler.core import nginx
from ovms_scaler.core.credentials import OPEN, Access
from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.host.nginx import Nginx

UNROUTE = str(Path(__file__).parents[1] / "packaging" / "unroute")
INVOCATION = "a" * 32
ENGINES = [Engine(instance="chat-numa0", port=8003), Engine(instance="chat-gpu-0000:03:00.0", port=8004)]


class NoJobs:
    async def start(self, unit: str) -> str:
        raise AssertionError(unit)

    async def reload(self, unit: str, *, queued: Callable[[], None] = lambda: None) -> str:
        raise AssertionError(unit)

    async def read_units(self, units: Iterable[str]) -> dict[str, UnitFacts]:
        raise AssertionError(units)


class Directory:
    """The proxy's directory with both instances in rotation, and a systemctl that takes notes."""

    def __init__(self, path: Path) -> None:
        self.path = path / "proxy"
        self.notes = path / "notes"
        self.systemctl = path / "systemctl"
        self.systemctl.write_text(f'#!/bin/sh\necho "$*" >>{self.notes}\n')
        self.systemctl.chmod(0o755)
        self.write(self.files(*ENGINES))

    def write(self, files: nginx.ProxyFiles) -> None:
        for name, text in files.files.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text)

    def files(self, *members: Engine, access: Access = OPEN) -> nginx.ProxyFiles:
        front = nginx.Front(listen=("8000",), upstreams=(upstream("chat", ENGINES),))
        routed = {"chat": tuple(map(member, members))}
        return render(Path("/run/ovms-scaler-proxy"), (front,), routed, access=access)

    def read(self) -> nginx.ProxyFiles:
        return Nginx(self.path, NoJobs()).read()

    def unroute(self, instance: str, *, result: str | None = "signal") -> str:
        environment = {"LD_LIBRARY_PATH": "/nonexistent", "INVOCATION_ID": INVOCATION}
        if result is not None:
            environment["SERVICE_RESULT"] = result
        done = run((UNROUTE, instance, str(self.path), str(self.systemctl)), env=environment)
        assert done.returncode == 0
        return done.stderr

    def reloads(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def test_unroute_leaves_what_the_agent_would_have_written(directory: Directory) -> None:
    assert directory.unroute("chat-numa0") == ""
    assert directory.read() == directory.files(ENGINES[1])
    assert directory.reloads() == ["--no-block reload ovms-scaler-proxy.service"]
    assert directory.unroute("chat-gpu-0000:03:00.0") == ""
    assert directory.read() == directory.files()
    assert len(directory.reloads()) == 2


def test_unroute_counts_the_credentials(directory: Directory) -> None:
    """Whose number is part of the generation, so that a change of keys is known to have been taken."""
    access = Access(has_api_keys=True, number="0123456789abcdef")
    directory.write(directory.files(*ENGINES, access=access))
    assert directory.unroute("chat-numa0") == ""
    assert directory.read() == directory.files(ENGINES[1], access=access)
    assert directory.read().generation != directory.files(ENGINES[1]).generation


def test_unroute_leaves_word_that_the_process_has_ended(directory: Directory) -> None:
    directory.unroute("chat-numa0")
    assert Nginx(directory.path, NoJobs()).read_ended() == {"chat-numa0": INVOCATION}


def test_unroute_before_a_start_removes_the_route_and_does_not_condemn_the_new_process(
    directory: Directory,
) -> None:
    directory.unroute("chat-numa0", result=None)
    assert directory.read() == directory.files(ENGINES[1])
    assert not (directory.path / "ended").exists()


def test_unroute_of_an_instance_that_is_not_routed_does_not_reload(directory: Directory) -> None:
    directory.unroute("chat-numa7")
    assert directory.read() == directory.files(*ENGINES)
    assert directory.reloads() == []


@pytest.mark.parametrize(
    "instance",
    [
        pytest.param("", id="nothing"),
        pytest.param("*", id="a pattern"),
        pytest.param("../chat/chat-numa0", id="a path"),
        pytest.param(".chat-numa0", id="a hidden file"),
        pytest.param("chat numa0", id="a space"),
        pytest.param("CHAT", id="capitals"),
        pytest.param("chat-numa0\n", id="a line end"),
    ],
)
def test_unroute_refuses_what_is_no_instance_and_does_not_fail(directory: Directory, instance: str) -> None:
    assert "cannot unroute" in directory.unroute(instance)
    assert directory.read() == directory.files(*ENGINES)
    assert directory.reloads() == []


def test_unroute_without_a_proxy_does_nothing(directory: Directory) -> None:
    shutil.rmtree(directory.path)
    assert directory.unroute("chat-numa0") == ""
    assert directory.reloads() == []


def test_unroute_says_when_the_proxy_could_not_be_reloaded_and_does_not_fail(directory: Directory) -> None:
    directory.systemctl.write_text("#!/bin/sh\nexit 1\n")
    assert "the proxy was not reloaded" in directory.unroute("chat-numa0")
    assert directory.read() == directory.files(ENGINES[1])


def test_instances_that_stop_together_all_leave(directory: Directory) -> None:
    with (directory.path / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        async def stop_both() -> None:
            command = [str(directory.path), str(directory.systemctl)]
            both = [
                await asyncio.create_subprocess_exec(UNROUTE, each.instance, *command) for each in ENGINES
            ]
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert [await each.wait() for each in both] == [0, 0]

        asyncio.run(stop_both())
    assert directory.read() == directory.files()
    assert len(directory.reloads()) == 2


async def test_the_running_proxy_stops_asking_and_the_agent_has_nothing_to_do() -> None:
    async with proxy() as running, engines("chat-numa0", "chat-numa1") as (first, second):
        port = free_port()
        fronts = (
            nginx.Front(listen=(f"127.0.0.1:{port}",), upstreams=(upstream("chat", [first, second]),)),
        )

        def files(*members: Engine) -> nginx.ProxyFiles:
            return render(running.directory, fronts, {"chat": tuple(map(member, members))})

        await running.nginx.install(files(first, second))
        await asyncio.to_thread(run, (UNROUTE, "chat-numa0", str(running.directory), "/bin/true"))
        # What systemctl would do. It takes a moment, in which the agent must not ask for another reload.
        assert await running.reload("ovms-scaler-proxy.service") == "done"
        outcome = await running.nginx.install(files(second))
        assert (outcome.is_written, outcome.is_reloaded) == (False, False)
        # nginx lets the workers of before take clients for 0.1 s more.
        async with asyncio.timeout(10):
            while {(await send(port, "/v3/x")).headers["x-ovms-instance"] for _ in range(8)} != {
                "chat-numa1"
            }:
                pass
