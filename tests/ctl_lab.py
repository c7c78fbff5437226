# SPDX-License-Identifier: Apache-2.0
"""What tests of ovms-scalerctl share: results of verbs, an agent that answers as told, a configuration."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ovms_scaler

CTL = [sys.executable, "-m", "ovms_scaler.ctl"]

POOL = """\
[[pool]]
name = "chat"
model_name = "meta-llama/Meta-Llama-3-8B-Instruct"
model_path = "{model}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a verb ended and what it printed."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Ctl = Callable[..., Result]


@dataclass(kw_only=True)
class FakeAgent:
    """Answers on a Unix socket; ``answer`` is a status code and a body, or None to break off.

    ``answers`` are those of single paths, which come first.
    """

    socket: Path
    answer: tuple[int, bytes] | None = (200, b"{}")
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def say(self, document: object, *, status: int = 200, path: str | None = None) -> None:
        answer = (status, json.dumps(document).encode())
        if path is None:
            self.answer = answer
        else:
            self.answers[path] = answer


def write_config(directory: Path, text: str) -> Path:
    """A configuration alone in its directory, so that nothing else is read with it."""
    file = directory / "etc" / "config.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def instance(name: str = "chat-numa0", **changes: object) -> dict[str, object]:
    """An instance of a status document that serves, but for ``changes``."""
    return {
        "id": name,
        "state": "ready",
        "reason": "",
        "hint": "",
        "since": 1000.0,
        "port": 8003,
        "in_rotation": True,
        "unit": f"ovms@{name}.service",
        "pool": "chat",
        "device": "CPU",
        "node": 0,
        "cpus": "0-31,192-223",
        "memory_nodes": "0",
        "weight": 1,
        "pid": 4711,
        "restarts": 0,
    } | changes


def status(*instances: dict[str, object], **changes: object) -> dict[str, object]:
    """A status document of an agent that is content, but for ``changes``."""
    return {
        "instances": list(instances),
        "proxy": {"generation": "00c0ffee00c0ffee", "state": "active", "error": "", "listen": ["8000"]},
        "config": {"file": "/etc/ovms-scaler/config.toml", "error": ""},
        "warnings": [],
        "problems": [],
    } | changes


def run_as_anybody(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A verb as a user without any right; the package is copied to where that user can read it."""
    package = Path(ovms_scaler.__file__).parent
    shutil.copytree(package, directory / "lib/ovms_scaler", ignore=shutil.ignore_patterns("__pycache__"))
    anybody = "nobody" if os.geteuid() == 0 else None
    return subprocess.run(
        [os.path.realpath(sys.executable), "-m", "ovms_scaler.ctl", *arguments],
        env={
            "PYTHONPATH": str(directory / "lib"),
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        user=anybody,
        extra_groups=[] if anybody else None,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
