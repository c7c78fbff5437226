# SPDX-License-Identifier: Apache-2.0
"""A reload takes the program that is on the disk now, if it is another one, and loses no request."""

import asyncio
import contextlib
import os
import select
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from proxy_lab import (
    NGINX,
    RELOAD_PROXY,
    Engine,
    Proxy,
    engines,
    free_port,
    member,
    proxy,
    render,
    send,
    wait_for_requests,
)

from ovms_scaler.core import nginx

REFUSING = "#!/bin/sh\nexit 1\n"
# Passes the test of the configuration and does not start.
BROKEN = '#!/bin/sh\ncase "$*" in *-t*) exit 0 ;; esac\nexit 1\n'


@dataclass
class Daemon:
    """nginx in the background, as its unit starts it, from a program that can be replaced."""

    proxy: Proxy
    engine: Engine
    port: int = field(default_factory=free_port)
    pids: list[int] = field(default_factory=list)

    @property
    def program(self) -> Path:
        return self.proxy.directory / "nginx"

    def write(self, title: str) -> None:
        """A configuration whose generation is that of ``title``."""
        members = (("chat-numa0", self.engine.port),)
        one = nginx.Upstream(name="chat", title=title, prefix="", members_all=members)
        front = nginx.Front(listen=(f"127.0.0.1:{self.port}",), upstreams=(one,))
        files = render(self.proxy.directory, (front,), {"chat": (member(self.engine),)}).files
        for name, text in files.items():
            path = self.proxy.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def replace(self, text: str = "") -> None:
        """Put nginx, or a script in its place, where the program is, as dpkg does: by a rename."""
        new = self.program.with_name("nginx.new")
        if text:
            new.write_text(text)
        else:
            shutil.copy(NGINX, new)
        new.chmod(0o755)
        new.rename(self.program)

    async def start(self) -> int:
        self.write("first")
        self.replace()
        command = (str(self.program), "-e", "stderr", "-c", str(self.proxy.directory / "nginx.conf"))
        with (self.proxy.directory / "stderr.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(*command, stderr=log)
        assert await process.wait() == 0
        # Earlier it would look at a signal only when the next one comes.
        assert await self.has_taken()
        return self.read_pid()

    async def reload(self) -> tuple[int, str]:
        """The exit status of reload-proxy and what it said."""
        command = ("sh", str(RELOAD_PROXY), str(self.proxy.directory), str(self.program))
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
        return await process.wait(), said.decode()

    @property
    def pid_file(self) -> Path:
        return self.proxy.directory / "work" / "nginx.pid"

    def read_pid(self) -> int:
        pid = int(self.pid_file.read_text())
        if pid not in self.pids:
            self.pids.append(pid)
        return pid

    async def has_taken(self) -> bool:
        """Whether new requests are answered under the configuration on the disk, within a moment."""
        for _ in range(500):
            if await self.proxy.nginx.read_generation() == self.proxy.nginx.read().generation:
                return True
            await asyncio.sleep(0.01)
        return False

    def end(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                wait_for_end(pid)


def wait_for_end(pid: int) -> None:
    """Wait until the process, which need not be a child, has ended."""
    with contextlib.suppress(ProcessLookupError), os.fdopen(os.pidfd_open(pid)) as ended:
        assert select.select([ended], [], [], 10)[0], f"process {pid} lives on"


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[Daemon]:
    async with proxy() as running, engines("chat-numa0") as (engine,):
        started = Daemon(running, engine)
        try:
            yield started
        finally:
            await asyncio.to_thread(started.end)


async def test_replaced_program_takes_over_without_a_lost_request(daemon: Daemon) -> None:
    before = await daemon.start()
    daemon.engine.hold = asyncio.Event()
    held = asyncio.create_task(send(daemon.port, "/v3/x"))
    await wait_for_requests([daemon.engine], 1)
    daemon.write("second")
    daemon.replace()
    reloading = asyncio.create_task(daemon.reload())
    asked = []
    while not reloading.done():
        asked.append(asyncio.create_task(send(daemon.port, "/v3/x")))
        await asyncio.sleep(0.005)
    status, said = reloading.result()
    after = daemon.read_pid()
    assert status == 0
    assert f"process {after} took over from {before}" in said
    assert after != before
    assert await daemon.has_taken()
    # What the old one has begun, it ends, and then itself.
    os.kill(before, 0)
    daemon.engine.hold.set()
    assert {answer.status for answer in await asyncio.gather(held, *asked)} == {200}
    await asyncio.to_thread(wait_for_end, before)


async def test_program_that_was_not_replaced_stays(daemon: Daemon) -> None:
    before = await daemon.start()
    daemon.write("second")
    assert await daemon.reload() == (0, "")
    assert await daemon.has_taken()
    assert daemon.read_pid() == before


@pytest.mark.parametrize(
    ("program", "why"),
    [
        pytest.param(REFUSING, "refuses the configuration", id="refuses the configuration"),
        pytest.param(BROKEN, "does not start", id="does not start"),
    ],
)
async def test_old_program_goes_on_where_the_new_one_cannot(daemon: Daemon, program: str, why: str) -> None:
    before = await daemon.start()
    daemon.write("second")
    daemon.replace(program)
    status, said = await daemon.reload()
    assert status == 0
    assert f"{why}: going on with the old one" in said
    # Instances must still be able to leave rotation.
    assert await daemon.has_taken()
    assert daemon.read_pid() == before
    assert (await send(daemon.port, "/v3/x")).status == 200


async def test_reload_that_was_cut_off_is_completed_by_the_next(daemon: Daemon) -> None:
    before = await daemon.start()
    daemon.replace()
    os.kill(before, signal.SIGUSR2)
    for _ in range(500):
        if daemon.pid_file.exists() and daemon.pid_file.read_text().strip() not in ("", str(before)):
            break
        await asyncio.sleep(0.01)
    assert daemon.read_pid() != before
    assert await daemon.reload() == (0, "")
    await asyncio.to_thread(wait_for_end, before)
    assert (await send(daemon.port, "/v3/x")).status == 200


async def test_reload_fails_where_no_proxy_lives(daemon: Daemon) -> None:
    daemon.write("first")
    daemon.pid_file.write_text(f"{os.getpid()}0000\n")
    status, said = await daemon.reload()
    assert status == 1
    assert "cannot reload: nobody lives" in said
