# SPDX-License-Identifier: Apache-2.0
"""Sees a release run on this system, or says why it cannot."""

import os
from collections.abc import Callable
from pathlib import Path

from ovms_scaler.core.release import PROGRAM, Version, parse_version
from ovms_scaler.core.release_check import (
    LOST_WITHOUT_PYTHON,
    Finding,
    Ran,
    System,
    find_fault,
    find_missing,
)
from ovms_scaler.errors import InputError, RefusedError
from ovms_scaler.host.trial import find_libraries, is_for_this_machine, read_system, run_trial

# Opened by a running engine when it first needs them (dlopen): --version does not tell of what they lack.
LATE = (
    "libovmspython.so",
    "libopenvino_intel_cpu_plugin.so",
    "libopenvino_ir_frontend.so",
    "libopenvino_tokenizers.so",
)
LATE_ON_GPUS = ("libopenvino_intel_gpu_plugin.so",)


class Trying:
    """``trial`` runs a program of a release, as host.trial.run_trial does."""

    def __init__(self, trial: Callable[..., Ran] = run_trial, system: System | None = None) -> None:
        self._trial = trial
        self._system = system or read_system()

    def check(self, home: Path) -> tuple[Version, tuple[str, ...]]:
        """See a release run, and what of it cannot. Raises RefusedError with why it is of no use here."""
        program = home / PROGRAM
        if not (program.is_file() and os.access(program, os.X_OK) and (home / "lib").is_dir()):
            raise InputError(
                "cannot use it: a release of OVMS holds the program bin/ovms and the directory lib",
                hint="the releases are at https://github.com/openvinotoolkit/model_server/releases",
            )
        if not is_for_this_machine(program):
            raise RefusedError("cannot use it: it is built for another kind of CPU (see `uname -m`)")
        ran = self._trial(home, str(program), "--version")
        if (fault := find_fault(ran, self._system)) is not None:
            raise _useless(fault)
        version = parse_version(ran.output)
        notes = [LOST_WITHOUT_PYTHON] if version.python is False else []
        if (fault := self._look_up(home, LATE)) is not None:
            raise _useless(fault)
        if (fault := self._look_up(home, LATE_ON_GPUS)) is not None:
            notes.append(f"it cannot use GPUs: {fault.text} ({fault.hint})")
        return version, tuple(notes)

    def _look_up(self, home: Path, names: tuple[str, ...]) -> Finding | None:
        libraries = find_libraries(home, names)
        return find_missing(self._trial(home, "ldd", *libraries).output, self._system) if libraries else None


def _useless(fault: Finding) -> RefusedError:
    return RefusedError(f"cannot use it here: {fault.text}", hint=fault.hint)
