# SPDX-License-Identifier: Apache-2.0
"""Entries of the journal as ``journalctl --output=json`` prints them (systemd's "Journal JSON Format")."""

import json
from collections.abc import Mapping

Fields = Mapping[str, str]


def parse_entry(line: bytes) -> dict[str, str] | None:
    """The fields of one line; None for anything but an entry.

    A field that is too large is null and left out, one that is not printable a list of its bytes, and of one
    that is there several times the first counts.
    """
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    return {name: text for name, value in document.items() if (text := _parse_value(value)) is not None}


def _parse_value(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        return None
    if isinstance(value[0], int):
        try:
            return bytes(value).decode(errors="replace")
        except (TypeError, ValueError):
            return None
    return _parse_value(value[0]) if isinstance(value[0], str) or _is_bytes(value[0]) else None


def _is_bytes(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], int)
