# SPDX-License-Identifier: Apache-2.0
"""What can be known without the daemon: the target of a configuration on this machine or on a copy of one."""

from dataclasses import dataclass
from pathlib import Path

from ovms_scaler.config import Config
from ovms_scaler.core.target import Target, render_proxy_files, resolve
from ovms_scaler.core.topology import Topology
from ovms_scaler.errors import ConfigError
from ovms_scaler.host.models import read_model
from ovms_scaler.host.store import Store, instance_paths
from ovms_scaler.host.sysfs import read_topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What the agent would make of a configuration, and what of it is on disk already."""

    target: Target
    topology: Topology
    files: dict[str, str]
    present: dict[str, str]


def preview(config: Config, sysroot: Path = Path("/")) -> Preview:
    """The target, and every file by absolute path as it would be with all instances still to be routed.

    Ports come from the host's own port book, unless another tree is looked at. Raises ConfigError and HostError.
    """
    here = sysroot == Path("/")
    store = Store()
    topology = read_topology(sysroot)
    target = resolve_config(config, topology, store.read_port_book() if here else {})
    files = {path: text for wanted in target.wanted.values() for path, text in wanted.files.items()}
    proxy = render_proxy_files(target, {})
    files |= {f"{target.proxy.directory}/{path}": text for path, text in proxy.files.items()}
    present: dict[str, str] = {}
    if here:
        present = present_files(store, target, files)
    return Preview(target=target, topology=topology, files=files, present=present)


def resolve_config(config: Config, topology: Topology, port_book: dict[str, int]) -> Target:
    """The target, with problems that name their file. Raises ConfigError."""
    models = {pool.name: read_model(pool) for pool in config.spec.pool}
    try:
        return resolve(config.spec, topology, models, port_book)
    except ConfigError as error:
        raise config.locate(error) from error


def present_files(store: Store, target: Target, files: dict[str, str]) -> dict[str, str]:
    """What is on disk now of everything that would be written or removed."""
    names = store.list_instances() | target.wanted.keys()
    paths = {path for name in names for path in instance_paths(name)} | files.keys()
    return store.read_files(paths)
