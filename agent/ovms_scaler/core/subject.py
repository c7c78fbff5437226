# SPDX-License-Identifier: Apache-2.0
"""What a question names: an instance or a pool, and by what the logs of others know it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from ovms_scaler.errors import UnknownNameError

# How instances are named after their pool (core/placement, core/gpu_placement).
_INSTANCE = re.compile(r"(?P<pool>.+?)-(?:numa\d+(?:\.\d+)?|gpu-[0-9a-f:.]+|hetero\d+|whole)")
_UNIT = re.compile(r"ovms@(?P<instance>[^@/]+)\.service")
_MOST_NAMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One instance that there is; of one that is known from the journal only its name and pool are left."""

    id: str
    pool: str
    upstream: str = ""
    port: int | None = None
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom it is about; ``upstreams`` are the proxy's names for all of a pool."""

    instances: frozenset[str]
    gpus: frozenset[str] = frozenset()
    ports: frozenset[int] = frozenset()
    upstreams: frozenset[str] = frozenset()


def parse_known(document: Mapping[str, object]) -> tuple[Known, ...]:
    """The instances of a status document."""
    listed = document.get("instances")
    return tuple(
        Known(
            id=str(entry["id"]),
            pool=str(entry.get("pool") or pool_of(str(entry["id"]))),
            upstream=str(entry.get("upstream") or ""),
            port=port if isinstance(port := entry.get("port"), int) else None,
            gpus=tuple(map(str, gpus)) if isinstance(gpus := entry.get("gpus"), list) else (),
        )
        for entry in (listed if isinstance(listed, list) else ())
        if isinstance(entry, Mapping) and "id" in entry
    )


def name_known(instances: Iterable[str]) -> tuple[Known, ...]:
    """Instances of which nothing but the name is known."""
    return tuple(Known(id=name, pool=pool_of(name)) for name in sorted(set(instances)))


def find_subject(known: Iterable[Known], name: str) -> Subject | None:
    """The instance of that name, or its unit's, or all of the pool of that name; None if there is none."""
    every = tuple(known)
    instance = parse_unit(name) or name.removeprefix("ovms@")
    found = [one for one in every if one.id == instance]
    is_pool = not found
    found = found or [one for one in every if one.pool == name]
    if not found:
        return None
    return Subject(
        instances=frozenset(one.id for one in found),
        gpus=frozenset(gpu for one in found for gpu in one.gpus),
        ports=frozenset(one.port for one in found if one.port is not None),
        upstreams=frozenset(one.upstream for one in found if one.upstream) if is_pool else frozenset(),
    )


def unknown_name(names: Iterable[str], name: str) -> UnknownNameError:
    """Of the ``names`` that there are those that may be meant, or the first few."""
    known = list(dict.fromkeys(names))
    close = get_close_matches(name, known) or known[:_MOST_NAMES]
    hint = f"there is {', '.join(close)}" if close else "the configuration has no pool"
    return UnknownNameError(f"there is no instance and no pool named {name!r}", hint=hint)


def pool_of(instance: str) -> str:
    """The pool that an instance is named after; its own name if it is named in no such way."""
    match = _INSTANCE.fullmatch(instance)
    return match["pool"] if match else instance


def parse_unit(unit: str) -> str | None:
    """The instance of a unit's name, None for another unit."""
    match = _UNIT.fullmatch(unit)
    return match["instance"] if match else None
