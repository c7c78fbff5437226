# SPDX-License-Identifier: Apache-2.0
"""Compares what systemd, the kernel and the proxy say with the plan of the configuration in force."""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ovms_scaler.config import Config, read_config, restore_config
from ovms_scaler.core.drift import Drift, Seen, find_drifts, find_file_drifts, find_shared_cores
from ovms_scaler.core.drift_proxy import ProxyView, find_proxy_drifts
from ovms_scaler.core.facts import ExecFacts, UnitFacts
from ovms_scaler.core.fronts import PROXY_DIRECTORY
from ovms_scaler.core.lifecycle import State
from ovms_scaler.core.news import Row, parse_rows
from ovms_scaler.core.started import Note, has_ended
from ovms_scaler.core.target import Target, Wanted
from ovms_scaler.errors import InputError, UnknownNameError
from ovms_scaler.host.files import below
from ovms_scaler.host.nginx import Nginx
from ovms_scaler.host.process_view import read_view
from ovms_scaler.host.proxy_unit import Jobs
from ovms_scaler.host.render_nodes import read_identities
from ovms_scaler.host.store import Store
from ovms_scaler.host.sysfs import read_topology
from ovms_scaler.host.systemd import Systemd
from ovms_scaler.offline import resolve_config

# Where an instance is away because somebody wants it so, or its GPU is.
_AWAY = ("drained", "draining", "stopped", "stopping", "waiting")
_CHANGING = "about to be changed"
_TARGET = "ovms.target"
_ROUTES = "routes/"


class Units(Jobs, Protocol):
    """What of host.systemd.Systemd is needed."""

    async def read_exec(self, unit: str) -> ExecFacts: ...


