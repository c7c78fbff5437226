# SPDX-License-Identifier: Apache-2.0
"""Runs verbs in this process or in one of their own, and an agent that answers what a test wants."""

import os
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ctl_lab import CTL, POOL, Ctl, FakeAgent, Result, write_config

from ovms_scaler.ctl.main import main


@pytest.fixture
def ctl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """Runs a verb as the installed command would, in this process, for a screen of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(status=int(ended.value.code), out=out, err=err)

    return call


@pytest.fixture
def ctl_process() -> Ctl:
    """Runs a verb in a process of its own; ``env`` adds variables, other options are subprocess.run()'s."""

    def call(*arguments: object, env: Mapping[str, str] | None = None, **options: Any) -> Result:
        done = subprocess.run(
            [*CTL, *map(str, arguments)],
            env=os.environ | dict(env or {}),
            text=True,
            timeout=30,
            check=False,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
        )
        return Result(status=done.returncode, out=done.stdout or "", err=done.stderr or "")

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory that looks like the OpenVINO export of an LLM, with 1 MiB of weights."""
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("openvino_model.xml", "openvino_tokenizer.xml", "openvino_detokenizer.xml"):
        (directory / name).write_text("<net/>")
    (directory / "openvino_model.bin").write_bytes(bytes(1024 * 1024))
    return directory


@pytest.fixture
def config(tmp_path: Path, model: Path) -> Path:
    """A configuration of one pool, as small as it can be."""
    return write_config(tmp_path, POOL.format(model=model))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    """Something that listens where the agent would, in threads of its own."""
    fake = FakeAgent(socket=tmp_path / "control.sock")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.requests.append(f"{self.command} {self.path}")
            fake.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            fake.asked.release()
            answer = fake.answers.get(self.path, fake.answer)
            if answer is None:
                return
            status, body = answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_request(self, *_: object) -> None:
            """Keep the output for what is tested."""

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    with Server(str(fake.socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        server.shutdown()
        thread.join()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter, unlike those of tmp_path."""
    with tempfile.TemporaryDirectory(prefix="ovms-scaler-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)
