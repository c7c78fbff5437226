# SPDX-License-Identifier: Apache-2.0
"""systemd, its units and control groups, and what the package needs on the host."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from shlex import quote

from ovms_scaler.core.checks.finding import Finding, bad, good, or_good, unknown, warning

AGENT, PROXY, TEMPLATE = "ovms-scaler.service", "ovms-scaler-proxy.service", "ovms@.service"
UNITS = (AGENT, PROXY, "ovms-scaler-proxy-check.service", "ovms.target", "ovms.slice")
CONTROLLERS = ("cpuset", "cpu", "memory")
USERS = ("ovms", "ovms-scaler-proxy")
GROUPS = ("ovms", "ovms-scaler-proxy", "ovms-scaler", "render")
# As packaging/ovms-scaler.tmpfiles says.
DIRECTORIES: Mapping[str, tuple[int, str, str]] = {
    "/run/ovms-scaler": (0o755, "root", "root"),
    "/run/ovms-scaler/instances": (0o755, "root", "root"),
    "/run/ovms-scaler/access": (0o2750, "root", "ovms-scaler-proxy"),
    "/run/ovms-scaler-proxy": (0o755, "root", "root"),
    "/run/ovms-scaler-proxy/routes": (0o755, "root", "root"),
    "/run/ovms-scaler-proxy/credentials": (0o2750, "root", "ovms-scaler-proxy"),
    "/var/lib/ovms-scaler": (0o755, "root", "root"),
}
_OLDEST = 252
_PLACEMENT = ("CPUAffinity", "AllowedCPUs", "NUMAPolicy", "NUMAMask", "AllowedMemoryNodes")
_HARM = {
    **dict.fromkeys(_PLACEMENT, "it changes where the instance runs, and the agent's plan no longer holds"),
    "CPUQuota": "the kernel stops the engine for a part of each 0.1 s, although its cores are idle",
    "ExecStart": "it replaces the command that the agent plans",
    "LimitNOFILE": "OVMS does not start with fewer files than its REST workers need",
}
_SETTING = re.compile(r"^\s*(?P<key>[A-Za-z]+)\s*=", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit as ``systemctl show`` has it."""

    name: str
    load_state: str
    active_state: str
    result: str
    file_state: str
    need_daemon_reload: bool


def parse_units(text: str) -> tuple[Unit, ...]:
    """The output of ``systemctl show``: a block of KEY=VALUE lines for each unit."""
    blocks = [
        dict(line.partition("=")[::2] for line in block.splitlines())
        for block in text.split("\n\n")
        if block.strip()
    ]
    return tuple(
        Unit(
            name=block["Id"],
            load_state=block.get("LoadState", ""),
            active_state=block.get("ActiveState", ""),
            result=block.get("Result", ""),
            file_state=block.get("UnitFileState", ""),
            need_daemon_reload=block.get("NeedDaemonReload") == "yes",
        )
        for block in blocks
        if block.get("Id")
    )


def judge_version(text: str) -> Finding:
    """``text`` is the manager's own Version, as "252.36-1~deb12u1"."""
    check = "systemd"
    found = re.match(r"v?(\d+)", text)
    if found is None:
        return unknown(check, "systemd", f"its version {text!r} cannot be read", "systemctl --version")
    if int(found[1]) < _OLDEST:
        reason = f"version {found[1]} is older than {_OLDEST}, which the units are written for"
        return bad(check, "systemd", reason, "upgrade to Debian 12 or newer")
    return good(check, "systemd", f"version {found[1]}")


def judge_units(units: Iterable[Unit]) -> tuple[Finding, ...]:
    check, found = "units", []
    for unit in units:
        if unit.load_state == "masked" and unit.name.startswith("ovms@"):
            reason = "it is masked: its instance is not started"
            found.append(warning(check, unit.name, reason, f"systemctl unmask {unit.name}"))
        elif unit.load_state == "masked":
            found.append(bad(check, unit.name, "it is masked", f"systemctl unmask {unit.name}"))
        elif unit.load_state == "not-found":
            reason = "systemd has no such unit, which the package brings"
            found.append(bad(check, unit.name, reason, "apt install --reinstall ovms-scaler"))
        elif unit.load_state in ("bad-setting", "error"):
            reason = f"systemd cannot use its file ({unit.load_state})"
            found.append(bad(check, unit.name, reason, f"systemd-analyze verify {unit.name}"))
        elif unit.active_state == "failed":
            reason = f"it failed (result: {unit.result})"
            note = f"then: systemctl reset-failed {unit.name}"
            if unit.name.startswith("ovms@"):
                instance = unit.name.removeprefix("ovms@").removesuffix(".service")
                note = f"then: ovms-scalerctl reset {instance}"
            found.append(bad(check, unit.name, reason, f"journalctl -b -u {unit.name}", note))
        if unit.need_daemon_reload:
            reason = "its file has changed since systemd read it"
            found.append(warning(check, unit.name, reason, "systemctl daemon-reload"))
    return or_good(found, check, "units", "all are there and none has failed")


