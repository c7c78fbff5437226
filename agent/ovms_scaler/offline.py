# SPDX-License-Identifier: Apache-2.0
"""What can be known without the daemon: the target of a configuration, on this machine or a copied one."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ovms_scaler.config import Config
from ovms_scaler.core.books import Books
from ovms_scaler.core.engine import GRAPH_FILE, instance_directory
from ovms_scaler.core.fronts import PROXY_DIRECTORY
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.nginx import Member
from ovms_scaler.core.release import pin
from ovms_scaler.core.route import CONFIGURATION, GENERATION
from ovms_scaler.core.spec import Pool
from ovms_scaler.core.target import Target, render_proxy_files, resolve
from ovms_scaler.core.topology import Topology
from ovms_scaler.core.unit import drop_in_path
from ovms_scaler.errors import ConfigError, HostError, InputError
from ovms_scaler.host import files
from ovms_scaler.host.credentials import CredentialStore, CredentialsUnreadableError, read_credentials
from ovms_scaler.host.models import read_model
from ovms_scaler.host.processes import has_ipv6
from ovms_scaler.host.store import Store, instance_paths
from ovms_scaler.host.sysfs import read_topology

HERE = Path("/")
# Stands in rendered routes for what is known only when an engine runs: systemd's id of its invocation.
NO_INVOCATION = "0" * 32
# Every path that is ever written for others to read; the agent's own notes are not among them.
_PATTERNS = (
    drop_in_path("*"),
    str(instance_directory("*") / GRAPH_FILE),
    f"{PROXY_DIRECTORY}/{CONFIGURATION}",
    f"{PROXY_DIRECTORY}/{GENERATION}",
    f"{PROXY_DIRECTORY}/routes/*/*.conf",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What the agent would make of a configuration, and what of it is on disk already.

    ``wanted`` and ``present`` are texts by absolute path, without what the daemon decides while it runs (who
    is in rotation). ``owners`` tells the instance of a path. ``unreadable`` are paths that this user may
    not read. ``warnings`` are sentences for people.
    """

    target: Target
    wanted: Mapping[str, str]
    present: Mapping[str, str]
    owners: Mapping[str, str]
    unreadable: frozenset[str]
    warnings: tuple[str, ...]


def read_machine(sysroot: Path = HERE) -> Topology:
    """The machine whose sysfs and procfs stand below ``sysroot``. Raises HostError."""
    return read_topology(sysroot)


def resolve_config(
    config: Config,
    topology: Topology,
    books: Books,
    read: Callable[[Pool], ModelFacts] = read_model,
    *,
    planned: bool = True,
) -> Target:
    """The target, with problems that name their file. ``planned`` as in ``place``. Raises ConfigError."""
    models = {pool.name: read(pool) for pool in config.spec.pool}
    spec = replace(config.spec, engine=pin(config.spec.engine, config.release))
    try:
        return resolve(spec, topology, models, books, planned=planned, ipv6=has_ipv6())
    except ConfigError as error:
        raise config.locate(error) from error


def add_credentials(target: Target, config: Config, store: CredentialStore, *, anew: bool) -> Target:
    """The target with the credentials that its proxy is to use; ``anew`` and errors as in ``take``."""
    try:
        number = store.take(config.spec.proxy, anew=anew)
    except ConfigError as error:
        raise config.locate(error) from error
    access = replace(target.proxy.access, number=number)
    return replace(target, proxy=replace(target.proxy, access=access))


def preview_target(
    config: Config, sysroot: Path = HERE, host: Path | None = None
) -> tuple[Target, tuple[str, ...]]:
    """The target on the machine below ``sysroot``, and warnings of this preview beside the target's own.

    Ports and GPUs are remembered below ``host``, which is / unless another machine is looked at, whose files
    are not known. Raises ConfigError and HostError.
    """
    warnings: list[str] = []
    store = _open_store(sysroot, host)
    books = _read_books(store, warnings) if store is not None else Books()
    config = config if store is not None else replace(config, release="")  # this machine's is not that one's
    target = resolve_config(config, read_topology(sysroot), books, _read_model_as_anybody)
    if store is not None:
        _check_credentials(config, warnings)
    return target, tuple(warnings)


