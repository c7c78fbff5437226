# SPDX-License-Identifier: Apache-2.0
"""The directory in which releases of OVMS lie beside each other; each change of it is one atomic step.

How it is laid out is told in core/release.py.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ovms_scaler.core.release import (
    CURRENT,
    LINKED,
    PREVIOUS,
    PROGRAM,
    find_release,
    is_name,
    sort_newest_first,
)
from ovms_scaler.core.unit import DROP_IN, UNIT_DIRECTORY
from ovms_scaler.errors import HostError, RefusedError
from ovms_scaler.host import files

NOTE = "ovms-scaler.json"  # in a release's directory: what it was unpacked from
_NEW, _OLD = ".new-", ".old-"
_LOCK = ".lock"
_RENAME_EXCHANGE = 2  # rename(2)
_AT_FDCWD = -100


def read_pinned(root: Path) -> str:
    """The release that instances are planned with; "" where ROOT/bin is a directory, unpacked by hand.

    Raises HostError where ROOT/current names what is not there.
    """
    name = read_link(root, CURRENT)
    if name is None or not (root / LINKED[0]).is_symlink():
        return ""
    if not is_release(root, name):
        raise HostError(
            f"{root / CURRENT} names {name!r}, and there is no {root / name / PROGRAM}",
            hint="ovms-scalerctl engine list; then: ovms-scalerctl engine use VERSION",
        )
    return name


def is_release(root: Path, name: str) -> bool:
    """Whether a release of that name is there."""
    return is_name(name) and (root / name / PROGRAM).is_file()


def read_link(root: Path, name: str) -> str | None:
    """The text of a link in ROOT, None when there is none."""
    try:
        return os.readlink(root / name)
    except OSError:
        return None


def list_releases(root: Path) -> tuple[str, ...]:
    """The releases that are there, newest first; none without such a directory."""
    try:
        names = [entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return ()
    return sort_newest_first(name for name in names if is_release(root, name))


def read_note(directory: Path) -> dict[str, object]:
    """What is known of a release; empty for one that was unpacked by hand."""
    try:
        document = json.loads(files.read_text(directory / NOTE) or "{}")
    except (HostError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def write_note(directory: Path, document: dict[str, object]) -> None:
    """Raises HostError."""
    files.write_text(directory / NOTE, json.dumps(document, indent=1, sort_keys=True) + "\n", durable=True)


@contextlib.contextmanager
def lock(root: Path) -> Iterator[None]:
    """Be the only one who changes ROOT, which is made if it has to be; what an interrupted one left goes.

    Raises RefusedError when another does so now, HostError.
    """
    try:
        if not root.is_dir():
            root.mkdir(parents=True)
            root.chmod(0o755)  # whatever the umask
        descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise cannot(f"write to {root}", error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise RefusedError(
            f"cannot change {root}: another `ovms-scalerctl engine` does so now", hint="wait for its end"
        ) from error
    try:
        for left in [*root.glob(f"{_NEW}*"), *root.glob(f"{_OLD}*"), *_find_begun(root)]:
            _discard(left)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def new_directory(root: Path) -> Iterator[Path]:
    """A directory in ROOT, so on its file system, that is gone afterwards unless it was published."""
    try:
        directory = Path(tempfile.mkdtemp(prefix=_NEW, dir=root))
        os.chmod(directory, 0o755)
    except OSError as error:
        raise cannot(f"write to {root}", error) from error
    try:
        yield directory
    finally:
        _discard(directory)


def publish(directory: Path, name: str) -> None:
    """Give a complete directory its name, for good. Raises HostError."""
    try:
        os.rename(directory, directory.parent / name)
        _sync(directory.parent)
    except OSError as error:
        raise cannot(f"write {directory.parent / name}", error) from error


def make_link(root: Path, name: str, target: str) -> None:
    """Have ROOT/name be a link to ``target`` from one instant to the next. Raises HostError."""
    if read_link(root, name) == target:
        return
    temporary = root / f"{_NEW}{name}"
    try:
        temporary.unlink(missing_ok=True)
        os.symlink(target, temporary)
        os.replace(temporary, root / name)
        _sync(root)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cannot(f"write {root / name}", error) from error


def remove_link(root: Path, name: str) -> None:
    """Raises HostError."""
    try:
        (root / name).unlink(missing_ok=True)
        _sync(root)
    except OSError as error:
        raise cannot(f"remove {root / name}", error) from error


def adopt(root: Path, name: str) -> None:
    """Move ROOT/bin and ROOT/lib, unpacked by hand, into a release; links take their places at once.

    Who runs from there notices nothing: at each instant every path leads to the same files. One that was
    interrupted is taken up where it was. Raises HostError.
    """
    home = root / name
    try:
        if not home.is_dir():
            _begin(root, name)
        for part in LINKED:
            if (root / part).is_symlink():
                continue
            if not (home / part).is_symlink():
                os.symlink(f"{name}/{part}", home / part)
            _exchange(root / part, home / part)
            _sync(home)
            _sync(root)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
            raise HostError(
                f"cannot move {root}/bin aside: its file system cannot exchange two names",
                hint=f"when no engine runs (systemctl stop ovms.target): mv {root} {root}-by-hand",
            ) from error
        raise cannot(f"move {root}/bin to {home}", error) from error


def find_interrupted_adoption(root: Path) -> str | None:
    """The release into which ROOT/bin was moved, but not yet ROOT/lib."""
    target = read_link(root, LINKED[0]) or ""
    name = target.partition("/")[0]
    is_begun = is_name(name) and (root / LINKED[1]).is_dir() and not (root / LINKED[1]).is_symlink()
    return name if is_begun else None


def remove(root: Path, name: str) -> None:
    """Remove a release that nobody uses: out of sight at once, then file by file. Raises HostError."""
    hidden = root / f"{_OLD}{name}"
    try:
        os.rename(root / name, hidden)
        _sync(root)
        shutil.rmtree(hidden)
    except OSError as error:
        raise cannot(f"remove {root / name}", error) from error


def read_planned(root: Path, host: Path = Path("/")) -> dict[str, str]:
    """Which release of ROOT each instance was started from, or is to be; "" for ROOT/bin itself.

    Its drop-in tells, as none is written while its instance runs. Others' programs are left out.
    """
    found: dict[str, str] = {}
    for path in sorted(files.below(host, str(UNIT_DIRECTORY)).glob(f"ovms@*.service.d/{DROP_IN}")):
        instance = path.parent.name.removeprefix("ovms@").removesuffix(".service.d")
        name = find_release(files.read_text(path) or "", str(root))
        if name is not None:
            found[instance] = name
    return found


def find_processes(root: Path, name: str, host: Path = Path("/")) -> tuple[int, ...]:
    """Processes that have something of a release mapped; of other users' only root learns."""
    inside = f"{os.path.realpath(root / name)}/"
    found: list[int] = []
    for path in files.below(host, "/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if inside in path.read_text(errors="replace"):
                found.append(int(path.parent.name))
    return tuple(sorted(found))


def is_executable_there(directory: Path) -> bool:
    """Whether programs may be run from its file system: mount(8), noexec."""
    try:
        return not os.statvfs(directory).f_flag & os.ST_NOEXEC
    except OSError:
        return True


def cannot(what: str, error: OSError) -> HostError:
    """The sentence for a failure, with the way out where there is one."""
    return HostError(f"cannot {what}: {error.strerror or error}", hint=files.way_out(error))


def _begin(root: Path, name: str) -> None:
    """The release's directory with its first link, which tells whose it is. Raises OSError, HostError."""
    with new_directory(root) as directory:
        os.symlink(f"{name}/{LINKED[0]}", directory / LINKED[0])
        _sync(directory)
        publish(directory, name)


def _find_begun(root: Path) -> list[Path]:
    """What adopt() made for itself and has not moved anything into yet: its own links only.

    They lead nowhere from there, so that no release is made of such.
    """
    kept = {read_link(root, CURRENT), read_link(root, PREVIOUS)}
    homes = [path for path in root.iterdir() if is_name(path.name) and path.name not in kept]
    return [home for home in homes if _is_begun(home)]


def _is_begun(home: Path) -> bool:
    if home.is_symlink() or not home.is_dir():
        return False
    found = {path.name: read_link(home, path.name) for path in home.iterdir()}
    return any(found == {part: f"{home.name}/{part}"} for part in LINKED)


def _exchange(first: Path, second: Path) -> None:
    """renameat2(2) with RENAME_EXCHANGE, which Python does not have."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(first), _AT_FDCWD, os.fsencode(second)
    if libc.renameat2(_AT_FDCWD, *paths, _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(first))


def _discard(path: Path) -> None:
    """Whatever of it cannot be removed is tried again by the next who locks."""
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