def judge_boot(units: Iterable[Unit]) -> Finding:
    check = "boot"
    agent = next((unit for unit in units if unit.name == AGENT), None)
    if agent is None or agent.load_state != "loaded":
        return unknown(check, AGENT, "systemd has no such unit", "see units")
    if agent.file_state in ("enabled", "enabled-runtime", "linked", "static"):
        return good(check, AGENT, "it is started at boot")
    reason = f"it is {agent.file_state or 'not enabled'}: after a reboot nobody would be served"
    return warning(check, AGENT, reason, f"systemctl enable {AGENT.removesuffix('.service')}")


def judge_cgroups(controllers: Collection[str] | None, command_line: str) -> tuple[Finding, ...]:
    """``controllers`` of the root group; None without cgroup version 2."""
    check, subject = "cgroups", "/sys/fs/cgroup"
    if controllers is None:
        reason = "it is not cgroup version 2: placement and memory of instances cannot be controlled"
        remedy = "remove systemd.unified_cgroup_hierarchy= from the kernel's command line, and reboot"
        return (bad(check, subject, reason, remedy),)
    missing = [name for name in CONTROLLERS if name not in controllers]
    if not missing:
        return (good(check, subject, f"version 2 with {', '.join(CONTROLLERS)}"),)
    effects = {
        "cpuset": "AllowedCPUs= and AllowedMemoryNodes= have no effect, CPUAffinity= alone binds instances",
        "cpu": "the load of an instance cannot be limited",
        "memory": "the memory of an instance is neither counted nor limited",
    }
    disabled = re.search(r"cgroup_disable=\S+|cgroup_no_v1=\S+|systemd\.unified\S+", command_line)
    remedy, note = "findmnt -t cgroup", "what is mounted there has it; in a container it has to be delegated"
    if disabled:
        remedy, note = f"remove {disabled[0]} from the kernel's command line, and reboot", ""
    return tuple(
        warning(check, name, f"the controller {name} is not there: {effects[name]}", remedy, note)
        for name in missing
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A file of the administrator's for one of our units: a drop-in, or one that hides the package's."""

    path: str
    unit: str
    text: str
    is_drop_in: bool


def judge_overrides(overrides: Iterable[Override], *, least_files: int) -> tuple[Finding, ...]:
    """What somebody else's files do to the placement; ``least_files`` is LimitNOFILE= that engines need."""
    check, found = "overrides", []
    for one in overrides:
        if not one.is_drop_in:
            reason = f"it hides the package's {one.unit}, and upgrades of that have no effect"
            remedy = f"mv {quote(one.path)} /root/ && systemctl daemon-reload"
            note = f"systemctl edit {one.unit} is for own settings"
            found.append(warning(check, one.path, reason, remedy, note))
            continue
        if not one.unit.startswith("ovms@"):
            continue
        keys = dict.fromkeys(match["key"] for match in _SETTING.finditer(one.text))
        for key in keys:
            if key in _HARM and not (key == "LimitNOFILE" and _limit(one.text) >= least_files):
                remedy = f"remove {key}= from {one.path}"
                note = "then: systemctl daemon-reload && ovms-scalerctl restart --rolling"
                found.append(warning(check, one.path, f"{key}= is set: {_HARM[key]}", remedy, note))
    return or_good(found, check, "drop-ins", "none undoes the placement")


def _limit(text: str) -> int:
    """The soft limit of the last LimitNOFILE=, which is the first number of two."""
    values = re.findall(r"^\s*LimitNOFILE\s*=\s*(\d+|infinity)", text, re.MULTILINE)
    return 1 << 62 if values and values[-1] == "infinity" else int(values[-1]) if values else 0


def judge_accounts(users: Collection[str], groups: Collection[str]) -> tuple[Finding, ...]:
    check, remedy = "accounts", "systemd-sysusers ovms-scaler.conf"
    found = [
        bad(check, f"user {name}", "there is no such user, whom a unit of the package runs as", remedy)
        for name in USERS
        if name not in users
    ]
    found += [
        bad(check, f"group {name}", "there is no such group, which a unit of the package needs", remedy)
        for name in GROUPS
        if name not in groups and name not in {one.subject.removeprefix("user ") for one in found}
    ]
    return or_good(found, check, "accounts", "users and groups of the package are there")


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A directory as it is: its permission bits, owner and group."""

    mode: int
    uid: int
    gid: int


def judge_directories(
    present: Mapping[str, Directory], users: Mapping[str, int], groups: Mapping[str, int]
) -> tuple[Finding, ...]:
    """Those that are there by path; ``users`` and ``groups`` are numbers by name."""
    check, found = "directories", []
    for path, (mode, owner, group) in DIRECTORIES.items():
        remedy = "systemd-tmpfiles --create ovms-scaler.conf"
        one = present.get(path)
        if one is None:
            found.append(bad(check, path, "there is no such directory", remedy))
        elif (one.mode, one.uid, one.gid) != (mode, users.get(owner), groups.get(group)):
            reason = f"it is {one.mode:04o} {one.uid}:{one.gid}, and is to be {mode:04o} {owner}:{group}"
            found.append(bad(check, path, reason, remedy))
    return or_good(found, check, "directories", "all are there, with their owner and mode")


def judge_bus(*, is_there: bool) -> Finding:
    subject = "/run/dbus/system_bus_socket"
    if is_there:
        return good("dbus", subject, "it is there")
    reason = "there is no system bus, over which the agent asks systemd"
    return bad("dbus", subject, reason, "apt install default-dbus-system-bus; systemctl start dbus.socket")
