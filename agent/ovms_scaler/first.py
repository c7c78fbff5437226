# SPDX-License-Identifier: Apache-2.0
"""The first configuration of this host: what is found, what would become of it, and its file."""

import os
import stat
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovms_scaler.config import CONFIG_FILE, Config, read_config
from ovms_scaler.core.first_config import First, describe_machine, render_first, suggest_name, usable_gpus
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.spec_engine import Engine
from ovms_scaler.core.target import Target
from ovms_scaler.core.topology import Gpu, Topology
from ovms_scaler.errors import HostError, InputError, RefusedError
from ovms_scaler.host import files, search
from ovms_scaler.host.sysfs import read_topology
from ovms_scaler.offline import HERE, preview_target

MODEL_DIRECTORIES = search.MODEL_DIRECTORIES
_SHOWN = 5  # of the directories that were looked at in vain


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What there is to choose from: models, programs, and GPUs that can be used.

    ``binary`` is where the program is, or would be; ``searched`` are the directories that models are named
    after.
    """

    topology: Topology
    gpus: tuple[Gpu, ...]
    models: tuple[ModelFacts, ...]
    searched: tuple[str, ...]
    binary: str
    warnings: tuple[str, ...]

    @property
    def machine(self) -> str:
        return describe_machine(self.topology, self.gpus)

    def name(self, model: ModelFacts) -> str | None:
        """What clients would call a model; None for a config.json and where its path does not tell."""
        return None if model.kind is ModelKind.config else suggest_name(model.path, self.searched)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A configuration that the agent would accept, not written yet.

    ``warnings`` as of ``preview_target``.
    """

    text: str
    config: Config
    target: Target
    warnings: tuple[str, ...]


def look(
    directories: Sequence[Path] = (),
    *,
    model: Path | None = None,
    binary: Path | None = None,
    sysroot: Path = HERE,
) -> Findings:
    """Look at this machine, or for its hardware at the copied one below ``sysroot``.

    ``model`` and ``binary`` are what is known already. Raises InputError when a model cannot be served or
    none is found, and HostError.
    """
    searched = tuple(os.path.abspath(one) for one in directories or MODEL_DIRECTORIES)
    topology = read_topology(sysroot)
    warnings = []
    if model is not None:
        models: tuple[ModelFacts, ...] = (_read_model(model),)
    else:
        found = search.find_models(map(Path, searched))
        if not found.models:
            raise _nothing_found(found, searched)
        models = found.models
        warnings += [f"{found.missed}: there may be more models"] if found.missed else []
    program = (
        os.path.abspath(binary) if binary is not None else search.find_program(os.environ.get("PATH", ""))
    )
    if program is None or not os.path.isfile(program):
        hint = "ovms-scalerctl engine install TARBALL, or say --binary FILE"
        warnings.append(f"there is no program {program or Engine().binary!r} yet\n  hint: {hint}")
    return Findings(
        topology=topology,
        gpus=usable_gpus(topology),
        models=models,
        searched=searched,
        binary=program or Engine().binary,
        warnings=tuple(warnings),
    )


def draft(first: First, findings: Findings, file: Path = CONFIG_FILE, *, sysroot: Path = HERE) -> Draft:
    """The configuration, judged as in ``file``, with the config.d beside it. Raises InputError."""
    text = render_first(first, findings.topology)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"cannot write the path {first.model.path!r}: it is not UTF-8", hint="rename it, or link to it"
        ) from error
    config = read_config(file, text=text)
    target, warnings = preview_target(config, sysroot)
    return Draft(text=text, config=config, target=target, warnings=warnings)


def check_place(file: Path, *, force: bool) -> None:
    """Raises RefusedError when the file must not be written, HostError when it cannot be.

    One in which nothing is set, as the package ships it, may be replaced.
    """
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise HostError(f"cannot write {file}: {error.strerror}") from error
    if mode is not None and not stat.S_ISREG(mode):
        raise RefusedError(f"cannot write {file}: it is not a file", hint="--output - prints it")
    if mode is not None and not force and not _is_blank(file):
        raise RefusedError(
            f"cannot write {file}: it is there already, and something is set in it",
            hint="--force keeps it as "
            f"{_kept(file).name} and writes a new one; --output - shows what would be written",
        )
    parent = next(one for one in file.absolute().parents if one.is_dir())
    if not os.access(parent, os.W_OK):
        raise HostError(
            f"cannot write {file}: Permission denied",
            hint="run this as root; --output - only shows what would be written",
        )


def write(file: Path, text: str) -> Path | None:
    """Put the file in place in one step; where one was kept in which something had been set."""
    file = Path(os.path.realpath(file))
    kept = None
    if file.exists() and not _is_blank(file) and file.read_bytes() != text.encode():
        kept = _kept(file)
        try:
            kept.unlink(missing_ok=True)
            os.link(file, kept)
        except OSError as error:
            raise HostError(f"cannot keep {file} as {kept}: {error.strerror}") from error
    files.write_text(file, text, durable=True)
    return kept


def _read_model(path: Path) -> ModelFacts:
    facts = search.read_path(os.path.abspath(path))
    if facts.problem is not None:
        raise InputError(facts.problem, hint=facts.hint)
    return facts


def _nothing_found(found: search.Search, searched: Sequence[str]) -> InputError:
    lines = [f"cannot find a model in OpenVINO format below {', '.join(searched)}"]
    lines += [f"  {one.problem}" + (f": {one.hint}" if one.hint else "") for one in found.refused[:_SHOWN]]
    if (more := len(found.refused) - _SHOWN) > 0:
        lines.append(f"  {more} more directories like these")
    lines += [f"  {found.missed}"] if found.missed else []
    return InputError("\n".join(lines), hint="--models DIR looks below DIR, --model PATH names one")


def _is_blank(file: Path) -> bool:
    """Whether nothing is set in a configuration; what cannot be read or understood is something."""
    try:
        return not tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False


def _kept(file: Path) -> Path:
    return file.with_name(f"{file.name}.old")
