# SPDX-License-Identifier: Apache-2.0
"""Files of the administrator's for our units, and of other programs that ours depend on."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from ovms_scaler.core.checks.gpu import RuntimeFacts
from ovms_scaler.core.checks.port import Site, parse_site
from ovms_scaler.core.checks.storage import FileSystem
from ovms_scaler.core.checks.system import Override
from ovms_scaler.core.unit import DROP_IN
from ovms_scaler.errors import HostError
from ovms_scaler.host import files

# Where administrators put units, systemd.unit(5); ours are in /usr/lib or /lib.
_UNIT_DIRECTORIES = (
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
)
_OURS = re.compile(
    r"(?P<unit>ovms@[^/]*\.service|ovms-scaler[a-z-]*@?\.service|ovms\.(?:slice|target))(\.d)?"
)
_SITES = ("/etc/nginx/sites-enabled", "/etc/nginx/conf.d")
_JOURNALD = "/etc/systemd/journald.conf"
_JOURNALD_DIRECTORIES = ("/usr/lib/systemd/journald.conf.d", "/etc/systemd/journald.conf.d")
_ICDS = "/etc/OpenCL/vendors"
_LIBRARIES = ("/usr/lib", "/usr/local/lib", "/lib")


def read_overrides(root: Path = Path("/")) -> tuple[Override, ...]:
    """Units that hide those of the package, and drop-ins beside the agent's own. Raises HostError."""
    found: list[Override] = []
    for directory in _UNIT_DIRECTORIES:
        for name in _list(directory, root):
            path = f"{directory}/{name}"
            if name == "service.d":
                found += _read_drop_ins(path, "ovms@.service", root)
            elif match := _OURS.fullmatch(name):
                if match[2]:
                    found += _read_drop_ins(path, match["unit"], root)
                elif _is_plain(files.below(root, path)):
                    text = files.read_text(files.below(root, path)) or ""
                    found.append(Override(path=path, unit=match["unit"], text=text, is_drop_in=False))
    return tuple(found)


def _read_drop_ins(directory: str, unit: str, root: Path) -> Iterator[Override]:
    for name in _list(directory, root):
        if name.endswith(".conf") and not (name == DROP_IN and directory.startswith("/run/systemd/system/")):
            text = files.read_text(files.below(root, f"{directory}/{name}")) or ""
            yield Override(path=f"{directory}/{name}", unit=unit, text=text, is_drop_in=True)


def _list(directory: str, root: Path) -> list[str]:
    try:
        return sorted(os.listdir(files.below(root, directory)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise HostError(f"cannot read {directory}: {error.strerror}") from error


def _is_plain(path: Path) -> bool:
    """Not a mask, which is a link to /dev/null or an empty file."""
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def read_sites(root: Path = Path("/")) -> tuple[Site, ...]:
    """What the administrator's nginx listens on, as Debian has it configured. Raises HostError."""
    found = []
    for directory in _SITES:
        for name in _list(directory, root):
            if directory.endswith("conf.d") and not name.endswith(".conf"):
                continue
            path = f"{directory}/{name}"
            text = files.read_text(files.below(root, path))
            if text is not None:
                found.append(parse_site(path, text, _read_link(path, root)))
    return tuple(found)


def _read_link(path: str, root: Path) -> str:
    """What it is a link to, as an absolute path; "" for what is no link."""
    try:
        target = os.readlink(files.below(root, path))
    except OSError:
        return ""
    return os.path.normpath(os.path.join(os.path.dirname(path), target))


def list_modules(root: Path = Path("/"), directory: str = "/usr/lib/nginx/modules") -> frozenset[str]:
    """Modules that nginx can load, by absolute path; those whose link leads nowhere are left out."""
    names = _list(directory, root)
    return frozenset(
        f"{directory}/{name}" for name in names if files.below(root, f"{directory}/{name}").exists()
    )


def read_journald(root: Path = Path("/")) -> str:
    """The configuration of systemd-journald, what counts last at the end. Raises HostError."""
    drop_ins = {
        name: f"{directory}/{name}"
        for directory in _JOURNALD_DIRECTORIES
        for name in _list(directory, root)
        if name.endswith(".conf")
    }
    paths = [_JOURNALD, *(path for _, path in sorted(drop_ins.items()))]
    return "\n".join(files.read_text(files.below(root, path)) or "" for path in paths)


def read_opencl(library_path: str, root: Path = Path("/")) -> RuntimeFacts:
    """What of OpenCL is installed; the engine's own libraries are looked at first. Raises HostError."""
    icds = {
        f"{_ICDS}/{name}": (files.read_text(files.below(root, f"{_ICDS}/{name}")) or "").strip()
        for name in _list(_ICDS, root)
        if name.endswith(".icd")
    }
    places = [files.below(root, place) for place in (*library_path.split(":"), *_LIBRARIES) if place]
    there = {name for name in {*icds.values(), "libOpenCL.so.1"} if name and _is_library(name, places, root)}
    return RuntimeFacts(icds=icds, libraries=frozenset(there), has_loader="libOpenCL.so.1" in there)


def _is_library(name: str, places: Iterable[Path], root: Path) -> bool:
    if name.startswith("/"):
        return files.below(root, name).exists()
    # Below /usr/lib is a directory for each architecture, and some with libraries of one package.
    patterns = (name, f"*/{name}", f"*/*/{name}")
    return any(any(True for _ in place.glob(pattern)) for place in places for pattern in patterns)


def read_file_systems(paths: Iterable[str], root: Path = Path("/")) -> tuple[FileSystem, ...]:
    """Each file system once, under the first of the paths that lies on it."""
    found: dict[int, FileSystem] = {}
    for path in paths:
        try:
            device = os.stat(files.below(root, path)).st_dev
            status = os.statvfs(files.below(root, path))
        except OSError:
            continue
        system = FileSystem(
            path=path,
            free_bytes=status.f_bavail * status.f_frsize,
            bytes=status.f_blocks * status.f_frsize,
            free_files=status.f_favail if status.f_files else None,
        )
        found.setdefault(device, system)
    return tuple(found.values())
