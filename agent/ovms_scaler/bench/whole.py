# SPDX-License-Identifier: Apache-2.0
"""The configuration that placement is measured against: one unbound instance for each pool on CPUs."""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from ovms_scaler.core.rules import WITHOUT_EFFECT
from ovms_scaler.core.spec import Placement
from ovms_scaler.errors import InputError

_BARE = re.compile(r"[A-Za-z0-9_-]+")


# Keys by which a pool keeps to a part of the machine.
_CONFINING = ("nodes", "reserve_cpus")


def make_whole(text: str) -> str:
    """The configuration with ``placement = "whole"`` in each pool on NUMA nodes.

    Raises InputError without any, and when it is not TOML.
    """
    document = _read(text)
    changed = _list_pools(document)
    if not changed:
        raise InputError('no pool of the file has placement = "numa", so there is nothing to compare with')
    for pool in changed:
        for name in WITHOUT_EFFECT[Placement.whole]:
            pool.pop(name, None)
        pool["placement"] = Placement.whole.value
    return (
        "# The same with one unbound instance in place of one for each NUMA node, for a comparison.\n"
        + render_toml(document)
    )


def note_confined(text: str) -> list[str]:
    """What to know of the comparison where pools have a part of the machine only. Raises InputError."""
    kept = [
        f"pool {pool.get('name', '')} has {key} = {_render_value(pool[key])}"
        for pool in _list_pools(_read(text))
        for key in _CONFINING
        if pool.get(key)
    ]
    if not kept:
        return []
    return [
        f"THE UNBOUND INSTANCE MAY USE MORE OF THE MACHINE: {'; '.join(kept)}, which placement = "
        f'"{Placement.whole}" does not know.'
    ]


def _read(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise InputError(
            f"the configuration is not TOML: {error}", hint="ovms-scalerctl check-config"
        ) from error


def _list_pools(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those on NUMA nodes."""
    pools = document.get("pool", [])
    return [pool for pool in pools if pool.get("placement", Placement.numa) == Placement.numa]


def render_toml(document: Mapping[str, Any]) -> str:
    """TOML of what tomllib reads from configurations: without dates."""
    return "\n".join(_render_table(document, ())).lstrip("\n") + "\n"


def _render_table(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines, tables = [], []
    for name, value in table.items():
        here = (*path, _render_key(name))
        if isinstance(value, Mapping):
            tables += ["", f"[{'.'.join(here)}]", *_render_table(value, here)]
        elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            for one in value:
                tables += ["", f"[[{'.'.join(here)}]]", *_render_table(one, here)]
        else:
            lines.append(f"{_render_key(name)} = {_render_value(value)}")
    return lines + tables


def _render_key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _render_value(name)


def _render_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_render_value, value))}]"
    if isinstance(value, Mapping):
        return (
            f"{{ {', '.join(f'{_render_key(key)} = {_render_value(one)}' for key, one in value.items())} }}"
        )
    if isinstance(value, float):
        return repr(value)
    # A string of JSON is one of TOML but for DEL, which JSON leaves as it is, and for pairs of surrogates.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
