# SPDX-License-Identifier: Apache-2.0
"""The configurations that are compared: the agent must accept each before the first is put in force."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovms_scaler.bench.whole import make_whole
from ovms_scaler.errors import HostError, RefusedError

Document = Mapping[str, Any]


def find_config(status: Document) -> Path:
    """The configuration file of an agent whose configuration may be changed now. Raises RefusedError."""
    if (status.get("orders") or {}).get("paused_since") is not None:
        raise RefusedError(
            "cannot change the configuration: the agent is paused", hint="ovms-scalerctl resume"
        )
    config = status.get("config") or {}
    if error := config.get("error"):
        raise RefusedError(
            f"cannot begin: the configuration is not accepted: {error}", hint="ovms-scalerctl check-config"
        )
    return Path(str(config.get("file")))


def read_other_config(path: Path, file: Path) -> bytes:
    """A configuration that the agent would accept in place of ``file``. Raises ConfigError and HostError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}", hint="--compare A.toml B.toml") from error
    _check(content, file)
    return content


def read_whole_config(file: Path) -> bytes:
    """``file`` with one unbound instance for each pool on NUMA nodes. Raises ScalerError."""
    try:
        content = make_whole(file.read_text()).encode()
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"cannot read {file}: {error}", hint="run this as root") from error
    _check(content, file)
    return content


def _check(content: bytes, file: Path) -> None:
    """Judge it beside the other one, as config.d there counts. Raises ConfigError and HostError."""
    from ovms_scaler.config import read_config
    from ovms_scaler.offline import preview

    beside = file.with_name(f".{file.name}.bench-check")
    try:
        beside.write_bytes(content)
        preview(read_config(beside))
    except OSError as error:
        raise HostError(f"cannot write {beside}: {error.strerror}", hint="run this as root") from error
    finally:
        try:
            beside.unlink(missing_ok=True)
        except OSError as error:
            raise HostError(f"cannot remove {beside}: {error.strerror}") from error
