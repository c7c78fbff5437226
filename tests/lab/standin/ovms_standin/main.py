# SPDX-License-Identifier: Apache-2.0
"""The life of the process: start order, signals and exit codes of OVMS (src/server.cpp)."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from lab.standin.ovms_standin import NAME, NOTICE, OVMS_VERSION
from lab.standin.ovms_standin.backends import choose_backend
from lab.standin.ovms_standin.engine_simulated import parse_pace
from lab.standin.ovms_standin.faults import Faults
from lab.standin.ovms_standin.flags import PULL_OPTIONS, Settings, UsageError, parse_settings, render_help
from lab.standin.ovms_standin.http_protocol import Connection
from lab.standin.ovms_standin.inference import Concurrency, Inference
from lab.standin.ovms_standin.loading import Backend, ConfigWatcher, Loader, StartError
from lab.standin.ovms_standin.log import MODELMANAGER, SERVING, open_log
from lab.standin.ovms_standin.metrics import Metrics, unknown_families
from lab.standin.ovms_standin.rest import Rest
from lab.standin.ovms_standin.servables import Registry
from lab.standin.ovms_standin.validation import HostLimits, check_settings, is_literal_address, rest_workers

_EXIT_START_FAILED: Final = 1
_EXIT_USAGE: Final = 64
_SIGNAL_POLL_SEC: Final = 0.2
_GATE_POLL_SEC: Final = 0.01
_BACKLOG: Final = 4096


def main(arguments: Sequence[str]) -> int:
    """Runs until a signal; the exit codes are those of OVMS: 0, 1 (cannot start), 64 (usage)."""
    try:
        settings = parse_settings(arguments)
        if settings.has("version"):
            sys.stdout.write(_render_version())
            return 0
        if settings.has("help") or not arguments:
            sys.stdout.write(render_help() + "\n")
            return 0
        limits = _read_limits()
        if any(settings.has(option) for option in PULL_OPTIONS):
            sys.stderr.write("the stand-in serves models: it downloads nothing and edits no configuration\n")
            return _EXIT_START_FAILED
        check_settings(settings, limits)
        api_key = _read_api_key(settings, os.environ)
    except UsageError as exc:
        sys.stderr.write(f"{exc}\n")
        return _EXIT_USAGE
    open_log(settings.text("log_level"), path=settings.text("log_path") or None)
    try:
        asyncio.run(Server(settings, limits, api_key).run())
    except StartError as exc:
        SERVING.error("%s", exc)
        return exc.exit_code
    return 0


class Server:
    """One process: the modules of OVMS in their order of start and stop."""

    def __init__(self, settings: Settings, limits: HostLimits, api_key: str) -> None:
        self._settings = settings
        self._workers = rest_workers(settings, limits)
        self._registry = Registry()
        self._metrics = Metrics(names=settings.text("metrics_list"))
        faults_file = os.environ.get("OVMS_STANDIN_FAULTS")
        self._faults = Faults(Path(faults_file) if faults_file else None)
        inference = Inference(
            registry=self._registry,
            metrics=self._metrics,
            concurrency=Concurrency(
                rest_workers=self._workers,
                cpu_count=limits.cpu_count,
                is_graph_queue_off=os.environ.get("OVMS_GRAPH_QUEUE_OFF") == "1",
            ),
            faults=self._faults,
            api_key=api_key,
        )
        self._rest = Rest(
            registry=self._registry,
            metrics=self._metrics,
            inference=inference,
            is_metrics_enabled=settings.switch("metrics_enable"),
        )
        self._connections: set[Connection] = set()
        self._is_stop_asked = asyncio.Event()

    async def run(self) -> None:
        """Returns after SIGTERM or SIGINT. Raises StartError."""
        for number in (signal.SIGTERM, signal.SIGINT):
            # A flag only: nobody looks at it before the load is over.
            asyncio.get_running_loop().add_signal_handler(number, self._is_stop_asked.set)
        SERVING.info("%s %s (%s)", NAME, OVMS_VERSION, NOTICE)
        backend, sentence = choose_backend(os.environ, pace=parse_pace(os.environ), faults=self._faults)
        SERVING.info("Stand-in engine: %s", sentence)
        _check_metrics_list(self._settings.text("metrics_list"))
        servers = await self._open_rest()
        try:
            watching = await self._load(backend)
            self._rest.is_started = True
            SERVING.info("ServableManagerModule started")
            await self._is_stop_asked.wait()
            # OVMS looks at its flag five times a second; this is the mean delay.
            await asyncio.sleep(_SIGNAL_POLL_SEC / 2)
            for task in watching:
                task.cancel()
        finally:
            self._stop(servers)

    async def _open_rest(self) -> list[asyncio.Server]:
        """Opens the ports. Raises StartError when one is taken; aborts on a host name, as drogon does."""
        addresses = self._settings.text("rest_bind_address").split(",")
        port = self._settings.count("rest_port")
        if not port:
            return []
        if not all(map(is_literal_address, addresses)):
            sys.stderr.write(f"FATAL invalid address in {addresses}\n")
            sys.stderr.flush()
            os.abort()
        SERVING.info("Will start %d REST workers", self._workers)
        loop = asyncio.get_running_loop()
        servers: list[asyncio.Server] = []
        try:
            for address in addresses:
                servers.append(await loop.create_server(self._connection, address, port, backlog=_BACKLOG))
        except OSError as exc:
            raise StartError(f"Failed to start REST server at {addresses[0]}:{port}: {exc}") from exc
        SERVING.info("Started REST server at %s:%d", addresses[0], port)
        return servers

    def _connection(self) -> Connection:
        return Connection(self._rest.answer, self._connections)

    async def _load(self, backend: Backend) -> list["asyncio.Task[None]"]:
        """The first load pass; the tasks that watch for changes afterwards."""
        loader = Loader(self._registry, self._metrics, backend, _load_delay(os.environ))
        config_path = self._settings.text("config_path")
        if not config_path:
            try:
                await loader.load_single(self._settings)
            except StartError as exc:
                MODELMANAGER.error("ovms::ModelManager::Start() Error: %s", exc)
                raise
            return []
        watcher = ConfigWatcher(Path(config_path), loader)
        config = watcher.read_config()
        if config.has_metrics:
            if self._settings.switch("metrics_enable"):
                raise StartError("metrics_enable and monitoring in the configuration exclude each other")
            _check_metrics_list(config.metrics_list)
            self._rest.is_metrics_enabled = True
        await loader.load_config(config)
        self._rest.watcher = watcher
        interval_sec = self._settings.count("file_system_poll_wait_seconds")
        return [asyncio.get_running_loop().create_task(watcher.watch(interval_sec))] if interval_sec else []

    def _stop(self, servers: Sequence[asyncio.Server]) -> None:
        """Cuts every connection first; no request is waited for."""
        SERVING.info("HTTPServerModule shutting down")
        for server in servers:
            server.close()
        for connection in tuple(self._connections):
            connection.abort()
        SERVING.info("Shutdown HTTP server")
        self._registry.close()
        SERVING.info("ServableManagerModule shutdown")


def _load_delay(environment: Mapping[str, str]) -> Callable[[], Awaitable[None]]:
    """OVMS_STANDIN_LOAD_SEC makes a load longer; OVMS_STANDIN_LOAD_GATE names a file that holds it back."""
    seconds = float(environment.get("OVMS_STANDIN_LOAD_SEC") or 0)
    gate = environment.get("OVMS_STANDIN_LOAD_GATE")

    async def delay() -> None:
        await asyncio.sleep(seconds)
        if gate:
            await asyncio.to_thread(_wait_until_gone, Path(gate))

    return delay


def _wait_until_gone(path: Path) -> None:
    while path.exists():
        time.sleep(_GATE_POLL_SEC)  # in a thread of its own, as a model that loads is


def _check_metrics_list(names: str) -> None:
    unknown = unknown_families(names)
    if unknown:
        raise StartError(f"Invalid name in metrics_list: {unknown[0]}")


def _read_limits() -> HostLimits:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    return HostLimits(cpu_count=os.cpu_count() or 1, open_files=open_files)


def _read_api_key(settings: Settings, environment: Mapping[str, str]) -> str:
    """First line of --api_key_file, else API_KEY. Raises UsageError when the file cannot be read."""
    path = settings.text("api_key_file")
    if not path:
        return environment.get("API_KEY", "")
    try:
        return (Path(path).read_text(encoding="utf-8").splitlines() or [""])[0].rstrip()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"Unable to open API key file: {path}: {exc}") from exc


def _render_version() -> str:
    backend = "none: simulated"
    with contextlib.suppress(ImportError):
        import openvino

        backend = openvino.__version__
    return f"{NAME} {OVMS_VERSION} ({NOTICE})\nOpenVINO backend {backend}\nBazel build flags: none\n"
