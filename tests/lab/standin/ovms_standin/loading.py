# SPDX-License-Identifier: Apache-2.0
"""Loading, reloading and retiring servables, in the order and with the results that OVMS shows."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from lab.standin.ovms_standin.classic import newest_version
from lab.standin.ovms_standin.config_file import ConfigFile, ConfigFileError, Entry, parse_config_file
from lab.standin.ovms_standin.config_status import ErrorCode, State, VersionStatus
from lab.standin.ovms_standin.engine import Engine, EngineError
from lab.standin.ovms_standin.flags import GRAPH_OPTIONS, MODEL_OPTIONS, Settings
from lab.standin.ovms_standin.graph import (
    GraphError,
    GraphSettings,
    find_graph_file,
    graph_from_options,
    parse_graph,
    parse_plugin_config,
)
from lab.standin.ovms_standin.log import MODELMANAGER
from lab.standin.ovms_standin.metrics import Metrics
from lab.standin.ovms_standin.servables import ClassicModel, Graph, GraphState, Registry

_WITH_GRAPH_FILE: Final = frozenset({"model_name", "model_path", "plugin_config"})


class StartError(Exception):
    """The process cannot start; it ends with this exit code."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class ReloadError(Exception):
    """A reload failed: the text of the answer and its HTTP status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Backend(Protocol):
    """Makes engines: OpenVINO or simulated."""

    async def load_engine(self, graph: GraphSettings) -> Engine:
        """Raises EngineError."""

    async def load_classic(self, model: ClassicModel, version_dir: Path, entry: Entry) -> None:
        """Fills ports and the compiled model. Raises EngineError."""


@dataclass(slots=True)
class Loader:
    """Brings a registry in line with the command line or with config.json."""

    registry: Registry
    metrics: Metrics
    backend: Backend
    delay: Callable[[], Awaitable[None]]  # what makes every load slower, for tests

    async def load_single(self, settings: Settings) -> None:
        """`--model_path`: any failure is a StartError."""
        name = settings.text("model_name")
        model_dir = _checked_dir(settings.text("model_path"))
        graph_file = find_graph_file(model_dir)
        in_memory = any(settings.has(option) for option in GRAPH_OPTIONS)
        try:
            if in_memory or (graph_file is None and _is_language_model(model_dir)):
                graph = graph_from_options(settings, model_dir=model_dir)
                await self._load_graph(name, "in memory", graph)
            elif graph_file is not None:
                _check_graph_file_options(settings)
                await self._load_graph(name, "", _read_graph(graph_file))
            else:
                plugin_config = parse_plugin_config(settings.text("plugin_config"))
                device = settings.text("target_device") or "CPU"
                await self._load_classic(
                    Entry(name=name, base_path=model_dir, target_device=device, plugin_config=plugin_config),
                    is_raising=True,
                )
        except (GraphError, EngineError) as exc:
            raise StartError(str(exc)) from exc

    async def load_config(self, config: ConfigFile) -> None:
        """All servables of the file, one after the other; failures show in their states only."""
        for entry in config.entries:
            graph_file = entry.graph_path or find_graph_file(entry.base_path)
            known = self.registry.by_name.get(entry.name)
            if graph_file is not None and not isinstance(known, ClassicModel):
                await self._load_changed_graph(entry.name, graph_file)
            elif not isinstance(known, Graph):
                await self._load_classic(entry, is_raising=False)
        self._retire_all_but({entry.name for entry in config.entries})

    async def _load_changed_graph(self, name: str, graph_file: Path) -> None:
        known = self.registry.by_name.get(name)
        fingerprint = _read_fingerprint(graph_file)
        if isinstance(known, Graph):
            if known.fingerprint == fingerprint and known.state is not GraphState.retired:
                return
            known.state = GraphState.reloading
            if known.engine is not None:
                known.engine.close()
        try:
            await self._load_graph(name, fingerprint, _read_graph(graph_file))
        except (GraphError, EngineError) as exc:
            text = "Error during llm node initialization for models_path: %s exception: %s"
            MODELMANAGER.error(text, graph_file, exc)
            self._log_graph_state(name, GraphState.failed, "ValidationFailedEvent")
            # Only now is the failed definition in the map; it is not tried again until its file changes.
            self.registry.by_name[name] = Graph(name=name, fingerprint=fingerprint, state=GraphState.failed)

    async def _load_graph(self, name: str, fingerprint: str, graph: GraphSettings) -> None:
        """The graph is registered when its model is loaded, not before: until then `/v1/config` is `{}`."""
        await self.delay()
        engine = await self.backend.load_engine(graph)
        self.metrics.declare_graph(name)
        self.registry.by_name[name] = Graph(
            name=name,
            fingerprint=fingerprint,
            state=GraphState.available,
            settings=graph,
            engine=engine,
        )
        MODELMANAGER.info("Serving %s on %s with %s", name, graph.device, engine.description)
        self._log_graph_state(name, GraphState.available, "ValidationPassedEvent")

    def _log_graph_state(self, name: str, state: GraphState, event: str) -> None:
        MODELMANAGER.info("Mediapipe: %s state changed to: %s after handling: %s: ", name, state, event)

    async def _load_classic(self, entry: Entry, *, is_raising: bool) -> None:
        """Loads the newest version unless it serves already; an earlier one ends."""
        model = self.registry.by_name.get(entry.name)
        if not isinstance(model, ClassicModel):
            model = ClassicModel(name=entry.name, base_path=entry.base_path)
            self.registry.by_name[entry.name] = model
        version = newest_version(entry.base_path)
        if version is None or model.versions.get(version) == VersionStatus(
            version=version, state=State.available
        ):
            return
        self._log_classic_state(model, VersionStatus(version=version, state=State.loading))
        await self.delay()
        try:
            await self.backend.load_classic(model, entry.base_path / str(version), entry)
        except EngineError as exc:
            MODELMANAGER.error("Cannot load model: %s; error: %s", entry.name, exc)
            failed = VersionStatus(version=version, state=State.loading, error=ErrorCode.unknown)
            self._log_classic_state(model, failed)
            if is_raising:
                raise
            return
        for other in model.versions:
            if other != version:
                self._log_classic_state(model, VersionStatus(version=other, state=State.end))
        self._log_classic_state(model, VersionStatus(version=version, state=State.available))

    def _log_classic_state(self, model: ClassicModel, status: VersionStatus) -> None:
        model.versions[status.version] = status
        MODELMANAGER.info(
            "STATUS CHANGE: Version %d of model %s status change. "
            'New status: ( "state": "%s", "error_code": "%s" )',
            status.version,
            model.name,
            status.state,
            status.error,
        )

    def _retire_all_but(self, names: set[str]) -> None:
        for name, servable in self.registry.by_name.items():
            if name in names:
                continue
            if isinstance(servable, Graph):
                servable.state = GraphState.retired
                if servable.engine is not None:
                    servable.engine.close()
                    servable.engine = None
            else:
                for version in servable.versions:
                    servable.versions[version] = VersionStatus(version=version, state=State.end)


class ConfigWatcher:
    """Loads config.json at the start, on request, and when it or a graph changes (every poll interval)."""

    def __init__(self, path: Path, loader: Loader) -> None:
        self.path = path / "config.json" if path.is_dir() else path
        self._loader = loader
        self._lock = asyncio.Lock()

    def read_config(self) -> ConfigFile:
        """Raises StartError: missing, not JSON, or against the schema."""
        try:
            return parse_config_file(self.path.read_text(encoding="utf-8"), base_dir=self.path.parent)
        except (OSError, UnicodeDecodeError, ConfigFileError) as exc:
            raise StartError(f"Configuration file is not valid: {self.path}: {exc}") from exc

    def _read_config_again(self) -> ConfigFile:
        if not self.path.is_file():
            raise ReloadError("Config file not found or cannot open.", 500)
        try:
            return self.read_config()
        except StartError as exc:
            raise ReloadError("Reloading config file failed. Check server logs for more info.", 412) from exc

    async def reload(self) -> None:
        """`POST /v1/config/reload`. Raises ReloadError; other servables keep serving."""
        config = self._read_config_again()
        async with self._lock:
            await self._loader.load_config(config)
        if _has_missing_dir(config):
            raise ReloadError("Reloading config file failed. Check server logs for more info.", 400)
        states = [status for versions in self._loader.registry.statuses().values() for status in versions]
        if any(status.error is not ErrorCode.ok for status in states):
            raise ReloadError("Reloading models versions failed. Check server logs for more info.", 500)

    async def watch(self, interval_sec: float) -> None:
        """Looks at the file for ever; what is wrong with it is logged, and what serves goes on serving."""
        while True:
            await asyncio.sleep(interval_sec)
            try:
                config = self.read_config()
            except StartError as exc:
                MODELMANAGER.error("%s", exc)
                continue
            async with self._lock:
                await self._loader.load_config(config)


def _checked_dir(text: str) -> Path:
    if not Path(text).is_dir():
        raise StartError(f"The provided base path is invalid or doesn't exist: {text}")
    return Path(text)


def _has_missing_dir(config: ConfigFile) -> bool:
    return not all(entry.base_path.is_dir() for entry in config.entries)


def _read_fingerprint(graph_file: Path) -> str:
    """What changes with the graph's place or text."""
    try:
        digest = hashlib.md5(graph_file.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError:
        digest = "missing"
    return f"{graph_file}:{digest}"


def _is_language_model(model_dir: Path) -> bool:
    """Whether OVMS would infer a task from the directory (cli_parser.cpp since 2026.3)."""
    return (model_dir / "config.json").is_file() or (model_dir / "model_index.json").is_file()


def _check_graph_file_options(settings: Settings) -> None:
    surplus = sorted(name for name in settings.given if name in MODEL_OPTIONS - _WITH_GRAPH_FILE)
    if surplus:
        raise StartError(
            f"Starting mediapipe graph with unsupported model settings: {', '.join(surplus)}", 64
        )


def _read_graph(path: Path) -> GraphSettings:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise GraphError(f"cannot read {path}: {exc}") from exc
    return parse_graph(text, base_dir=path.parent)
