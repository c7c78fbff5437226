# SPDX-License-Identifier: Apache-2.0
"""Debian's Prometheus on a free port, with recorded metrics, and the shipped rules and scrape example."""

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy_lab import free_port

from prometheus.scene import TARGET, render_scene

PACKAGING = Path(__file__).parents[2] / "packaging"
RULES = PACKAGING / "prometheus/ovms-scaler.rules.yml"
EXAMPLE = PACKAGING / "prometheus/prometheus.yml"
INSTALLED_RULES = "/usr/share/ovms-scaler/prometheus/ovms-scaler.rules.yml"
RECORDED = "recorded"
LIMIT_SEC = 30.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """``end_sec`` is the last moment that is recorded; ``target_port`` is scraped all the time."""

    port: int
    target_port: int
    end_sec: float

    def query(self, expr: str, *, at_sec: float) -> list[Mapping[str, Any]]:
        """The series of an instant query."""
        return self._result("query", {"query": expr, "time": f"{at_sec:.3f}"})

    def query_range(self, expr: str, *, begin_sec: float, end_sec: float) -> list[Mapping[str, Any]]:
        times = {"start": f"{begin_sec:.3f}", "end": f"{end_sec:.3f}", "step": "30"}
        return self._result("query_range", {"query": expr, **times})

    def label_values(self, series: str, label: str) -> list[str]:
        """As Grafana asks for label_values(series, label)."""
        path = f"label/{label}/values?{urllib.parse.urlencode({'match[]': series})}"
        found = self.read(path)
        assert isinstance(found, list)
        return found

    def _result(self, path: str, parameters: Mapping[str, str]) -> list[Mapping[str, Any]]:
        found = self.read(f"{path}?{urllib.parse.urlencode(parameters)}")
        result: list[Mapping[str, Any]] = found["result"]
        return result

    def read(self, path: str) -> Any:
        """What the API answers; what it refuses fails the test with its words."""
        try:
            with _DIRECT.open(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=LIMIT_SEC) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()}") from error

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(_DIRECT.open(f"http://127.0.0.1:{self.port}/-/ready", timeout=1).status == 200)
        return False


def read_example(target_port: int) -> str:
    """The shipped example, for this machine and impatient."""
    text = EXAMPLE.read_text()
    for shipped, own in (
        (TARGET, f"127.0.0.1:{target_port}"),
        (INSTALLED_RULES, str(RULES)),
        ("scrape_interval: 15s", "scrape_interval: 100ms\n    scrape_timeout: 100ms"),
    ):
        assert text.count(shipped) == 1
        text = text.replace(shipped, own)
    return f"global:\n  evaluation_interval: 100ms\n{text}"


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Prometheus]:
    end_sec = time.time()
    scene, data, config = (directory / name for name in ("scene.txt", "data", "prometheus.yml"))
    scene.write_text(render_scene(end_sec, RECORDED))
    make = ("promtool", "tsdb", "create-blocks-from", "openmetrics", str(scene), str(data))
    subprocess.run(make, check=True, capture_output=True, timeout=LIMIT_SEC)
    server = Prometheus(port=free_port(), target_port=free_port(), end_sec=end_sec)
    config.write_text(read_example(server.target_port))
    command = (
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address=127.0.0.1:{server.port}",
        "--log.level=warn",
    )
    with (directory / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_for(server.is_ready, lambda: (directory / "log").read_text())
            yield server
        finally:
            process.kill()


def wait_for(holds: Callable[[], object], why: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + LIMIT_SEC
    while not holds():
        assert time.monotonic() < deadline, f"not so within {LIMIT_SEC:g} s: {why()}"
        time.sleep(0.02)
