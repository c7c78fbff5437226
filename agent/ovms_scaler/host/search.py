# SPDX-License-Identifier: Apache-2.0
"""Looks for what a first configuration needs: models in OpenVINO format, and the engine's program."""

import os
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ovms_scaler.core.model import ModelFacts
from ovms_scaler.core.spec import Pool
from ovms_scaler.core.spec_engine import Engine
from ovms_scaler.host.models import read_model

# Where the documents of OVMS, and of ours, have models put.
MODEL_DIRECTORIES = (Path("/srv/models"), Path("/opt/models"), Path("/var/lib/ovms/models"))
# Beyond the repository/org/name/version of any real tree; a whole file system is not searched by mistake.
_MAX_DEPTH = 4
_MAX_DIRECTORIES = 20_000
_MAX_SEC = 10.0
_CONFIG = "config.json"
# What a directory has that is, or was meant to be, a model; "model_index.json" names the parts below it.
_SIGNS = (".xml", ".onnx", ".pdmodel", ".tflite", ".safetensors", ".gguf", "graph.pbtxt", "model_index.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What was found, by path. ``refused`` look like models that cannot be served.

    ``missed`` says why there may be more, "" when all was looked at.
    """

    models: tuple[ModelFacts, ...] = ()
    refused: tuple[ModelFacts, ...] = ()
    missed: str = ""


def find_program(path: str, *, default: str = Engine().binary) -> str | None:
    """The path of ``ovms``: where its archive is unpacked by default, else in a directory of ``path``.

    A link there is followed, since the program's libraries lie beside what it names.
    """
    if os.path.isfile(default) and os.access(default, os.X_OK):
        return default
    found = shutil.which(os.path.basename(default), path=path)
    return os.path.realpath(found) if found is not None else None


def read_path(path: str) -> ModelFacts:
    """The model that a path names: a directory, or an OVMS config.json."""
    is_config = os.path.isfile(path)
    return read_model(
        Pool(name="found", config_path=path) if is_config else Pool(name="found", model_path=path)
    )


def find_models(
    directories: Iterable[Path], *, max_directories: int = _MAX_DIRECTORIES, max_sec: float = _MAX_SEC
) -> Search:
    """The models in and below ``directories``, of which those that do not exist are left out.

    A model is not looked into, a hidden directory neither. Links are followed last, so that a model is found
    by its own path, and once.
    """
    walk = _Walk(directories, max_directories=max_directories, until_sec=time.monotonic() + max_sec)
    found = list(walk.read())
    return Search(
        models=_sorted(one for one in found if one.problem is None),
        refused=_sorted(one for one in found if one.problem is not None),
        missed=walk.missed,
    )


class _Walk:
    """One look at some directories and those below them, the upper ones first."""

    def __init__(self, directories: Iterable[Path], *, max_directories: int, until_sec: float) -> None:
        self.missed = ""
        self._ways = deque((os.path.abspath(one), 0) for one in directories)
        self._links: deque[tuple[str, int]] = deque()
        self._seen: set[tuple[int, int]] = set()
        self._max_directories = max_directories
        self._until_sec = until_sec

    def read(self) -> Iterator[ModelFacts]:
        while self._ways or self._links:
            path, depth = (self._ways or self._links).popleft()
            if len(self._seen) >= self._max_directories or time.monotonic() > self._until_sec:
                self.missed = f"the search ended at {path!r}, after {len(self._seen)} directories"
                return
            try:
                entries = self._list(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                self.missed = self.missed or f"cannot look into {path!r}: {error.strerror}"
                continue
            model = _read_directory(path, entries)
            if model is not None:
                yield model
            if model is not None and model.problem is None:
                continue
            yield from _read_config(path, entries)
            if depth < _MAX_DEPTH:
                self._go_below(entries, depth + 1)

    def _list(self, path: str) -> list["os.DirEntry[str]"]:
        """What a directory holds, nothing if it was seen before. Raises OSError."""
        status = os.stat(path)
        if (identity := (status.st_dev, status.st_ino)) in self._seen:
            return []
        self._seen.add(identity)
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    def _go_below(self, entries: list["os.DirEntry[str]"], depth: int) -> None:
        for entry in entries:
            if not entry.name.startswith(".") and entry.is_dir():
                (self._links if entry.is_symlink() else self._ways).append((entry.path, depth))


def _read_directory(path: str, entries: list["os.DirEntry[str]"]) -> ModelFacts | None:
    """The model that a directory is, or was meant to be; None for one that looks like none."""
    has_signs = any(entry.name.endswith(_SIGNS) for entry in entries)
    has_versions = any(entry.name.isdigit() and entry.is_dir() for entry in entries)
    if not has_signs and not has_versions:
        return None
    facts = read_path(path)
    return facts if has_signs or facts.problem is None else None


def _read_config(path: str, entries: list["os.DirEntry[str]"]) -> Iterator[ModelFacts]:
    """An OVMS config.json; other programs have files of that name, too."""
    if any(entry.name == _CONFIG and entry.is_file() for entry in entries):
        facts = read_path(os.path.join(path, _CONFIG))
        if facts.problem is None:
            yield facts


def _sorted(models: Iterable[ModelFacts]) -> tuple[ModelFacts, ...]:
    return tuple(sorted(models, key=lambda one: one.path))
