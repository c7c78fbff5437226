# SPDX-License-Identifier: Apache-2.0
"""What the agent remembers: ports for ever, and what it has seen running until the next boot."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ovms_scaler.core.engine import GRAPH_FILE, instance_directory
from ovms_scaler.core.unit import UNIT_DIRECTORY, drop_in_path
from ovms_scaler.errors import HostError
from ovms_scaler.host import files

STATE = "/var/lib/ovms-scaler"
RUN = "/run/ovms-scaler"
_DROP_IN_DIRECTORY = re.compile(r"ovms@(?P<instance>[a-z0-9][a-z0-9.:-]*)\.service\.d")


class Store:
    """State and files of the instances below ``root``."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def read_port_book(self) -> dict[str, int]:
        """Instance id -> port. Raises HostError for a book that cannot be trusted."""
        path = files.below(self._root, f"{STATE}/ports.json")
        text = files.read_text(path)
        if text is None:
            return {}
        try:
            book = json.loads(text)
        except ValueError as error:
            raise _corrupt(path, str(error)) from error
        if not isinstance(book, dict) or not all(
            type(port) is int and 0 < port < 65536 for port in book.values()
        ):
            raise _corrupt(path, "it must map instance ids to ports")
        if len(set(book.values())) != len(book):
            raise _corrupt(path, "two instances have the same port")
        return book

    def write_port_book(self, book: Mapping[str, int]) -> None:
        """Raises HostError."""
        text = json.dumps(dict(book), indent=1, sort_keys=True) + "\n"
        files.write_text(files.below(self._root, f"{STATE}/ports.json"), text, durable=True)

    def read_accepted(self) -> Any:
        """The configuration accepted last in this boot, as JSON; None for none or an unreadable one."""
        try:
            text = files.read_text(files.below(self._root, f"{RUN}/accepted.json"))
            return None if text is None else json.loads(text)
        except (HostError, ValueError, RecursionError):
            return None

    def write_accepted(self, document: object) -> None:
        """Raises HostError."""
        files.write_text(
            files.below(self._root, f"{RUN}/accepted.json"), json.dumps(document, sort_keys=True)
        )

    def read_started(self) -> dict[str, str]:
        """Units that were seen running since the last boot and that the agent did not stop.

        Each with what was noted about it. Raises HostError.
        """
        directory = files.below(self._root, f"{RUN}/started")
        try:
            paths = sorted(directory.iterdir())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise HostError(f"cannot read {directory}: {error.strerror}") from error
        return {path.name: files.read_text(path) or "" for path in paths if not path.name.startswith(".")}

    def write_started(self, unit: str, note: str) -> None:
        """Raises HostError."""
        files.write_text(files.below(self._root, f"{RUN}/started/{unit}"), note)

    def forget_started(self, unit: str) -> None:
        """To be called before the agent stops a unit, as the stop is its own. Raises HostError."""
        marker = files.below(self._root, f"{RUN}/started/{unit}")
        try:
            marker.unlink(missing_ok=True)
        except OSError as error:
            raise HostError(f"cannot remove {marker}: {error.strerror}") from error

    def list_instances(self) -> frozenset[str]:
        """Instances that have a drop-in on disk."""
        directory = files.below(self._root, str(UNIT_DIRECTORY))
        try:
            names = [path.name for path in directory.iterdir()]
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise HostError(f"cannot read {directory}: {error.strerror}") from error
        return frozenset(
            match["instance"] for name in names if (match := _DROP_IN_DIRECTORY.fullmatch(name))
        )

    def read_files(self, paths: Iterable[str]) -> dict[str, str]:
        """The files that exist, by absolute path. Raises HostError."""
        return files.read_all(self._root, paths)

    def read_instance(self, instance: str) -> dict[str, str]:
        """The files of one instance that exist, by absolute path. Raises HostError."""
        return self.read_files(instance_paths(instance))

    def write_instance(self, contents: Mapping[str, str]) -> tuple[str, ...]:
        """Raises HostError."""
        return files.write_all(self._root, contents)

    def remove_instance(self, instance: str) -> None:
        """Remove everything that was written for one instance. Raises HostError."""
        for path in instance_paths(instance):
            target = files.below(self._root, path)
            try:
                target.unlink(missing_ok=True)
            except OSError as error:
                raise HostError(f"cannot remove {target}: {error.strerror}") from error
            files.remove_empty(target.parent)


def instance_paths(instance: str) -> Iterable[str]:
    """Every file that is ever written for an instance."""
    return (drop_in_path(instance), str(instance_directory(instance) / GRAPH_FILE))


def _corrupt(path: Path, why: str) -> HostError:
    return HostError(
        f"cannot use the port book {path}: {why}",
        hint="restore it, or remove it while nothing runs: instances then get ports anew",
    )
