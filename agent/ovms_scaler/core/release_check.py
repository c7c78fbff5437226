# SPDX-License-Identifier: Apache-2.0
"""Why a release of OVMS does not run on this system, and which one to take instead."""

import re
from dataclasses import dataclass

# docs/deploying_server_baremetal.md of OVMS, of packages without Python.
LOST_WITHOUT_PYTHON = (
    "without Python, system messages are left out of prompts, tools cannot be used, and chat templates that "
    "are more than plain may be filled in wrongly"
)
# Where a missing library comes from, on Debian and Ubuntu (the same document names libxml2).
_PACKAGES = {
    "libxml2.so.2": "libxml2",
    "libcurl.so.4": "libcurl4",
    "libOpenCL.so.1": "ocl-icd-libopencl1",
    "libgomp.so.1": "libgomp1",
    "libnuma.so.1": "libnuma1",
}
# The only systems that OVMS is built for with Python and that have that Python themselves.
_PYTHONS = {
    ("ubuntu", "22.04"): ("3.10", "libpython3.10"),
    ("ubuntu", "24.04"): ("3.12", "libpython3.12t64"),
}
_OLD_GLIBC = (2, 35)  # Ubuntu 22.04's, which its build needs at most
_VERSION = re.compile(r"version [`'](GLIBC|GLIBCXX|CXXABI)_([0-9.]+)' not found")
_LOADING = re.compile(r"error while loading shared libraries: ([^:\s]+):")
_NOT_FOUND = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)  # as ldd(1) prints it
_PYTHON = re.compile(r"libpython(3\.\d+)\.so")


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What decides which build runs here: ID= and VERSION_ID= of os-release(5), and the version of glibc."""

    id: str
    version: str
    name: str
    glibc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a program ended under systemd: its exit status, or systemd's word for another end.

    ``result`` is as Result= in org.freedesktop.systemd1(5): "success", "exit-code", "signal", "timeout",
    ...; ``signal`` its name without SIG.
    """

    output: str
    result: str
    status: int = 0
    signal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with a release, and the way out."""

    text: str
    hint: str


def find_missing(output: str, system: System) -> Finding | None:
    """What the dynamic linker says is missing, if it does; of ``ovms`` itself or as ldd(1) prints it."""
    if (version := _worst_version(output)) is not None:
        return _explain_version(*version, system)
    if found := _LOADING.findall(output) + _NOT_FOUND.findall(output):
        return _explain_library(sorted(set(found))[0], system)
    return None


def find_fault(ran: Ran, system: System) -> Finding | None:
    """Why it did not run, None if it did."""
    if ran.result == "success":
        return None
    if (missing := find_missing(ran.output, system)) is not None:
        return missing
    if ran.result == "timeout":
        return Finding(
            text="it did not end in time", hint="is the disk slow, or the machine busy? try again"
        )
    if ran.signal == "ILL" or ran.status == 132:
        return Finding(
            text="this CPU lacks an instruction that it needs", hint="no build of OVMS runs on this CPU"
        )
    if ran.status == 203:
        return Finding(
            text="systemd cannot execute it",
            hint="is the file system mounted noexec (findmnt), or is it for another kind of CPU (file)?",
        )
    lines = [line for line in ran.output.splitlines() if line.strip()]
    how = f"signal {ran.signal}" if ran.signal else f"exit status {ran.status}" if ran.status else ran.result
    return Finding(
        text=f"it ended with {how}: {lines[-1][:200]}" if lines else f"it ended with {how} and said nothing",
        hint="run it by hand: LD_LIBRARY_PATH=DIRECTORY/lib DIRECTORY/bin/ovms --version",
    )


def _worst_version(output: str) -> tuple[str, str] | None:
    found = _VERSION.findall(output)
    # What libstdc++ lacks comes with glibc's newer builds; glibc is what tells systems apart.
    return max(found, key=lambda one: (one[0] == "GLIBC", _numbers(one[1])), default=None)


def _explain_version(library: str, version: str, system: System) -> Finding:
    if library != "GLIBC":
        text = f"it needs {library}_{version} of libstdc++, which {system.name} does not have"
        return Finding(text=text, hint=_older_build(system))
    text = f"it needs glibc {version}, and {system.name} has {system.glibc}"
    if _numbers(version) <= _OLD_GLIBC:
        return Finding(text=text, hint="no build of OVMS runs on a system this old")
    return Finding(text=text, hint=_older_build(system))


def _explain_library(name: str, system: System) -> Finding:
    text = f"it needs {name}, which is not there"
    python = _PYTHON.match(name)
    if python is None:
        package = _PACKAGES.get(name)
        return Finding(text=text, hint=f"apt install {package}" if package else f"apt-file search {name}")
    own = _PYTHONS.get((system.id, system.version))
    if own is not None and own[0] == python[1]:
        return Finding(text=f"it is built with Python and {text[3:]}", hint=f"apt install {own[1]}")
    return Finding(
        text=f"it is built with Python {python[1]}, which {system.name} does not have",
        hint=f"take the build whose name ends in python_off; {LOST_WITHOUT_PYTHON}",
    )


def _older_build(system: System) -> str:
    name = "ovms_ubuntu22_VERSION_python_off.tar.gz"
    return f"on {system.name} take {name}, built for an older glibc; {LOST_WITHOUT_PYTHON}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part)
