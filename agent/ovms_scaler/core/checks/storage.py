# SPDX-License-Identifier: Apache-2.0
"""Room on disk, the clock, the certificate, and what the logs tell."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from shlex import quote

from ovms_scaler.core.checks.finding import Finding, bad, good, or_good, warning

_MIB = 1 << 20
_LEAST_BYTES = 4 * _MIB
_FEW_BYTES = 512 * _MIB
_FEW_SHARE = 0.05
_DAY_SEC = 86400
_TWO_WEEKS_SEC = 14 * _DAY_SEC
_UNITS = r"(?:ovms@\S+\.service|ovms-scaler\S*\.service)"
# sd_journal's message of dropped entries, server_driver_message() in src/journal/journald-server.c.
_SUPPRESSED = re.compile(rf"Suppressed (?P<count>\d+) messages from (?:\S*/)?(?P<unit>{_UNITS})")
_STORAGE = re.compile(r"^\s*Storage\s*=\s*(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """The file system below a path; None for files where it does not count them."""

    path: str
    free_bytes: int
    bytes: int
    free_files: int | None


def judge_disk(systems: Iterable[FileSystem]) -> tuple[Finding, ...]:
    check, found = "disk", []
    for one in systems:
        free = f"{one.free_bytes // _MIB} MiB of {one.bytes // _MIB} MiB are free"
        remedy = f"du -xh {quote(one.path)} | sort -h | tail; journalctl --vacuum-size=500M"
        if one.free_files == 0:
            found.append(bad(check, one.path, "no further file can be made: it has no inode left", remedy))
        elif one.free_bytes < _LEAST_BYTES:
            reason = f"it is full ({free}): the agent cannot note what it does"
            found.append(bad(check, one.path, reason, remedy))
        elif one.free_bytes < min(_FEW_BYTES, one.bytes * _FEW_SHARE):
            found.append(warning(check, one.path, f"it is nearly full: {free}", remedy))
    return or_good(found, check, "file systems", "there is room where the agent writes")


def judge_clock(*, now: float, built: float, shown: str) -> Finding:
    """``built`` is when this program was made, ``shown`` the time of ``now`` for people."""
    if now >= built - _DAY_SEC:
        return good("clock", "clock", "it is set")
    reason = f"it says {shown}, which is before this program was made: certificates seem not valid yet"
    note = "or timedatectl set-time 'YYYY-MM-DD HH:MM:SS'"
    return bad("clock", "clock", reason, "timedatectl set-ntp true", note)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """When a certificate begins and ends to be valid, seconds since the epoch."""

    path: str
    not_before: float
    not_after: float


def judge_certificate(one: Certificate | None, *, now: float) -> Finding:
    check = "certificate"
    if one is None:
        return good(check, "TLS", "no certificate is configured")
    remedy = "renew it, then systemctl reload ovms-scaler"
    if now < one.not_before:
        return bad(check, one.path, "it is not valid yet", "timedatectl", f"if the clock is right: {remedy}")
    days = int(abs(one.not_after - now) // _DAY_SEC)
    if now > one.not_after:
        reason = f"it expired {days} days ago: clients refuse it"
        return bad(check, one.path, reason, remedy)
    if one.not_after - now < _TWO_WEEKS_SEC:
        return warning(check, one.path, f"it expires in {days} days", remedy)
    return good(check, one.path, f"it is valid for {days} more days")


def judge_journal(configuration: str, messages: Iterable[str]) -> tuple[Finding, ...]:
    """``configuration`` is journald's, every file of it in order; ``messages`` what it said of drops."""
    check, found = "journal", []
    storages = _STORAGE.findall(configuration)
    if storages and storages[-1] == "none":
        reason = "Storage=none: nothing is kept, and nobody can learn why an engine ended"
        remedy = "set Storage=auto in /etc/systemd/journald.conf, then systemctl restart systemd-journald"
        found.append(bad(check, "systemd-journald", reason, remedy))
    dropped: dict[str, int] = {}
    for message in messages:
        if match := _SUPPRESSED.search(message):
            dropped[match["unit"]] = dropped.get(match["unit"], 0) + int(match["count"])
    found += [
        warning(
            check,
            unit,
            f"{count} of its messages were dropped within a day, as they came too fast",
            "set RateLimitBurst= in /etc/systemd/journald.conf higher, or take --log_level DEBUG out of "
            "pool.ovms.flags",
        )
        for unit, count in dropped.items()
    ]
    return or_good(found, check, "systemd-journald", "it keeps what is logged")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trouble:
    """One kind of line in the kernel's log: ``text`` is a regular expression with the group "who"."""

    text: str
    reason: str
    remedy: str
    note: str = ""


# Names of programs as the kernel cuts them, in lines of mm/oom_kill.c, arch/x86/kernel/traps.c and
# security/apparmor/audit.c.
_WHO = r"(?P<who>ovms|nginx|ovms-scaler)"
_TROUBLES = (
    _Trouble(
        text=rf"[Oo]ut of memory: Killed process \d+ \({_WHO}\)",
        reason="the kernel killed it for want of memory",
        remedy="use smaller weights or graph.cache_size, or fewer instances_per_node; see memory-free",
    ),
    _Trouble(
        text=rf"traps: {_WHO}\[\d+\] trap invalid opcode",
        reason="the CPU lacks an instruction that it was built for",
        remedy="take a build for this CPU; see engine-libraries",
    ),
    _Trouble(
        text=rf"{_WHO}\[\d+\]: segfault at",
        reason="it crashed with a segmentation fault",
        remedy="coredumpctl info",
        note="the journal of its unit may tell more",
    ),
    _Trouble(
        text=rf'apparmor="DENIED" .*?comm="{_WHO}"',
        reason="AppArmor forbids it something",
        remedy="journalctl -k -g DENIED",
        note="it names the profile; aa-complain PROFILE lets it go on",
    ),
    _Trouble(
        text=r"(?P<who>i915|xe) \S+: .*(?:GPU HANG|GPU reset|device wedged)",
        reason="a GPU hung or was reset",
        remedy="ovms-scalerctl status; dmesg",
        note="newer firmware and a newer kernel may help",
    ),
)


def judge_kernel_log(lines: Iterable[str]) -> tuple[Finding, ...]:
    """Each kind of trouble once for whom it is about, with the last line that tells of it."""
    check = "kernel-log"
    last: dict[tuple[int, str], tuple[str, int]] = {}
    for line in lines:
        for kind, trouble in enumerate(_TROUBLES):
            if match := re.search(trouble.text, line):
                _, count = last.get((kind, match["who"]), ("", 0))
                last[(kind, match["who"])] = (line.strip()[:160], count + 1)
    found = [
        warning(
            check,
            who,
            f"{_TROUBLES[kind].reason}, {count} times within a day; the last: {line}",
            _TROUBLES[kind].remedy,
            _TROUBLES[kind].note,
        )
        for (kind, who), (line, count) in last.items()
    ]
    return or_good(found, check, "kernel", "it has nothing to say of engine, proxy or GPU")
