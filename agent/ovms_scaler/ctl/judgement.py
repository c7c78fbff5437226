# SPDX-License-Identifier: Apache-2.0
"""What people and programs are told of a configuration that was looked at."""

import math
from collections.abc import Iterable, Mapping

from ovms_scaler.core.target import Target
from ovms_scaler.errors import Problem


def list_warnings(target: Target, more: Iterable[str] = ()) -> list[str]:
    """What would be accepted and still not do, each once; first come instances that could not be started."""
    said: dict[str, None] = {}
    for one in target.instances:
        if one.problem is not None:
            would = "would wait" if one.is_waiting else "would not be started"
            said[f"{would}: {one.problem}" + (f"\n  hint: {one.hint}" if one.hint else "")] = None
    return list(said | dict.fromkeys([*target.warnings, *more]))


def config_document(errors: Iterable[Problem], warnings: Iterable[str]) -> dict[str, object]:
    """The JSON of ``check-config --json``, which programs rely on."""
    found = [
        {"file": one.file, "key": one.key, "value": _plain(one.value), "rule": one.rule, "hint": one.hint}
        for one in errors
    ]
    return {"valid": not found, "errors": found, "warnings": list(warnings)}


def _plain(value: object) -> object:
    """A value of TOML in JSON, which knows neither times nor numbers that are none."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Mapping():
            return {str(name): _plain(item) for name, item in value.items()}
        case list():
            return [_plain(item) for item in value]
    return str(value)
