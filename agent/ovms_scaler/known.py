# SPDX-License-Identifier: Apache-2.0
"""Names that are known on this host without the agent, read so quickly that a shell can wait for them.

Nothing is judged here, and what cannot be read has no names.
"""

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Where core.unit has the agent write the drop-in of each instance; to import that would take too long.
_UNITS = Path("/run/systemd/system")
_DIRECTORY = re.compile(r"ovms@(.+)\.service\.d")


def list_instances(units: Path = _UNITS) -> list[str]:
    """Instances that have files."""
    try:
        names = os.listdir(units)
    except OSError:
        return []
    return sorted(found[1] for name in names if (found := _DIRECTORY.fullmatch(name)))


def list_pools(file: Path) -> list[str]:
    """The pools in a configuration and in the config.d beside it."""
    names: list[str] = []
    for document in _read_documents(file):
        pools = document.get("pool")
        for pool in pools if isinstance(pools, list) else ():
            name = pool.get("name") if isinstance(pool, dict) else None
            names += [name] if isinstance(name, str) else []
    return list(dict.fromkeys(names))


def list_releases(file: Path) -> list[str]:
    """The releases of OVMS beside the program that a configuration names."""
    from ovms_scaler.core.release import root_of
    from ovms_scaler.core.spec_engine import Engine
    from ovms_scaler.errors import InputError
    from ovms_scaler.host import releases

    binary = Engine().binary
    for document in _read_documents(file):
        engine = document.get("engine")
        given = engine.get("binary") if isinstance(engine, dict) else None
        binary = given if isinstance(given, str) else binary
    try:
        return list(releases.list_releases(Path(root_of(Engine(binary=binary)))))
    except InputError:
        return []


def _read_documents(file: Path) -> Iterator[dict[str, Any]]:
    for path in (file, *sorted((file.parent / "config.d").glob("*.toml"))):
        try:
            yield tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
