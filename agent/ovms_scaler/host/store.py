# SPDX-License-Identifier: Apache-2.0
"""What the agent remembers: ports for ever, and what it has seen running until the next boot."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ovms_scaler.core.books import Books, gpu_book_document, parse_gpu_book, parse_ports
from ovms_scaler.core.engine import GRAPH_FILE, instance_directory
from ovms_scaler.core.orders import Orders, orders_document, parse_orders
from ovms_scaler.core.unit import UNIT_DIRECTORY, drop_in_path
from ovms_scaler.errors import HostError, InputError
from ovms_scaler.host import files

T = TypeVar("T")
STATE = "/var/lib/ovms-scaler"
RUN = "/run/ovms-scaler"
_DROP_IN_DIRECTORY = re.compile(r"ovms@(?P<instance>[a-z0-9][a-z0-9.:-]*)\.service\.d")


class Store:
    """State and files of the instances below ``root``."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def read_books(self) -> Books:
        """What is remembered for good. Raises HostError for a book that cannot be trusted."""
        ports = self._read_book(_PORTS, parse_ports)
        cards, groups = self._read_book(_GPUS, parse_gpu_book) or ({}, {})
        return Books(ports=ports or {}, cards=cards, groups=groups)

    def write_books(self, books: Books) -> None:
        """Raises HostError."""
        for book, document in ((_PORTS, dict(books.ports)), (_GPUS, gpu_book_document(books))):
            text = json.dumps(document, indent=1, sort_keys=True) + "\n"
            path = files.below(self._root, f"{STATE}/{book.file}")
            if files.read_text(path) != text and (document != book.empty or path.exists()):
                files.write_text(path, text, durable=True)

    def read_orders(self) -> Orders:
        """What the administrator ordered. Raises HostError for a file that cannot be trusted."""
        return self._read_book(_ORDERS, parse_orders) or Orders()

    def write_orders(self, orders: Orders) -> None:
        """Raises HostError."""
        text = json.dumps(orders_document(orders), indent=1, sort_keys=True) + "\n"
        files.write_text(files.below(self._root, f"{STATE}/{_ORDERS.file}"), text, durable=True)

    def _read_book(self, book: "_Book", parse: Callable[[object], T]) -> T | None:
        path = files.below(self._root, f"{STATE}/{book.file}")
        text = files.read_text(path)
        if text is None:
            return None
        try:
            return parse(json.loads(text))
        except (ValueError, RecursionError, InputError) as error:
            raise HostError(f"cannot use the {book.name} {path}: {error}", hint=book.hint) from error

    def read_note(self, name: str) -> Any:
        """What was noted under a name in this boot, as JSON; None for nothing, or an unreadable note."""
        try:
            text = files.read_text(files.below(self._root, f"{RUN}/{name}.json"))
            return None if text is None else json.loads(text)
        except (HostError, ValueError, RecursionError):
            return None

    def write_note(self, name: str, document: object) -> None:
        """Raises HostError."""
        path = files.below(self._root, f"{RUN}/{name}.json")
        files.write_text(path, json.dumps(document, sort_keys=True))

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Book:
    """One file of what is remembered; ``empty`` is the document with nothing in it."""

    file: str
    name: str
    hint: str
    empty: Mapping[str, object]


_PORTS = _Book(
    file="ports.json",
    name="port book",
    hint="restore it, or remove it while nothing runs: instances then get ports anew",
    empty={},
)
_GPUS = _Book(
    file="gpus.json",
    name="GPU book",
    hint="restore it, or remove it while nothing runs: cores are then set aside and GPUs grouped anew",
    empty=gpu_book_document(Books()),
)
_ORDERS = _Book(
    file="orders.json",
    name="orders",
    hint="the agent is paused: drain again who is to be drained, then `ovms-scalerctl resume`; or restore "
    "the file, then `systemctl restart ovms-scaler`",
    empty=orders_document(Orders()),
)