def preview(config: Config, sysroot: Path = HERE, host: Path | None = None) -> Preview:
    """The target, every file of it, and what is on disk; arguments and errors as in ``preview_target``."""
    target, found = preview_target(config, sysroot, host)
    warnings = [*target.warnings, *found]
    wanted = {path: text for one in target.wanted.values() for path, text in one.files.items()}
    owners = {path: name for name, one in target.wanted.items() for path in one.files}
    proxy = f"{PROXY_DIRECTORY}/{CONFIGURATION}"
    present: dict[str, str] = {}
    unreadable: set[str] = set()
    if (store := _open_store(sysroot, host)) is not None:
        owners |= {path: name for name in _read_instances(store, warnings) for path in instance_paths(name)}
        present, unreadable = _read_present(store, {*wanted, *owners, proxy}, warnings)
    if target.fronts or proxy in present:
        wanted[proxy] = _render_proxy(target, {})[proxy]
    return Preview(
        target=target,
        wanted=wanted,
        present=present,
        owners=owners,
        unreadable=frozenset(unreadable),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def render_files(target: Target) -> dict[str, str]:
    """Every file that is written for systemd, the proxy and the engines, by absolute path.

    The proxy's are as with all instances in rotation that may be started; NO_INVOCATION stands in the
    routes, and the generation is that of these very files.
    """
    rendered = {path: text for one in target.wanted.values() for path, text in one.files.items()}
    if not target.fronts:
        return rendered
    members: dict[str, tuple[Member, ...]] = {}
    for wanted in target.wanted.values():
        one = wanted.instance
        if one.problem is None:
            members[wanted.upstream] = (
                *members.get(wanted.upstream, ()),
                Member(
                    instance=one.id,
                    port=one.port,
                    weight=one.weight,
                    max_conns=wanted.max_conns,
                    invocation=NO_INVOCATION,
                ),
            )
    return rendered | _render_proxy(target, members)


def write_rendered(output: Path, rendered: Mapping[str, str]) -> tuple[str, ...]:
    """Make ``output`` hold exactly these files, each below it at its path; the paths in order.

    Raises InputError when the directory is / or holds anything that was not rendered, HostError when it
    cannot be written.
    """
    stale = _read_rendered(output) - rendered.keys()
    try:
        output.mkdir(parents=True, exist_ok=True)
        for path in sorted(stale):
            files.below(output, path).unlink(missing_ok=True)
            for parent in Path(path).parents:
                if parent != HERE:
                    files.remove_empty(files.below(output, str(parent)))
    except OSError as error:
        raise HostError(f"cannot write to {str(output)!r}: {error.strerror}") from error
    files.write_all(output, rendered)
    return tuple(sorted(rendered))


def _read_rendered(output: Path) -> frozenset[str]:
    """The files of an earlier rendering, by absolute path; none when there is no such directory."""
    if os.path.realpath(output) == os.path.realpath("/"):
        raise InputError(
            f"cannot render to {str(output)!r}: it is the root of this machine",
            hint="the agent itself writes there; give an empty directory",
        )
    if not os.path.lexists(output):
        return frozenset()
    if not output.is_dir():
        raise InputError(f"cannot render to {str(output)!r}: it is not a directory")
    found: set[str] = set()
    for directory, names, plain in os.walk(output, onerror=_refuse_walk):
        for name in [*plain, *(name for name in names if os.path.islink(os.path.join(directory, name)))]:
            path = "/" + os.path.relpath(os.path.join(directory, name), output)
            if os.path.islink(os.path.join(directory, name)) or not _is_ours(path):
                raise InputError(
                    f"cannot render to {str(output)!r}: it holds {path[1:]!r}, which was not rendered",
                    hint="give an empty directory, or one that was rendered to before",
                )
            found.add(path)
    return frozenset(found)


def _refuse_walk(error: OSError) -> None:
    raise HostError(f"cannot read {error.filename!r}: {error.strerror}") from error


def _is_ours(path: str) -> bool:
    return any(Path(path).match(pattern) for pattern in _PATTERNS)


def _open_store(sysroot: Path, host: Path | None) -> Store | None:
    if host is None and os.path.realpath(sysroot) != os.path.realpath(HERE):
        return None
    return Store(host or HERE)


def _render_proxy(target: Target, members: Mapping[str, tuple[Member, ...]]) -> dict[str, str]:
    proxy = render_proxy_files(target, members)
    return {f"{PROXY_DIRECTORY}/{path}": text for path, text in proxy.files.items()}


def _read_books(store: Store, warnings: list[str]) -> Books:
    try:
        return store.read_books()
    except HostError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        warnings.append(f"{error.message}: all is placed as if nothing were remembered")
        return Books()


def _check_credentials(config: Config, warnings: list[str]) -> None:
    """Raises ConfigError; where only this user may not look at them, the agent will."""
    try:
        read_credentials(config.spec.proxy)
    except ConfigError as error:
        if os.geteuid() == 0 or not isinstance(error, CredentialsUnreadableError):
            raise config.locate(error) from error
        warnings.extend(f"{problem.key}: {problem.rule}: not checked" for problem in error.problems)


def _read_instances(store: Store, warnings: list[str]) -> frozenset[str]:
    try:
        return store.list_instances()
    except HostError as error:
        warnings.append(f"{error.message}: cannot tell what is no longer wanted")
        return frozenset()


def _read_present(store: Store, paths: set[str], warnings: list[str]) -> tuple[dict[str, str], set[str]]:
    present: dict[str, str] = {}
    unreadable: set[str] = set()
    for path in sorted(paths):
        try:
            present |= store.read_files([path])
        except HostError as error:
            unreadable.add(path)
            warnings.append(f"{error.message}: cannot compare it")
    return present, unreadable


def _read_model_as_anybody(pool: Pool) -> ModelFacts:
    """The model; where only this user may not look at it, the agent will, so that it is no problem."""
    facts = read_model(pool)
    if facts.problem is None or os.geteuid() == 0 or not _is_closed(facts.path):
        return facts
    kind = ModelKind.config if pool.config_path is not None else ModelKind.llm
    warning = f"this user may not read {facts.path!r}: it is taken for a model that can be served"
    return ModelFacts(path=facts.path, kind=kind, warnings=(warning,))


def _is_closed(path: str) -> bool:
    """Whether the path, or a file right in it, is there and may not be read by this user."""
    try:
        inside = [os.path.join(path, name) for name in os.listdir(path)]
    except NotADirectoryError:
        inside = [path]
    except PermissionError:
        return True
    except OSError:
        return False
    return any(os.path.lexists(file) and not os.access(file, os.R_OK) for file in inside)
