# SPDX-License-Identifier: Apache-2.0
"""Users and groups, whom a directory belongs to, and what a user may not read."""

import contextlib
import grp
import os
import pwd
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ovms_scaler.core.checks.access import Closed
from ovms_scaler.core.checks.system import GROUPS, USERS, Directory
from ovms_scaler.errors import HostError
from ovms_scaler.host import files
from ovms_scaler.host.models import read_components

# Beyond this a directory is no model.
_MOST_FILES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user; ``groups`` are the numbers of all its groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def become(self) -> None:
        """Have this process be that user for good. Raises HostError unless it is root or that user."""
        if os.geteuid() == self.uid:
            return
        try:
            os.setgroups(self.groups)
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
        except PermissionError as error:
            raise HostError(f"cannot act as the user {self.name!r}: this is not root") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """The users and groups of a host, by name."""

    users: Mapping[str, Account]
    groups: Mapping[str, int]


def read_accounts(root: Path = Path("/")) -> Accounts:
    """From passwd(5) and group(5) below ``root``, where the package puts its own. Raises HostError.

    Those of a directory service, whom only this machine can ask, are looked up by name.
    """
    groups: dict[str, int] = {}
    members: dict[str, list[int]] = {}
    for fields in _read_table(root / "etc/group", 4):
        groups.setdefault(fields[0], int(fields[2]))
        for member in filter(None, fields[3].split(",")):
            members.setdefault(member, []).append(int(fields[2]))
    users: dict[str, Account] = {}
    for fields in _read_table(root / "etc/passwd", 7):
        name, gid = fields[0], int(fields[3])
        own = tuple(dict.fromkeys((gid, *members.get(name, ()))))
        users.setdefault(name, Account(name=name, uid=int(fields[2]), gid=gid, groups=own))
    if root == Path("/"):
        _add_others(users, groups)
    return Accounts(users=users, groups=groups)


def _add_others(users: dict[str, Account], groups: dict[str, int]) -> None:
    for name in {*USERS} - users.keys():
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            own = tuple(os.getgrouplist(name, found.pw_gid))
            users[name] = Account(name=name, uid=found.pw_uid, gid=found.pw_gid, groups=own)
    for name in {*GROUPS} - groups.keys():
        with contextlib.suppress(KeyError):
            groups[name] = grp.getgrnam(name).gr_gid


def _read_table(path: Path, columns: int) -> Iterable[list[str]]:
    for line in (files.read_text(path) or "").splitlines():
        fields = line.split(":")
        if len(fields) == columns and fields[2].isascii() and fields[2].isdigit():
            yield fields


def read_directories(paths: Iterable[str], root: Path = Path("/")) -> dict[str, Directory]:
    """Those of ``paths`` that are directories, by path."""
    found: dict[str, Directory] = {}
    for path in paths:
        try:
            status = os.lstat(files.below(root, path))
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode):
            mode = stat.S_IMODE(status.st_mode)
            found[path] = Directory(mode=mode, uid=status.st_uid, gid=status.st_gid)
    return found


def find_foreign(
    directories: Iterable[str], uid: int, root: Path = Path("/")
) -> tuple[tuple[str, int], ...]:
    """The first file right in each directory that is not that user's, with the user it is of.

    Raises PermissionError where a directory may not be listed.
    """
    found = []
    for directory in directories:
        try:
            names = sorted(os.listdir(files.below(root, directory)))
        except FileNotFoundError:
            continue
        owners = (
            (f"{directory}/{name}", _owner(files.below(root, f"{directory}/{name}"))) for name in names
        )
        foreign = next(((path, owner) for path, owner in owners if owner not in (uid, None)), None)
        if foreign is not None and foreign[1] is not None:
            found.append((foreign[0], foreign[1]))
    return tuple(found)


def _owner(path: Path) -> int | None:
    try:
        return os.lstat(path).st_uid
    except FileNotFoundError:
        return None


def find_closed(paths: Iterable[str], root: Path = Path("/"), *, to_run: bool = False) -> Closed | None:
    """The first thing that this process may not pass on the way to ``paths``, or not read in them.

    The kernel is asked, so that access lists and groups count; links are followed, hidden files left out.
    ``to_run`` says that a path is a program. What does not exist is nobody's to read.
    """
    for path in paths:
        for shown, mode, is_last in read_components(path, root):
            here = files.below(root, shown)
            if not is_last:
                if stat.S_ISDIR(mode) and not os.access(here, os.X_OK):
                    return _closed(shown, "pass", mode)
            elif stat.S_ISDIR(mode):
                if (closed := _find_in(shown, here, mode)) is not None:
                    return closed
            elif not os.access(here, os.X_OK if to_run else os.R_OK):
                return _closed(shown, "run" if to_run else "read", mode)
    return None


def _find_in(shown: str, directory: Path, mode: int) -> Closed | None:
    """The same for all that is in a directory."""
    pending = [(shown, directory, mode)]
    seen: set[tuple[int, int]] = set()
    count = 0
    while pending:
        name, place, mode = pending.pop()
        if not os.access(place, os.R_OK | os.X_OK):
            return _closed(name, "list", mode)
        for entry in sorted(os.scandir(place), key=lambda one: one.name):
            if entry.name.startswith(".") or (count := count + 1) > _MOST_FILES:
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue  # a link to nothing
            except PermissionError:  # a link into what is closed
                return Closed(path=f"{name}/{entry.name}", verb="read", mode=None, is_directory=False)
            path = f"{name.rstrip('/')}/{entry.name}"
            if stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    pending.append((path, Path(entry.path), status.st_mode))
            elif not os.access(entry.path, os.R_OK):
                return _closed(path, "read", status.st_mode)
    return None


def _closed(path: str, verb: str, mode: int) -> Closed:
    return Closed(path=path, verb=verb, mode=stat.S_IMODE(mode), is_directory=stat.S_ISDIR(mode))
