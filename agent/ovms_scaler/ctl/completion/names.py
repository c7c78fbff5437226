# SPDX-License-Identifier: Apache-2.0
"""Words to complete that are known on the host only."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ovms_scaler import known
from ovms_scaler.ctl import client
from ovms_scaler.errors import ScalerError

# Whoever presses the key waits for it.
TIMEOUT_SEC = 0.5

# bash expands words that it completes: what is not plain is nobody's name, and would be a command.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+~-]*")

Name = tuple[str, str]


def list_names(kind: str, config_file: Path, socket: Path) -> list[Name]:
    """Words of one kind, and what there is to say of each; none when nobody knows any."""
    return [(name, more) for name, more in _list_all(kind, config_file, socket) if _WORD.fullmatch(name)]


def _list_all(kind: str, config_file: Path, socket: Path) -> list[Name]:
    if kind == "releases":
        return [(name, "") for name in known.list_releases(config_file)]
    if kind == "checks":
        from ovms_scaler.core.checks.catalogue import CHECKS

        return list(CHECKS.items())
    try:
        document: dict[str, Any] = client.read_status(socket, timeout_sec=TIMEOUT_SEC)
    except ScalerError:
        instances = [(name, "") for name in known.list_instances()]
        pools = [(name, "pool") for name in known.list_pools(config_file)]
    else:
        instances = list(_read(document, "instances", "id", "state"))
        pools = [(name, "pool") for name, _ in _read(document, "pools", "name", "")]
    return {"instances": instances, "pools": pools}.get(kind, instances + pools)


def _read(document: dict[str, Any], table: str, key: str, more: str) -> Iterator[Name]:
    """What of it can be used: the agent may be another version."""
    rows = document.get(table)
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and isinstance(row.get(key), str):
            yield row[key], str(row.get(more) or "")
