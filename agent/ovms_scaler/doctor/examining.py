# SPDX-License-Identifier: Apache-2.0
"""Makes the checks, each with a deadline, so that one that hangs does not stop the others."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote

from ovms_scaler.core.checks.catalogue import CHECKS
from ovms_scaler.core.checks.finding import AS_ROOT, Finding, sort_findings, unknown
from ovms_scaler.doctor import engine, machine, units
from ovms_scaler.doctor.answers import parse_findings
from ovms_scaler.doctor.setting import Document, Run, Setting, read_setting, unplanned
from ovms_scaler.host.accounts import Account
from ovms_scaler.host.apart import Outcome, Task, run_apart

_AGAIN = "try again with a longer --timeout"
# As much longer an engine may take to start than anything else: its libraries are hundreds of MB.
_ENGINE_PATIENCE = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Something to gather, and the ``checks`` that it answers; ``subject`` is what they are about.

    With ``user`` it is made as that user. ``remedy`` and ``note`` are for when it gives no answer.
    """

    name: str
    checks: tuple[str, ...]
    call: Callable[[], Iterable[Finding]]
    remedy: str
    subject: str = ""
    note: str = ""
    user: Account | None = None
    patience: float = 1.0


# What can be examined without a target. Those that ask systemd hang with it.
_SYSTEMD = "systemctl is-system-running; systemctl list-jobs"
_ALWAYS: tuple[tuple[tuple[str, ...], Callable[[Setting], Iterable[Finding]], str], ...] = (
    (("configuration",), units.examine_configuration, ""),
    (engine.ENGINE, engine.examine_engine, ""),
    (("engine-environment",), units.examine_environment, _SYSTEMD),
    (("ports", "ephemeral-ports"), machine.examine_ports, ""),
    (("nginx-program", "nginx-modules"), machine.examine_nginx, ""),
    (("nginx-site",), machine.examine_sites, _SYSTEMD),
    (("proxy-files",), machine.examine_proxy_files, ""),
    (("certificate",), units.examine_certificate, ""),
    (("accounts", "directories", "dbus"), units.examine_package, ""),
    (("disk", "clock", "state"), units.examine_storage, ""),
    (("systemd", "units", "boot", "agent"), units.examine_units, _SYSTEMD),
    (("overrides",), units.examine_overrides, ""),
    (("shared-cores", "other-engines"), machine.examine_neighbours, ""),
    (
        (
            "cgroups", "offline-cpus", "isolated-cpus", "governor", "numa-balancing", "zone-reclaim",
            "overcommit", "huge-pages", "swap", "open-files", "listen-queue",
        ),
        machine.examine_kernel,
        "",
    ),
    (("journal", "kernel-log"), units.examine_logs, "journalctl --verify"),
    (("instances",), units.examine_instances, ""),
)  # fmt: skip
# What cannot be known without.
_PLANNED: tuple[tuple[tuple[str, ...], Callable[[Setting], Iterable[Finding]], str], ...] = (
    (("placement",), units.examine_placement, ""),
    (("model-device", "memory-fit", "memory-free"), machine.examine_memory, ""),
    (("gpu-driver", "gpu-access", "gpu-runtime", "gpu-unit"), machine.examine_gpus, _SYSTEMD),
)


def diagnose(
    file: Path,
    names: Collection[str],
    *,
    deadline_sec: float,
    root: Path = Path("/"),
    status: Document | None = None,
    status_error: str = "",
    ended: Callable[[str], None] = lambda _: None,
) -> tuple[Finding, ...]:
    """The findings of the checks of these names, the worst first, for the configuration in ``file``.

    ``status`` is the agent's document, or ``status_error`` why there is none. ``ended`` is called with the
    name of each thing that was looked at.
    """
    run = partial(run_apart, ended=ended)
    setting = read_setting(
        file, deadline_sec=deadline_sec, root=root, status=status, status_error=status_error, run=run
    )
    return examine(setting, names, deadline_sec=deadline_sec, run=run)


def examine(
    setting: Setting,
    names: Collection[str],
    *,
    deadline_sec: float,
    run: Run = run_apart,
) -> tuple[Finding, ...]:
    """The same for what is known already; ``run`` as in ``read_setting``."""
    wanted = [one for one in list_examinations(setting) if not frozenset(one.checks).isdisjoint(names)]
    tasks = [
        Task(
            name=one.name,
            call=partial(_collect, one.call),
            deadline_sec=deadline_sec * one.patience,
            user=one.user,
            parse=parse_findings,
        )
        for one in wanted
    ]
    outcomes = run(tasks)
    found: list[Finding] = []
    for one in wanted:
        found += _conclude(one, outcomes[one.name])
    answered = {finding.check for finding in found}
    found += [_unanswered(setting, name) for name in names if name not in answered]
    return sort_findings((one for one in found if one.check in names), CHECKS.keys())


def _collect(call: Callable[[], Iterable[Finding]]) -> tuple[Finding, ...]:
    return tuple(call())


def _conclude(one: Examination, outcome: Outcome) -> list[Finding]:
    found = list(outcome.value) if isinstance(outcome.value, tuple) else []
    if not outcome.trouble:
        return found
    remedy, note = one.remedy, one.note
    if one.user is not None and not outcome.is_late:
        remedy, note = AS_ROOT, ""
    return [unknown(check, one.subject or check, outcome.trouble, remedy, note) for check in one.checks]


def _unanswered(setting: Setting, name: str) -> Finding:
    """Checks of pools, when there is none, have nothing to say."""
    why = unplanned(setting)
    if why:
        return unknown(name, name, why, "see configuration")
    return unknown(name, name, "there is no pool to look at", "see configuration")


def list_examinations(setting: Setting) -> list[Examination]:
    """All that can be made; each model is looked at by itself, as each may lie on a disk of its own."""
    planned = _PLANNED if setting.target is not None else ()
    found = [
        Examination(
            name=checks[0],
            checks=checks,
            call=partial(examine_one, setting),
            patience=_ENGINE_PATIENCE if checks == engine.ENGINE else 1.0,
            remedy=remedy or _AGAIN,
        )
        for checks, examine_one, remedy in (*_ALWAYS, *planned)
    ]
    for pool in setting.spec.pool:
        path = pool.config_path or pool.model_path or ""
        away, note = f"findmnt -T {quote(path)}", "is the machine that it is on there?"
        subject = f"pool {pool.name}"
        files = Examination(
            name=f"model-files {pool.name}",
            checks=("model-files",),
            call=partial(engine.examine_files, pool, setting),
            subject=subject,
            remedy=away,
            note=note,
        )
        found.append(files)
        if setting.models[pool.name].problem is None:
            access = Examination(
                name=f"model-access {pool.name}",
                checks=("model-access",),
                call=partial(engine.examine_access, pool, setting),
                subject=subject,
                user=setting.user,
                remedy=away,
                note=note,
            )
            found.append(access)
    return found
