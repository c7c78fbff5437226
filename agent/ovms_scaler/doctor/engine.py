# SPDX-License-Identifier: Apache-2.0
"""Gathers what is to be known of the engine and of each model."""

import os
import posixpath
import signal
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from ovms_scaler.core.checks import engine as judging
from ovms_scaler.core.checks import model as judging_models
from ovms_scaler.core.checks.access import Closed
from ovms_scaler.core.checks.engine import EngineFacts
from ovms_scaler.core.checks.finding import Finding, unknown
from ovms_scaler.core.engine import render_environment
from ovms_scaler.core.gpus import ON_GPUS
from ovms_scaler.core.model import parse_served
from ovms_scaler.core.release_check import Ran
from ovms_scaler.core.spec import Pool
from ovms_scaler.doctor.answers import parse_closed
from ovms_scaler.doctor.setting import Setting
from ovms_scaler.errors import InputError
from ovms_scaler.host import files
from ovms_scaler.host.accounts import Account, find_closed
from ovms_scaler.host.apart import Task, run_apart
from ovms_scaler.host.models import SERVICE_USER
from ovms_scaler.host.networks import read_networks
from ovms_scaler.host.programs import run_program
from ovms_scaler.host.trial import find_libraries, read_system
from ovms_scaler.releases.trying import LATE, LATE_ON_GPUS

ENGINE = ("engine-program", "engine-libraries", "engine-version", "engine-python")
_LOOK_SEC = 5.0
_POOL = Pool(name="none")


def examine_engine(setting: Setting) -> Iterator[Finding]:
    """Have ``--version`` run as the service would, or as whoever asks where that is not root."""
    user = setting.user
    if user is None:
        for name in ENGINE:
            yield unknown(name, setting.engine.binary, f"there is no user {SERVICE_USER!r}", "see accounts")
        return
    facts = _read_engine(setting, user)
    generating = [name for name, model in setting.models.items() if model.generates]
    yield judging.judge_program(facts)
    yield judging.judge_libraries(facts, on_gpus=any(p.placement in ON_GPUS for p in setting.spec.pool))
    yield judging.judge_version(facts)
    yield judging.judge_python(facts, generating)


def _read_engine(setting: Setting, user: Account) -> EngineFacts:
    program, root = setting.engine.binary, setting.root
    system = read_system()
    as_root = os.geteuid() == 0
    name = user.name if as_root else "who asks"
    if not _may_be_there(files.below(root, program)):
        return EngineFacts(program=program, user=name, system=system, exists=False)
    closed = _find_closed(program, root, user) if as_root else find_closed((program,), root, to_run=True)
    if closed is not None:
        return EngineFacts(program=program, user=name, system=system, closed=closed)
    pool = next(iter(setting.spec.pool), _POOL)
    environment = render_environment(pool, setting.engine)
    ran = run_program([program, "--version"], root, user=user if as_root else None, environment=environment)
    if ran.status is None:
        return EngineFacts(program=program, user=name, system=system, refused=ran.refused)
    home = files.below(root, str(PurePosixPath(program).parent.parent))
    own = {key: environment[key] for key in ("LD_LIBRARY_PATH",) if key in environment}
    late, late_on_gpus = (
        _look_up(home, names, own, user if as_root else None) for names in (LATE, LATE_ON_GPUS)
    )
    return EngineFacts(
        program=program,
        user=name,
        system=system,
        ran=_translate(ran.status, ran.output),
        libraries=late,
        libraries_of_gpus=late_on_gpus,
    )


def _may_be_there(path: Path) -> bool:
    """Whether there is such a file, as far as this user may look."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _find_closed(path: str, root: Path, user: Account) -> Closed | None:
    task = Task(
        name="closed",
        call=partial(find_closed, (path,), root, to_run=True),
        deadline_sec=_LOOK_SEC,
        user=user,
        parse=parse_closed,
    )
    value = run_apart([task])["closed"].value
    return value if isinstance(value, Closed) else None


def _translate(status: int, output: str) -> Ran:
    """An end as systemd would tell it."""
    if status < 0:
        return Ran(output=output, result="signal", signal=signal.Signals(-status).name.removeprefix("SIG"))
    return Ran(output=output, result="exit-code" if status else "success", status=status)


def _look_up(home: Path, names: tuple[str, ...], environment: dict[str, str], user: Account | None) -> str:
    """Never as root: ldd(1) may run what it is given."""
    libraries = find_libraries(home, names)
    if not libraries:
        return ""
    return run_program(["/usr/bin/ldd", *libraries], user=user, environment=environment).output


def examine_files(pool: Pool, setting: Setting) -> tuple[Finding, ...]:
    """Whether a model is whole."""
    model = setting.models[pool.name]
    if model.problem is not None:
        return judging_models.judge_files(pool.name, model, ())
    return judging_models.judge_files(
        pool.name, model, read_networks(_directories(pool, setting.root), setting.root)
    )


def examine_access(pool: Pool, setting: Setting) -> tuple[Finding, ...]:
    """To be called as the user of the engines."""
    paths = ([pool.config_path] if pool.config_path else []) + _directories(pool, setting.root)
    closed = find_closed(paths, setting.root)
    return (judging_models.judge_access(pool, closed, SERVICE_USER),)


def _directories(pool: Pool, root: Path) -> list[str]:
    """Where the files of a pool's models are."""
    if pool.config_path is None:
        return [pool.model_path or ""]
    try:
        text = files.below(root, pool.config_path).read_text()
        served = parse_served(text)
    except (OSError, UnicodeDecodeError, InputError):
        return []  # another check tells
    start = posixpath.dirname(pool.config_path)
    joined = (
        posixpath.normpath(posixpath.join(start, one.base_path)) for one in served.models if one.base_path
    )
    return list(dict.fromkeys(joined))