Open = Callable[[], AbstractAsyncContextManager[Units]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One instance; ``skipped`` says why its process was not compared, "" if it was."""

    wanted: Wanted
    seen: Seen
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was looked at, every drift, and what could not be looked at, in sentences."""

    checked: tuple[Checked, ...]
    drifts: tuple[Drift, ...]
    unseen: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sight:
    """Everything that was seen at about one instant.

    ``rows`` are what the agent says, None without it. Then ``away`` are those who are meant to be, as far
    as the agent noted that, each with its state.
    """

    target: Target
    seen: Mapping[str, Seen]
    proxy: ProxyView | None
    rows: Mapping[str, Row] | None
    away: Mapping[str, str]

    @property
    def in_rotation(self) -> frozenset[str]:
        """As the agent says; without it whoever runs and has a route."""
        if self.rows is not None:
            return frozenset(name for name, row in self.rows.items() if row.in_rotation)
        files = self.proxy.files if self.proxy is not None else ()
        routed = {Path(path).stem for path in files if path.startswith(_ROUTES)}
        return frozenset(name for name in routed if name in self.seen and self.seen[name].unit.is_running)


def verify(
    config_file: Path,
    name: str | None,
    status: Mapping[str, Any] | None,
    *,
    root: Path = Path("/"),
    open_units: Open | None = None,
) -> Report:
    """Compare everything, or one instance or pool. ``status`` is the agent's document, None without it.

    Raises UnknownNameError, ConfigError and HostError.
    """
    store, topology = Store(root), read_topology(root)
    config = _read_config(config_file, store)
    target = resolve_config(config, topology, store.read_books(), planned=False)
    chosen = _choose(target, name)
    rows = None if status is None else {row.id: row for row in parse_rows(status)}
    sight = asyncio.run(_look(target, store, rows, root, open_units or _open))
    checked = tuple(_check(sight, one) for one in chosen)
    drifts = [drift for one in checked for drift in _compare(sight, one)]
    views = {one: seen.process for one, seen in sight.seen.items() if seen.process is not None}
    shared = find_shared_cores(views, topology.cores)
    drifts += [drift for drift in shared if {drift.subject, drift.planned.rpartition(" ")[2]} & set(chosen)]
    unseen = [f"{one}: {text}" for one in chosen if one in views for text in views[one].unseen]
    if name is None and sight.proxy is None:
        unseen.append("proxy: run this as root")
    elif name is None and sight.proxy is not None:
        units = {one: seen.unit for one, seen in sight.seen.items()}
        drifts += find_proxy_drifts(target, sight.proxy, units, sight.in_rotation)
    return Report(checked=checked, drifts=tuple(drifts), unseen=tuple(unseen))


def _open() -> AbstractAsyncContextManager[Units]:
    return _Opening()


class _Opening(AbstractAsyncContextManager[Units]):
    """A connection to systemd that is made when it is entered."""

    async def __aenter__(self) -> Units:
        self._systemd = await Systemd.open()
        return self._systemd

    async def __aexit__(self, *_: object) -> None:
        await self._systemd.close()


def _read_config(file: Path, store: Store) -> Config:
    """The configuration in force, which the agent noted; before it ever ran, the one that is written."""
    accepted = store.read_note("accepted")
    if accepted is not None:
        try:
            return restore_config(accepted)
        except InputError:
            pass  # of another version of the agent
    return read_config(file)


def _choose(target: Target, name: str | None) -> tuple[str, ...]:
    if name is None:
        return tuple(target.wanted)
    chosen = tuple(one for one, wanted in target.wanted.items() if name in (one, wanted.instance.pool))
    if not chosen:
        raise UnknownNameError(
            f"there is no instance or pool {name!r} in the configuration in force",
            hint="ovms-scalerctl status",
        )
    return chosen


async def _look(
    target: Target, store: Store, rows: Mapping[str, Row] | None, root: Path, open_units: Open
) -> _Sight:
    names = {one: wanted.instance.unit for one, wanted in target.wanted.items()}
    async with open_units() as systemd:
        units = await systemd.read_units([*names.values(), _TARGET])
        understood = {unit: await systemd.read_exec(unit) for unit in names.values() if units[unit].main_pid}
        proxy = None
        if os.geteuid() == 0:
            nginx = Nginx(below(root, PROXY_DIRECTORY), systemd)
            proxy = ProxyView(files=nginx.read().files, running=await nginx.read_generation())
    seen = {
        one: Seen(
            unit=units[unit],
            exec=understood.get(unit),
            files=store.read_instance(one),
            process=read_view(pid, root) if (pid := units[unit].main_pid) else None,
        )
        for one, unit in names.items()
    }
    away = _find_away(target, store, units, root) if rows is None else {}
    return _Sight(target=target, seen=seen, proxy=proxy, rows=rows, away=away)


def _find_away(target: Target, store: Store, units: Mapping[str, UnitFacts], root: Path) -> dict[str, str]:
    """Who is to be away by what the agent left: orders, and who was seen running and not stopped by it."""
    drained, notes = store.read_orders().drained, store.read_started()
    found: dict[str, str] = {}
    for name, wanted in target.wanted.items():
        instance = wanted.instance
        unit, note = units[instance.unit], notes.get(instance.unit)
        devices = read_identities(instance.render_nodes, root) if instance.gpus else None
        if instance.is_waiting:
            found[name] = State.waiting
        elif name in drained:
            found[name] = State.drained
        elif unit.active_state == "deactivating":
            found[name] = State.stopping
        elif has_ended(unit) and not unit.is_running and note is not None:
            was_stopped = Note.parse(note).counts(units[_TARGET].invocation_id, devices)
            found |= {name: State.stopped} if was_stopped else {}
    return found


def _check(sight: _Sight, name: str) -> Checked:
    wanted, seen = sight.target.wanted[name], sight.seen[name]
    row = sight.rows.get(name) if sight.rows is not None else None
    skipped = sight.away.get(name, "")
    if row is not None and row.state in _AWAY:
        skipped = row.state
    elif row is not None and row.outdated and seen.unit.is_running:
        skipped = _CHANGING
    return Checked(wanted=wanted, seen=seen, skipped=skipped)


def _compare(sight: _Sight, checked: Checked) -> tuple[Drift, ...]:
    name, seen = checked.wanted.instance.id, checked.seen
    if checked.skipped == _CHANGING:
        return tuple(find_file_drifts(checked.wanted, seen))
    if checked.skipped:
        return ()
    if seen.process is None:
        found = f"{seen.unit.active_state} ({seen.unit.sub_state})"
        hint = "ovms-scalerctl status"
        return (Drift(subject=name, what="its process", planned="one that runs", found=found, hint=hint),)
    return find_drifts(checked.wanted, seen, in_rotation=name in sight.in_rotation)
