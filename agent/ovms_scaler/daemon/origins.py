# SPDX-License-Identifier: Apache-2.0
"""Remembers which program and which model each process was started from, as both may be replaced meanwhile.

OVMS opens them once. A language model's directory is not looked at again (modelmanager.cpp in OVMS retries
and reloads classic models only), and the kernel keeps a program that runs. /proc/PID/exe would tell the
program, but not to the agent: that takes the right to trace other users' processes (proc_pid_exe(5)).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.core.target import Wanted
from ovms_scaler.daemon.lanes import Glance
from ovms_scaler.errors import HostError
from ovms_scaler.host.identity import read_identity
from ovms_scaler.host.store import Store

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

NOTE = "origins"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """What a process was started from: paths and what stood there then, by what they are."""

    invocation: str
    paths: Mapping[str, str]
    began: Mapping[str, str]


class Origins:
    """What is known of every process that runs, kept on disk until the next boot."""

    def __init__(self, store: Store, root: Path = Path("/")) -> None:
        self._store = store
        # In every pass, and models may be on a file server: one that is away must not hold up the others.
        self._identities: Glance[str, str] = Glance("programs and models", partial(read_identity, root=root))
        self._known = _parse(store.read_note(NOTE))
        self._error = ""

    def look(
        self, wanted: Mapping[str, Wanted], units: Mapping[str, UnitFacts]
    ) -> dict[str, tuple[str, ...]]:
        """By instance, which of its sources are others now than when its process was seen first."""
        seen: dict[str, str] = {}
        known = {name: one for name, one in self._known.items() if name in wanted}
        outlived: dict[str, tuple[str, ...]] = {}
        for name, one in wanted.items():
            unit = units.get(one.instance.unit)
            if unit is None or unit.active_state != "active" or not unit.invocation_id:
                continue
            for path in one.sources.values():
                if path not in seen:  # the instances of a pool share them
                    seen[path] = self._identities.read(path) or ""
            now = {what: seen[path] for what, path in one.sources.items()}
            began = known.get(name)
            # Another path is another configuration. What could not be read at first is not known of.
            if began is None or (began.invocation, began.paths) != (unit.invocation_id, one.sources):
                began = _Origin(invocation=unit.invocation_id, paths=dict(one.sources), began=now)
            known[name] = began
            outlived[name] = tuple(
                what for what in now if now[what] and began.began.get(what) not in ("", now[what])
            )
        self._keep(known)
        return outlived

    def _keep(self, known: dict[str, _Origin]) -> None:
        """What cannot be written down is known as long as the agent lives."""
        if known == self._known:
            return
        self._known = known
        error = ""
        try:
            self._store.write_note(NOTE, {name: _document(one) for name, one in known.items()})
        except HostError as failure:
            error = failure.message
            if error != self._error:
                log.warning("state not written", error=error, hint=failure.hint)
        self._error = error


def _document(one: _Origin) -> dict[str, object]:
    return {"invocation": one.invocation, "paths": dict(one.paths), "began": dict(one.began)}


def _parse(document: object) -> dict[str, _Origin]:
    """What was noted; a note that makes no sense is about nobody."""
    if not isinstance(document, dict):
        return {}
    found = {str(name): _parse_one(one) for name, one in document.items()}
    return {name: one for name, one in found.items() if one is not None}


def _parse_one(document: object) -> _Origin | None:
    if not isinstance(document, dict) or document.keys() != {"invocation", "paths", "began"}:
        return None
    invocation, paths, began = document["invocation"], document["paths"], document["began"]
    if not isinstance(invocation, str) or not isinstance(paths, dict) or not isinstance(began, dict):
        return None
    return _Origin(invocation=invocation, paths=paths, began=began)
