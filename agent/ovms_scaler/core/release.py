# SPDX-License-Identifier: Apache-2.0
"""Releases of OpenVINO Model Server beside each other, and which one instances are started from.

    ROOT/2026.3.1/{bin,lib,...}     one release, never changed once it is there
    ROOT/current -> 2026.3.1        what instances are planned with
    ROOT/previous -> 2026.2.0       what a rollback goes back to
    ROOT/bin -> current/bin         for who types commands, and for whoever was told of ROOT/bin/ovms
    ROOT/lib -> current/lib

The agent puts the release itself into the command line and the environment of an instance, not ``current``.
So a switch is a change of configuration, rolled as any other; an instance that crashes meanwhile starts what
it ran before; and no running engine, which loads plugins and Python modules from these paths when it first
needs them, finds those of another release there.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from ovms_scaler.core.spec_engine import Engine
from ovms_scaler.errors import InputError

CURRENT = "current"
PREVIOUS = "previous"
LINKED = ("bin", "lib")
PROGRAM = "bin/ovms"
# "OpenVINO Model Server 2026.3.1.d7bf9f1d3": three numbers and the commit (Makefile, PRODUCT_VERSION).
_BANNER = re.compile(
    r"^OpenVINO Model Server (\d{4}\.\d{1,3}(?:\.\d{1,3})?)(?:\.([0-9a-f]{6,40}))?\b", re.MULTILINE
)
# "Bazel build flags: --config=mp_on_py_off" (src/cli_parser.cpp prints it).
_PYTHON = re.compile(r"^Bazel build flags:.*_py_(on|off)\b", re.MULTILINE)
_NAME = re.compile(r"[0-9][0-9A-Za-z.+~-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What a release says of itself; ``build`` is the commit, "" when it is not told.

    ``python`` is None where the build flags do not say whether Python is in it.
    """

    number: str
    build: str
    python: bool | None


def parse_version(text: str) -> Version:
    """What ``ovms --version`` prints. Raises InputError when that is not OVMS speaking."""
    found = _BANNER.search(text)
    if found is None:
        said = " ".join(text.split())[:100]
        raise InputError(
            f"cannot tell the version: `ovms --version` says {said!r}, not 'OpenVINO Model Server ...'",
            hint="is this a release of https://github.com/openvinotoolkit/model_server?",
        )
    flags = _PYTHON.search(text)
    return Version(number=found[1], build=found[2] or "", python=None if flags is None else flags[1] == "on")


def check_name(name: str) -> str:
    """A directory's name that may be one of a release. Raises InputError."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"cannot be a version: {name!r} must be digits, letters, '.' and '-', beginning with a digit",
            hint="ovms-scalerctl engine list",
        )
    return name


def is_name(name: str) -> bool:
    """Whether a directory's name may be one of a release."""
    return _NAME.fullmatch(name) is not None


def name_free(number: str, taken: Iterable[str]) -> str:
    """The name of a further release with that version: "2026.3.1", else "2026.3.1-2", "2026.3.1-3", ..."""
    names = set(taken)
    count = 1
    while (name := number if count == 1 else f"{number}-{count}") in names:
        count += 1
    return name


def sort_newest_first(names: Iterable[str]) -> tuple[str, ...]:
    """Version numbers as numbers: 2026.10 is newer than 2026.9."""

    def order(name: str) -> tuple[tuple[int, str], ...]:
        return tuple((int(part), "") if part.isdigit() else (0, part) for part in re.split(r"[.-]", name))

    return tuple(sorted(names, key=order, reverse=True))


def root_of(engine: Engine) -> PurePosixPath:
    """Where releases of the configured program lie beside each other. Raises InputError when nowhere."""
    binary = PurePosixPath(engine.binary)
    if binary.parts[-2:] != ("bin", "ovms") or len(binary.parts) < 4:
        raise InputError(
            f"cannot keep releases for engine.binary = {engine.binary!r}: it must be DIRECTORY/bin/ovms",
            hint='engine.binary = "/opt/ovms/bin/ovms" is the default',
        )
    return binary.parent.parent


def pin(engine: Engine, name: str) -> Engine:
    """The engine with what lies in ROOT/bin and ROOT/lib taken from the release itself; as it is for ""."""
    if not name:
        return engine
    root = root_of(engine)

    def of_release(paths: str) -> str:
        return ":".join(_move(path, root, name) for path in paths.split(":"))

    return replace(
        engine,
        binary=of_release(engine.binary),
        library_path=None if engine.library_path is None else of_release(engine.library_path),
        python_path=None if engine.python_path is None else of_release(engine.python_path),
    )


def find_release(text: str, root: str) -> str | None:
    """The release of ROOT that a drop-in names; "" for ROOT/bin itself, None where it is another program."""
    found = re.search(rf"^ExecStart=\"?{re.escape(root)}/(?:([^/ ]+)/)?bin/", text, re.MULTILINE)
    return None if found is None else found[1] or ""


def _move(path: str, root: PurePosixPath, name: str) -> str:
    try:
        inside = PurePosixPath(path).relative_to(root)
    except ValueError:
        return path
    return str(root / name / inside) if inside.parts[:1] and inside.parts[0] in LINKED else path
