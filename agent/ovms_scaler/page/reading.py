# SPDX-License-Identifier: Apache-2.0
"""Takes values out of documents, of which any may be missing, null or of another kind than expected."""

import math
from collections.abc import Mapping

from ovms_scaler.core.cpulist import parse_cpu_list
from ovms_scaler.errors import InputError

Document = Mapping[str, object]
_NOTHING: Document = {}


def read_table(document: Document, *path: str) -> Document:
    """A table inside tables; empty when any of them is missing."""
    for name in path:
        value = document.get(name)
        document = value if isinstance(value, Mapping) else _NOTHING
    return document


def read_list(document: Document, name: str) -> list[Document]:
    """The tables in a list; empty when it is missing."""
    listed = document.get(name)
    return [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []


def read_texts(document: Document, name: str) -> tuple[str, ...]:
    listed = document.get(name)
    return tuple(map(str, listed)) if isinstance(listed, list) else ()


def read_text(document: Document, name: str) -> str:
    """ "" when it is missing."""
    value = document.get(name)
    return "" if value is None else str(value)


def read_number(document: Document, name: str) -> float | None:
    """None when it is unknown."""
    value = document.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def read_id(document: Document, name: str) -> int | None:
    """The number of a node or a socket."""
    value = document.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_cpus(document: Document, name: str) -> frozenset[int]:
    """A CPU list of the kernel's form; empty when there is none."""
    return parse_cpus(read_text(document, name))


def parse_cpus(text: str) -> frozenset[int]:
    try:
        return parse_cpu_list(text)
    except InputError:
        return frozenset()
