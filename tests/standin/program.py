# SPDX-License-Identifier: Apache-2.0
"""Running the stand-in as a program: start, wait for its log, ask it over HTTP, and see how it ended."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

TESTS: Final = Path(__file__).resolve().parent.parent
STANDIN: Final = TESTS / "lab" / "standin"
MODEL: Final = STANDIN / "model"
MODEL_WITH_GRAPH: Final = STANDIN / "model-with-graph"
DEADLINE_SEC: Final = 20.0

REST_OPEN: Final = "Started REST server"
LOADED: Final = "ServableManagerModule started"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP answer."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        return json.loads(self.text)


class Program:
    """A running stand-in; its log goes to a pipe and is kept."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, port: int) -> None:
        self.port = port
        self.log: list[str] = []
        self._process = subprocess.Popen(
            list(command), env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for_log(self, text: str) -> None:
        """Returns with the first line that contains the text; fails when the log ends without it."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line)
            if text in line:
                return
        raise AssertionError(f"{text!r} is not in the log:\n{''.join(self.log)}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code, negative for a signal, once the program has ended."""
        rest, _ = self._process.communicate(timeout=DEADLINE_SEC)
        self.log.append(rest)
        return self._process.returncode

    def close(self) -> None:
        """Ends the program whatever it is doing."""
        if self._process.poll() is None:
            self._process.kill()
        if self._process.stdout is not None and not self._process.stdout.closed:
            self._process.communicate()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SEC)

    def ask(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own."""
        connection = self.connect()
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, dict(headers or {}))
            response = connection.getresponse()
            return Reply(
                status=response.status, text=response.read().decode(), headers=dict(response.getheaders())
            )
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)

    def wait_until(self, path: str, text: str) -> Reply:
        """Asks until the answer contains the text."""
        deadline = time.monotonic() + DEADLINE_SEC
        while text not in (reply := self.get(path)).text:
            assert time.monotonic() < deadline, f"{path} says {reply.text!r}, never {text!r}"
        return reply


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def simulated_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lab.standin.ovms_standin", *arguments]


def simulated_environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS), "OVMS_STANDIN_ENGINE": "simulated", **more}


def chat(model: str = "m/x", **more: object) -> dict[str, object]:
    """The body of a chat request."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": "hello there"}],
        "max_tokens": 5,
        **more,
    }
