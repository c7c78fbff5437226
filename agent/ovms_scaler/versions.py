# SPDX-License-Identifier: Apache-2.0
"""What the programs of this host say which version they are."""

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ovms_scaler.config import read_config
from ovms_scaler.core.engine import render_environment
from ovms_scaler.core.release import parse_version, pin
from ovms_scaler.core.spec import Pool
from ovms_scaler.core.spec_engine import Engine
from ovms_scaler.errors import HostError, InputError
from ovms_scaler.host.accounts import Account, read_accounts
from ovms_scaler.host.models import SERVICE_USER
from ovms_scaler.host.programs import run_program

_SYSTEMCTL = "/usr/bin/systemctl"
_NGINX = "/usr/sbin/nginx"
# Each says it at once; one that does not is broken, and OVMS has to be loaded.
_LIMIT_SEC = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A program: ``number`` is None where it could not be told, ``why`` not."""

    program: str
    number: str | None
    why: str = ""


def read_versions(config_file: Path) -> dict[str, Version]:
    """By what it is: ovms, as instances are planned with it, nginx, systemd and python."""
    return {
        "ovms": _read_engine(_read_settings(config_file)),
        "nginx": _read(_NGINX, "-v", r"nginx version: \S+?/(\S+)"),
        "systemd": _read(_SYSTEMCTL, "--version", r"systemd (\d+ \(\S+\))"),
        "python": Version(program=sys.executable, number=platform.python_version()),
    }


def _read_settings(config_file: Path) -> Engine:
    """Where the engine is; with a configuration that cannot be used, where it is by default."""
    try:
        config = read_config(config_file)
    except InputError:
        return Engine()
    return pin(config.spec.engine, config.release)


def _read_engine(engine: Engine) -> Version:
    """As the user of the instances where that can be had, and with their libraries."""
    ran = run_program(
        [engine.binary, "--version"],
        user=_find_user(),
        environment=render_environment(Pool(name="none"), engine),
        timeout_sec=_LIMIT_SEC,
    )
    if ran.status is None:
        return Version(program=engine.binary, number=None, why=ran.refused)
    try:
        found = parse_version(ran.output)
    except InputError:
        said = " ".join(ran.output.split())[:100]
        return Version(program=engine.binary, number=None, why=f"it says {said!r}")
    return Version(program=engine.binary, number=found.number)


def _find_user() -> Account | None:
    if os.geteuid() != 0:
        return None
    try:
        return read_accounts().users.get(SERVICE_USER)
    except HostError:
        return None


def _read(program: str, argument: str, pattern: str) -> Version:
    ran = run_program([program, argument], timeout_sec=_LIMIT_SEC)
    found = re.search(pattern, ran.output)
    if found is None:
        return Version(program=program, number=None, why=ran.refused or "it does not tell")
    return Version(program=program, number=found[1])
