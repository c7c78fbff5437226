# SPDX-License-Identifier: Apache-2.0
"""The verb that measures, of a front that takes connections and says nothing."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from ctl_lab import CTL, Ctl


class Silent:
    """Takes connections and says nothing."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._taken: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{server.getsockname()[1]}/v3"

    def accept(self) -> None:
        """Wait for somebody who asks."""
        connection, _ = self._server.accept()
        connection.recv(1)
        self._taken.append(connection)

    def close(self) -> None:
        for connection in self._taken:
            connection.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        made = Silent(server)
        yield made
        made.close()


def test_a_front_that_says_nothing_is_not_waited_for_after_an_interrupt(silent: Silent) -> None:
    command = [*CTL, "bench", "--url", silent.url, "--socket", "/nowhere"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        silent.accept()
        began_at = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err == "ovms-scalerctl: interrupted before anything was measured\n"
    # Far less than it waits for an answer.
    assert time.monotonic() - began_at < 5


def test_a_front_that_says_nothing_is_told_as_it_is(
    silent: Silent, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovms_scaler.bench.client.LOOK_SEC", 0.1)
    refused = ctl("bench", "--url", silent.url, "--socket", "/nowhere")
    assert (refused.status, refused.out) == (1, "")
    assert f"cannot measure {silent.url}: it did not say in 0.1 s which models it serves" in refused.err
    assert "closed" not in refused.err
