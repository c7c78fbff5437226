# SPDX-License-Identifier: Apache-2.0
"""The configurations that are compared: the agent must accept each before the first is put in force."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovms_scaler.bench.whole import make_whole, note_confined
from ovms_scaler.errors import ConfigError, HostError, RefusedError

Document = Mapping[str, Any]


def find_config(status: Document) -> Path:
    """The configuration file of an agent whose configuration may be changed now.

    Raises RefusedError, and ConfigError where the file is not what the agent goes by.
    """
    from ovms_scaler.config import read_config
    from ovms_scaler.releases.releases import is_taken

    if (status.get("orders") or {}).get("paused_since") is not None:
        raise RefusedError(
            "cannot change the configuration: the agent is paused", hint="ovms-scalerctl resume"
        )
    config = status.get("config") or {}
    if error := config.get("error"):
        raise RefusedError(
            f"cannot begin: the configuration is not accepted: {error}", hint="ovms-scalerctl check-config"
        )
    file = Path(str(config.get("file")))
    if not is_taken(read_config(file)):
        raise RefusedError(
            f"cannot begin: {file} has changed since the agent took it, and would be in force afterwards",
            hint="ovms-scalerctl plan; then: ovms-scalerctl reload --wait",
        )
    return file


def read_other_config(path: Path, file: Path) -> bytes:
    """A configuration that the agent would accept in place of ``file``. Raises ConfigError and HostError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}", hint="--compare A.toml B.toml") from error
    _check(content, file, name=str(path))
    return content


def name_sides(one: Path, two: Path) -> tuple[str, str]:
    """Names by which people tell them apart, as short as can be."""
    if one.name != two.name:
        return one.name, two.name
    if one != two:
        return str(one), str(two)
    return f"{one.name}, the first", f"{two.name}, the second"


def read_whole_config(file: Path) -> tuple[bytes, list[str]]:
    """``file`` with one unbound instance for each pool on NUMA nodes, and what to know of it.

    Raises ScalerError.
    """
    try:
        text = file.read_text()
        content, notes = make_whole(text).encode(), note_confined(text)
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"cannot read {file}: {error}", hint="run this as root") from error
    _check(content, file, name=f'{file} with placement = "whole"')
    return content, notes


def _check(content: bytes, file: Path, *, name: str) -> None:
    """Judge it beside the other one, as config.d there counts.

    Raises ConfigError, which has ``name`` for it, and HostError.
    """
    from ovms_scaler.config import read_config
    from ovms_scaler.offline import preview

    beside = file.with_name(f".{file.name}.bench-check")
    try:
        beside.write_bytes(content)
        preview(read_config(beside))
    except ConfigError as error:
        renamed = (replace(one, file=one.file.replace(str(beside), name)) for one in error.problems)
        raise ConfigError(renamed) from error
    except OSError as error:
        raise HostError(f"cannot write {beside}: {error.strerror}", hint="run this as root") from error
    finally:
        try:
            beside.unlink(missing_ok=True)
        except OSError as error:
            raise HostError(f"cannot remove {beside}: {error.strerror}") from error
