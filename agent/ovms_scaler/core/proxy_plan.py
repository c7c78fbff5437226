# SPDX-License-Identifier: Apache-2.0
"""Whether the proxy is to be given other files now, and when to look again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from ovms_scaler.core.actions import InstallProxy
from ovms_scaler.core.facts import Facts
from ovms_scaler.core.reloads import COALESCE_SEC, pause_sec
from ovms_scaler.core.rotation import Rotation
from ovms_scaler.core.target import Target, render_proxy_files

# What was refused (a configuration by the proxy, a start by systemd) is tried again after this time: the
# cause, such as a busy port, may be gone.
RETRY_SEC = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyPlan:
    """``error`` is why the proxy does not run with what it should, ``waits`` why it is not reloaded yet.

    ``wake_in_sec`` as in Plan; without it, old workers that go are found by the usual passes.
    """

    actions: tuple[InstallProxy, ...] = ()
    wake_in_sec: float | None = None
    error: str = ""
    waits: str = ""


def plan_proxy(target: Target, facts: Facts, rotation: Rotation, routed: Mapping[str, object]) -> ProxyPlan:
    """The installation that is due, if any; ``routed`` are those in rotation now."""
    proxy = facts.proxy
    running = proxy.unit is not None and proxy.unit.is_running
    if not target.fronts and not running:
        return ProxyPlan()
    if proxy.unit is not None and proxy.unit.active_state == "deactivating":
        return ProxyPlan()  # whoever stops it must not find it started again
    if proxy.unit is not None and not running and proxy.started and proxy.unit.active_state == "inactive":
        return ProxyPlan()  # the administrator stopped it
    files = render_proxy_files(target, rotation.members)
    if dict(files.files) == dict(proxy.files) and proxy.generation == files.generation:
        return ProxyPlan()
    # What was said of another generation may no longer be so.
    error = proxy.error if proxy.refused == files.generation else ""
    if error and facts.since_refusal_sec < RETRY_SEC:
        return ProxyPlan(wake_in_sec=RETRY_SEC - facts.since_refusal_sec, error=error)
    wanted = {member.instance for members in rotation.members.values() for member in members}
    on_disk = {PurePosixPath(name).stem for name in proxy.files if name.startswith("routes/")}
    added, removed = sorted(wanted - routed.keys()), sorted((routed.keys() | on_disk) - wanted)
    if running and not removed and not _fills_empty(rotation, routed):
        pause = pause_sec(
            old_workers=proxy.old_workers,
            worker_processes=target.proxy.worker_processes,
            joins=bool(added),
            is_awaited=bool(rotation.held),
        )
        if facts.since_reload_sec < pause:
            return _put_off(pause, facts, error)
    install = InstallProxy(files=files, added=tuple(added), removed=tuple(removed))
    return ProxyPlan(actions=(install,), error=error)


def _fills_empty(rotation: Rotation, routed: Mapping[str, object]) -> bool:
    """Whether an upstream gets its first instance: its clients are turned away until then."""
    names = [[member.instance for member in members] for members in rotation.members.values()]
    return any(joining and not routed.keys() & set(joining) for joining in names)


def _put_off(pause: float, facts: Facts, error: str) -> ProxyPlan:
    left_sec = pause - facts.since_reload_sec
    return ProxyPlan(
        wake_in_sec=left_sec if left_sec < float("inf") else None,
        error=error,
        waits="changes wait for old workers to end" if pause > COALESCE_SEC else "",
    )
