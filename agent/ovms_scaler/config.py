# SPDX-License-Identifier: Apache-2.0
"""Finds, reads and merges the configuration files into one Spec."""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ovms_scaler.core.release import root_of
from ovms_scaler.core.rules import parse_spec
from ovms_scaler.core.spec import Spec
from ovms_scaler.core.table import Reader
from ovms_scaler.errors import ConfigError, HostError, InputError, Problem
from ovms_scaler.host.releases import read_pinned

CONFIG_FILE = Path("/etc/ovms-scaler/config.toml")
# Far beyond any real configuration; a device or a log given by mistake must not fill the memory.
MAX_FILE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    file: str
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration that keeps every rule of its own, and the file that each key path stands in.

    ``release`` is which of several releases of OVMS its instances are started from, "" where there is one.
    """

    file: str
    spec: Spec
    merged: Mapping[str, Any]
    origins: Mapping[str, str]
    release: str = ""

    def document(self) -> dict[str, Any]:
        """What ``restore_config`` takes, in plain JSON types."""
        release = {"release": self.release} if self.release else {}
        return {"file": self.file, "merged": dict(self.merged), "origins": dict(self.origins), **release}

    def locate(self, error: ConfigError) -> ConfigError:
        """The same problems with file and value of each key; some come to light only on the machine."""
        return _locate(error, self.merged, partial(_origin, origins=self.origins, default=self.file))


def read_config(file: Path = CONFIG_FILE, *, text: str | None = None) -> Config:
    """What is written, with the release in force. Raises ConfigError with everything that is wrong."""
    config = read_written(file, text=text)
    return replace(config, release=_read_release(config))


def read_written(file: Path = CONFIG_FILE, *, text: str | None = None) -> Config:
    """What is written: ``file``, then each ``*.toml`` of config.d beside it, in order of name.

    ``text`` stands in place of what is in ``file``, which need not be there yet. A later file adds pools and
    overrides single keys of the other tables. Raises ConfigError with everything that is wrong in any of
    them.
    """
    problems: list[Problem] = []
    texts = {} if text is None else {file: text.encode()}
    paths = _files(file, problems)
    layers = [layer for path in paths if (layer := _read_layer(path, problems, texts.get(path))) is not None]
    if problems:
        raise ConfigError(problems)
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        _merge(merged, layer.document, "", layer.file, origins)
    origin = partial(_origin, origins=origins, default=str(file))
    try:
        spec = parse_spec(merged, Reader(origin))
    except ConfigError as error:
        raise _locate(error, merged, origin) from None
    return Config(file=str(file), spec=spec, merged=merged, origins=origins)


def restore_config(document: object) -> Config:
    """A configuration from its ``document()``. Raises InputError when it is not one."""
    match document:
        case {"file": str(file), "merged": dict(merged), "origins": dict(origins), **more}:
            spec = parse_spec(merged, Reader(lambda path: _origin(path, origins, file)))
            release = str(more.get("release", ""))
            return Config(file=file, spec=spec, merged=merged, origins=origins, release=release)
        case _:
            raise InputError("cannot read the configuration that was accepted before: it is not one of ours")


def _read_release(config: Config) -> str:
    """As chosen with ``ovms-scalerctl engine``: what instances are started from is configuration, too."""
    try:
        root = root_of(config.spec.engine)
    except InputError:
        return ""  # it is kept otherwise
    try:
        return read_pinned(Path(root))
    except HostError as error:
        problem = Problem(file="", key="engine.binary", rule=error.message, hint=error.hint)
        raise config.locate(ConfigError([problem])) from error


def _files(file: Path, problems: list[Problem]) -> list[Path]:
    directory = file.parent / "config.d"
    try:
        return [file, *sorted(path for path in directory.iterdir() if path.suffix == ".toml")]
    except (FileNotFoundError, NotADirectoryError):
        return [file]
    except OSError as error:
        # Without what is in it another configuration would be judged than the agent's.
        problems.append(Problem(file=str(directory), key="", rule=f"cannot read: {error.strerror}"))
        return [file]


def _read_layer(path: Path, problems: list[Problem], data: bytes | None = None) -> _Layer | None:
    def refuse(rule: str, hint: str | None = None) -> None:
        problems.append(Problem(file=str(path), key="", rule=rule, hint=hint))

    try:
        if data is None:
            with path.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        refuse(f"cannot read: {error.strerror}", _way_out(error))
        return None
    if len(data) > MAX_FILE_BYTES:
        refuse(f"must not be larger than {MAX_FILE_BYTES} bytes")
        return None
    try:
        return _Layer(file=str(path), document=tomllib.loads(data.decode()))
    except UnicodeDecodeError as error:
        refuse(f"must be UTF-8, and byte {error.start} is not", "save the file as UTF-8")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        refuse(f"is not TOML: {error}", "strings need quotes; tables are [name], pools are [[pool]]")
    return None


def _way_out(error: OSError) -> str | None:
    if isinstance(error, FileNotFoundError):
        return "`ovms-scalerctl init` writes one from what it finds"
    return "run this as root" if isinstance(error, PermissionError) else None


def _merge(
    into: dict[str, Any], document: Mapping[str, Any], prefix: str, file: str, origins: dict[str, str]
) -> None:
    for name, value in document.items():
        here = f"{prefix}.{name}" if prefix else name
        present = into.get(name)
        if isinstance(value, Mapping) and isinstance(present, dict):
            _merge(present, value, here, file, origins)
        elif isinstance(value, list) and isinstance(present, list) and not prefix:
            for index in range(len(present), len(present) + len(value)):
                origins[f"{here}[{index}]"] = file
            into[name] = present + value
        else:
            origins[here] = file
            into[name] = dict(value) if isinstance(value, Mapping) else value
            if isinstance(value, Mapping):
                origins |= {f"{here}.{key}": file for key in value}


def _locate(error: ConfigError, merged: Mapping[str, Any], origin: Callable[[str], str]) -> ConfigError:
    return ConfigError(
        replace(problem, file=problem.file or origin(problem.key), value=_value(problem.key, merged))
        for problem in error.problems
    )


def _value(path: str, merged: Mapping[str, Any]) -> object:
    """What stands under a key, None when nothing does, or a name in quotes makes the path ambiguous."""
    here: Any = merged
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            here = here[int(index)] if index else here[name]
        except (LookupError, TypeError):
            return None
    return here if path else None


def _origin(path: str, origins: Mapping[str, str], default: str) -> str:
    while path:
        if path in origins:
            return origins[path]
        # Names in quotes may hold anything: each step makes the path shorter, whatever it is.
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return default
