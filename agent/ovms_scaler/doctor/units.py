# SPDX-License-Identifier: Apache-2.0
"""Gathers what is to be known of systemd, its units, users, directories, disks and logs."""

import json
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from ovms_scaler.core.checks import agent, engine, storage, system
from ovms_scaler.core.checks.finding import Finding, bad, good, unknown
from ovms_scaler.core.checks.system import Unit
from ovms_scaler.core.credentials import sources
from ovms_scaler.doctor.setting import Setting, is_readable
from ovms_scaler.errors import ConfigError, HostError
from ovms_scaler.host import unit_files
from ovms_scaler.host.accounts import read_directories
from ovms_scaler.host.certificate import read_certificate
from ovms_scaler.host.credentials import CredentialsUnreadableError, read_credentials
from ovms_scaler.host.files import below
from ovms_scaler.host.programs import run_program
from ovms_scaler.host.store import Store

SYSTEMCTL, JOURNALCTL = "/usr/bin/systemctl", "/usr/bin/journalctl"
_SHOWN = "Id,LoadState,ActiveState,Result,UnitFileState,NeedDaemonReload"
# LimitNOFILE= of units/ovms-scaler-proxy.service.
_PROXY_FILES = 524_288
_FILE_SYSTEMS = ("/run", "/var/lib/ovms-scaler", "/var/cache", "/var/log", "/tmp")
# SD_MESSAGE_JOURNAL_DROPPED of sd-messages.h.
_DROPPED = "a596d6fe7bfa4994828e72309e95d61e"
_KERNEL_LINES = "ovms|nginx|GPU HANG|GPU reset|wedged"
_MOST_LINES = "2000"


def _systemctl(arguments: Iterable[str], root: Path) -> str:
    """What it prints. Raises HostError."""
    ran = run_program([SYSTEMCTL, *arguments], root)
    if ran.status is None:
        raise HostError(f"cannot start {SYSTEMCTL}: {ran.refused}")
    if ran.status != 0:
        raise HostError(f"systemd cannot be asked: {' '.join(ran.output.split())[:200]}")
    return ran.output


def read_units(names: Collection[str], root: Path) -> tuple[Unit, ...]:
    """Units by name, or pattern of names that are loaded. Raises HostError."""
    return system.parse_units(_systemctl(["show", f"--property={_SHOWN}", *names], root))


def show_active(names: Iterable[str], root: Path) -> frozenset[str]:
    """Those of the units that are active. Raises HostError."""
    return frozenset(unit.name for unit in read_units(tuple(names), root) if unit.active_state == "active")


def read_open_files(setting: Setting) -> Mapping[str, int]:
    """LimitNOFILE= of every unit that is to run."""
    limits = {system.PROXY: _PROXY_FILES}
    for name, wanted in setting.target.wanted.items() if setting.target is not None else ():
        for text in wanted.files.values():
            if found := re.search(r"^LimitNOFILE=(\d+)$", text, re.MULTILINE):
                limits[f"ovms@{name}.service"] = int(found[1])
    return limits


def examine_units(setting: Setting) -> Iterator[Finding]:
    version = _systemctl(["show", "--property=Version"], setting.root).strip()
    yield system.judge_version(version.removeprefix("Version="))
    units = read_units((*system.UNITS, "ovms@*.service"), setting.root)
    yield from system.judge_units(units)
    yield system.judge_boot(units)
    ours = next((unit for unit in units if unit.name == system.AGENT), None)
    yield from agent.judge_agent(setting.status, setting.status_error, ours)


def examine_environment(setting: Setting) -> Iterator[Finding]:
    lines = _systemctl(["show-environment"], setting.root).splitlines()
    pools = {pool.name: pool.ovms.environment for pool in setting.spec.pool}
    yield from engine.judge_environment(pools, [line.partition("=")[0] for line in lines])


def examine_overrides(setting: Setting) -> Iterator[Finding]:
    limits = read_open_files(setting)
    needed = max((limit for unit, limit in limits.items() if unit.startswith("ovms@")), default=0)
    yield from system.judge_overrides(unit_files.read_overrides(setting.root), least_files=needed)


def examine_package(setting: Setting) -> Iterator[Finding]:
    """Users, directories, and the bus."""
    accounts = setting.accounts
    yield from system.judge_accounts(accounts.users.keys(), accounts.groups.keys())
    users = {name: account.uid for name, account in accounts.users.items()}
    present = read_directories(system.DIRECTORIES, setting.root)
    yield from system.judge_directories(present, users, accounts.groups)
    yield system.judge_bus(is_there=below(setting.root, "/run/dbus/system_bus_socket").exists())


