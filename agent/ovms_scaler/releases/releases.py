# SPDX-License-Identifier: Apache-2.0
"""Brings releases of OVMS to this machine, and says which one instances are planned with."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ovms_scaler.config import Config
from ovms_scaler.core.release import (
    CURRENT,
    LINKED,
    PREVIOUS,
    PROGRAM,
    Version,
    check_name,
    name_free,
    root_of,
)
from ovms_scaler.errors import HostError, InputError, RefusedError
from ovms_scaler.host import releases as directory
from ovms_scaler.host.archive import Archive, open_archive
from ovms_scaler.host.store import Store
from ovms_scaler.releases.trying import Trying

Report = Callable[[str, int, int], None]
"""What is under way, how much of it is done, and of how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A release that runs here. ``is_new`` is False when it was there before; notes are sentences."""

    name: str
    version: Version
    directory: Path
    sha256: str
    is_new: bool
    notes: tuple[str, ...]


class Releases:
    """The releases in one directory. Whatever fails or is interrupted leaves what runs as it is."""

    def __init__(self, root: Path, *, trying: Trying | None = None, host: Path = Path("/")) -> None:
        """``host`` is where drop-ins and /proc are, / except in tests."""
        self.root = root
        self._trying = trying or Trying()
        self._host = host

    # What is there

    def names(self) -> tuple[str, ...]:
        """Newest first."""
        return directory.list_releases(self.root)

    def current(self) -> str | None:
        """The release that instances are planned with; "" for one unpacked by hand, None for none at all."""
        if pinned := self._pinned():
            return pinned
        return self._direct() or ("" if (self.root / PROGRAM).is_file() else None)

    def previous(self) -> str | None:
        """What ``rollback`` goes back to."""
        name = directory.read_link(self.root, PREVIOUS)
        return name if name in self.names() else None

    def planned(self) -> Mapping[str, str]:
        """By instance, the release it runs or is to run; "" for one unpacked by hand."""
        direct = self._direct() or ""
        return {one: name or direct for one, name in directory.read_planned(self.root, self._host).items()}

    def read_note(self, name: str) -> Mapping[str, object]:
        """What is known of how a release came here; empty for one that was unpacked by hand."""
        return directory.read_note(self.root / name)

    def _pinned(self) -> str:
        """As read_pinned(); a link to what is not there says nothing, and is replaced by the next switch."""
        try:
            return directory.read_pinned(self.root)
        except HostError:
            return ""

    def _direct(self) -> str | None:
        """The release that ROOT/bin itself leads to: one unpacked by hand, since moved aside."""
        name = (directory.read_link(self.root, LINKED[0]) or "").partition("/")[0]
        return name if name in self.names() else None

    # Changes

    def install(self, archive: Path, *, sha256: str | None, force: bool, report: Report) -> Installed:
        """Unpack a release beside the others once it was seen to run here. Raises ScalerError."""
        with directory.lock(self.root), open_archive(archive) as opened:
            self._check_root()
            sum_ = self._check_sum(opened, sha256, report)
            for name in self.names():
                if directory.read_note(self.root / name).get("sha256") == sum_:
                    return self._describe(name, sum_, *self._trying.check(self.root / name), is_new=False)
            with directory.new_directory(self.root) as new:
                opened.unpack(new, lambda done, total: report("unpacking", done, total))
                report("trying", 0, 0)
                version, notes = self._trying.check(new)
                name = self._name(version, force=force)
                directory.write_note(
                    new,
                    {
                        "version": version.number,
                        "build": version.build,
                        "python": version.python,
                        "sha256": sum_,
                        "archive": archive.name,
                        "installed_at": round(time.time()),
                    },
                )
                directory.publish(new, name)
                return self._describe(name, sum_, version, notes, is_new=True)

    def use(self, name: str) -> str | None:
        """Have instances be planned with a release; the one before. Raises ScalerError.

        Nothing is restarted by that: the agent does so when it takes its configuration anew.
        """
        with directory.lock(self.root):
            self._check_root()
            self._require(name)
            self._adopt()
            self._settle()
            before = self.current()
            if before is not None and before != name:
                directory.make_link(self.root, PREVIOUS, before)
            self._point(name)
            return before

    def restore(self, name: str, previous: str | None) -> None:
        """Take a ``use`` back which nobody has acted upon."""
        with directory.lock(self.root):
            self._point(name)
            if previous is None:
                directory.remove_link(self.root, PREVIOUS)
            else:
                directory.make_link(self.root, PREVIOUS, previous)

    def settle(self) -> None:
        """Let ROOT/bin lead to the current release when nobody was started from there any more."""
        with directory.lock(self.root):
            self._settle()

    def remove(self, name: str) -> None:
        """Remove a release. Raises RefusedError when it is used, HostError."""
        with directory.lock(self.root):
            self._require(name)
            self._settle()
            if name == self.current():
                raise _used(name, "it is the current one", "ovms-scalerctl engine rollback")
            links = [directory.read_link(self.root, part) or "" for part in LINKED]
            instances = sorted(one for one, release in self.planned().items() if release == name)
            if instances or any(link.startswith(f"{name}/") for link in links):
                who = ", ".join(instances) or f"{self.root}/bin"
                raise _used(name, f"it is used by {who}", "ovms-scalerctl reload --wait")
            if pids := directory.find_processes(self.root, name, self._host):
                raise _used(name, f"it is used by process {pids[0]}", f"systemctl status {pids[0]}")
            if directory.read_link(self.root, PREVIOUS) == name:
                directory.remove_link(self.root, PREVIOUS)
            directory.remove(self.root, name)

    # Parts of them

    def _point(self, name: str) -> None:
        if self._direct() == name:
            # Unpacked by hand and moved aside: who was started from ROOT/bin is right as it is.
            directory.remove_link(self.root, CURRENT)
            return
        directory.make_link(self.root, CURRENT, name)
        for part in LINKED:
            if directory.read_link(self.root, part) is None:
                directory.make_link(self.root, part, f"{CURRENT}/{part}")

    def _adopt(self) -> None:
        """Give what was unpacked by hand into ROOT a directory of its own."""
        begun = directory.find_interrupted_adoption(self.root)
        bin_directory = self.root / LINKED[0]
        if begun is None and (bin_directory.is_symlink() or not (self.root / PROGRAM).is_file()):
            in_the_way = [part for part in LINKED if not (self.root / part).is_symlink()]
            for part in in_the_way:
                if (self.root / part).exists():
                    raise RefusedError(
                        f"cannot switch: {self.root / part} is in the way, and no part of a release",
                        hint=f"mv {self.root / part} {self.root / part}.old",
                    )
            return
        if begun is None:
            version, _ = self._trying.check(self.root)
            begun = name_free(version.number, os.listdir(self.root))
            # Without a meaning while ROOT/bin is a directory, it would get one back.
            directory.remove_link(self.root, CURRENT)
        directory.adopt(self.root, begun)

    def _settle(self) -> None:
        if self._pinned() and "" not in directory.read_planned(self.root, self._host).values():
            for part in LINKED:
                directory.make_link(self.root, part, f"{CURRENT}/{part}")

    def _check_root(self) -> None:
        found = os.stat(self.root)
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise RefusedError(
                f"cannot keep releases in {self.root}: others than root may write there",
                hint=f"chown root:root {self.root}; chmod 755 {self.root}",
            )
        if not directory.is_executable_there(self.root):
            raise RefusedError(
                f"cannot run programs from {self.root}: its file system is mounted noexec",
                hint=f"findmnt --target {self.root}",
            )

    def _require(self, name: str) -> None:
        if check_name(name) not in self.names():
            there = ", ".join(self.names()) or "none"
            raise InputError(f"there is no release {name!r} in {self.root}; there are: {there}")

    def _check_sum(self, opened: Archive, sha256: str | None, report: Report) -> str:
        found = opened.read_sha256(lambda done, total: report("checksum", done, total))
        if sha256 is not None and sha256.strip().lower() != found:
            raise InputError(
                f"cannot install {opened.path}: its SHA-256 is {found}, not {sha256.strip().lower()}",
                hint="download it again, and compare with what its publisher says",
            )
        return found

    def _name(self, version: Version, *, force: bool) -> str:
        same = [name for name in self.names() if name.partition("-")[0] == version.number]
        if same and not force:
            raise RefusedError(
                f"cannot install it: {self.root / same[0]} is the same version, from another archive",
                hint="with --force it is put beside that one",
            )
        return name_free(version.number, os.listdir(self.root))

    def _describe(
        self, name: str, sha256: str, version: Version, notes: tuple[str, ...], *, is_new: bool
    ) -> Installed:
        home = self.root / name
        return Installed(
            name=name, version=version, directory=home, sha256=sha256, is_new=is_new, notes=notes
        )


def find_root(config: Config) -> Path:
    """Where releases of the configured program are. Raises InputError."""
    root = Path(root_of(config.spec.engine))
    if (root.parent / CURRENT).is_symlink():
        raise InputError(
            f"cannot switch: engine.binary = {config.spec.engine.binary!r} names one version",
            hint=f'engine.binary = "{root.parent}/{PROGRAM}"',
        )
    return root


def is_taken(config: Config, host: Path = Path("/")) -> bool:
    """Whether the agent goes by this configuration, whichever the release; True where it never told."""
    accepted = Store(host).read_note("accepted")
    if not isinstance(accepted, dict):
        return True
    return _without_release(accepted) == _without_release(config.document())


def _without_release(document: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in document.items() if key != "release"}


def _used(name: str, why: str, hint: str) -> RefusedError:
    return RefusedError(f"cannot remove {name}: {why}", hint=hint)
