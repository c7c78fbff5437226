# SPDX-License-Identifier: Apache-2.0
"""The config.json of `--config_path`, and the parts of its schema that decide (OVMS src/schema.cpp)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_ENTRY_KEYS: Final = frozenset({
    "name", "base_path", "graph_path", "subconfig", "target_device", "plugin_config", "nireq", "batch_size",
    "shape", "layout", "mean", "scale", "precision", "color_format", "model_version_policy", "allow_cache",
    "custom_loader_options", "metrics",
})  # fmt: skip
_GRAPH_KEYS: Final = frozenset({"name", "base_path", "graph_path", "subconfig"})
_TOP_KEYS: Final = frozenset({
    "model_config_list", "mediapipe_config_list", "pipeline_config_list", "custom_node_library_config_list",
    "custom_loader_config_list", "monitoring",
})  # fmt: skip


class ConfigFileError(ValueError):
    """The file is not a valid configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One servable of the file; paths are absolute."""

    name: str
    base_path: Path
    graph_path: Path | None = None
    target_device: str = "CPU"
    plugin_config: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """The whole file."""

    entries: tuple[Entry, ...]
    has_metrics: bool = False
    metrics_list: str = ""


def parse_config_file(text: str, *, base_dir: Path) -> ConfigFile:
    """Raises ConfigFileError naming the place; relative paths start at `base_dir`, the file's directory."""
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise ConfigFileError(f"not JSON: {exc}") from exc
    top = _object(value, "the file")
    _check_keys(top, _TOP_KEYS, "the file")
    if "model_config_list" not in top:
        raise ConfigFileError("model_config_list is required")
    entries: list[Entry] = []
    for index, item in enumerate(_list(top["model_config_list"], "model_config_list")):
        place = f"model_config_list[{index}]"
        wrapper = _object(item, place)
        _check_keys(wrapper, frozenset({"config"}), place)
        entries.append(
            _parse_entry(_object(wrapper.get("config"), f"{place}.config"), _ENTRY_KEYS, base_dir, place)
        )
    for index, item in enumerate(_list(top.get("mediapipe_config_list", []), "mediapipe_config_list")):
        place = f"mediapipe_config_list[{index}]"
        entries.append(_parse_entry(_object(item, place), _GRAPH_KEYS, base_dir, place))
    metrics = _object(
        _object(top.get("monitoring", {}), "monitoring").get("metrics", {}), "monitoring.metrics"
    )
    names = [str(name) for name in _list(metrics.get("metrics_list", []), "monitoring.metrics.metrics_list")]
    return ConfigFile(
        entries=tuple(entries), has_metrics=metrics.get("enable") is True, metrics_list=",".join(names)
    )


def _parse_entry(entry: Mapping[str, object], keys: frozenset[str], base_dir: Path, place: str) -> Entry:
    _check_keys(entry, keys, place)
    name = _text(entry.get("name"), f"{place}.name")
    # A graph's directory defaults to its name beside the file (mediapipegraphconfig.cpp).
    base_path = base_dir / _text(entry.get("base_path", name), f"{place}.base_path")
    graph_path = entry.get("graph_path")
    return Entry(
        name=name,
        base_path=base_path,
        graph_path=base_path / _text(graph_path, f"{place}.graph_path") if graph_path is not None else None,
        target_device=_text(entry.get("target_device", "CPU"), f"{place}.target_device"),
        plugin_config=_object(entry.get("plugin_config", {}), f"{place}.plugin_config"),
    )


def _check_keys(value: Mapping[str, object], known: frozenset[str], place: str) -> None:
    unknown = sorted(value.keys() - known)
    if unknown:
        raise ConfigFileError(f"{place}: key {unknown[0]!r} is not known")


def _object(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ConfigFileError(f"{place} must be an object")
    return value


def _list(value: object, place: str) -> list[object]:
    if not isinstance(value, list):
        raise ConfigFileError(f"{place} must be a list")
    return value


def _text(value: object, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigFileError(f"{place} must be a string that is not empty")
    return value