def examine_storage(setting: Setting) -> Iterator[Finding]:
    yield from storage.judge_disk(unit_files.read_file_systems(_FILE_SYSTEMS, setting.root))
    built, now = Path(__file__).stat().st_mtime, time.time()
    shown = time.strftime("%Y-%m-%d %H:%M", time.localtime(now))
    yield storage.judge_clock(now=now, built=built, shown=shown)
    yield from _examine_state(Store(setting.root))


def _examine_state(store: Store) -> Iterator[Finding]:
    found = []
    for read in (store.read_books, store.read_orders):
        try:
            read()
        except HostError as error:
            if isinstance(error.__cause__, PermissionError):
                found.append(unknown("state", "/var/lib/ovms-scaler", error.message))
            else:
                remedy = error.hint or "ls -l /var/lib/ovms-scaler"
                found.append(bad("state", "/var/lib/ovms-scaler", error.message, remedy))
    yield from found or [good("state", "/var/lib/ovms-scaler", "it can be read")]


def examine_configuration(setting: Setting) -> Iterator[Finding]:
    """Its credentials belong to it; where only root may look at them, the agent will."""
    problems = list(setting.problems)
    if trouble := setting.troubles.get("configuration") or setting.troubles.get("topology"):
        yield unknown("configuration", str(setting.file), trouble, "ovms-scalerctl check-config")
        return
    if setting.config is not None:
        try:
            read_credentials(setting.spec.proxy)
        except ConfigError as error:
            if not isinstance(error, CredentialsUnreadableError) or os.geteuid() == 0:
                problems += setting.config.locate(error).problems
    status = setting.status or {}
    in_force = status.get("config")
    yield from agent.judge_configuration(
        str(setting.file),
        problems,
        pools=len(setting.spec.pool),
        in_force_error=str(in_force.get("error") or "") if isinstance(in_force, Mapping) else "",
        is_readable=is_readable(setting.file),
    )


def examine_certificate(setting: Setting) -> Iterator[Finding]:
    path = sources(setting.spec.proxy).get("tls_certificate")
    try:
        one = read_certificate(path) if path is not None else None
    except HostError as error:
        yield unknown("certificate", str(path), error.message, "see configuration")
        return
    yield storage.judge_certificate(one, now=time.time())


def examine_placement(setting: Setting) -> Iterator[Finding]:
    """What other checks tell is left out here."""
    if setting.target is None or setting.topology is None:
        return
    told = {text for model in setting.models.values() for text in (*model.warnings, model.problem) if text}
    told |= {f"pool {name!r}: {text}" for name, model in setting.models.items() for text in model.warnings}
    told |= set(setting.topology.warnings)
    explained = [one.problem for one in setting.target.instances if one.problem and _is_told(one.problem)]
    warnings = [text for text in setting.target.warnings if not _is_told(text)]
    yield from agent.judge_placement(setting.target.instances, warnings, told | set(explained))


def _is_told(text: str) -> bool:
    """By memory-fit or model-device."""
    return bool(re.match(r"instance '[^']*' needs |cannot place pool ", text))


def examine_instances(setting: Setting) -> Iterator[Finding]:
    yield from agent.judge_instances(setting.status)


def examine_logs(setting: Setting) -> Iterator[Finding]:
    """Of the last day; the journal tells the most to root."""
    options = ["--since=-1day", "--quiet", "--no-pager", f"--lines={_MOST_LINES}"]
    dropped = run_program([JOURNALCTL, *options, "--output=json", f"MESSAGE_ID={_DROPPED}"], setting.root)
    configuration = unit_files.read_journald(setting.root)
    yield from storage.judge_journal(configuration, _parse_messages(dropped.output))
    if os.geteuid() != 0:
        yield unknown("kernel-log", "kernel", "this user may not read the kernel's log")
        return
    lines = run_program(
        [JOURNALCTL, *options, "--dmesg", "--output=cat", f"--grep={_KERNEL_LINES}"], setting.root
    )
    if lines.status is None:
        raise HostError(f"cannot start {JOURNALCTL}: {lines.refused}")
    yield from storage.judge_kernel_log(lines.output.splitlines())


def _parse_messages(text: str) -> Iterator[str]:
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(message := entry.get("MESSAGE"), str):
            yield message
