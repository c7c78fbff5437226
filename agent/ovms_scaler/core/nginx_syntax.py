# SPDX-License-Identifier: Apache-2.0
"""What may stand in nginx's configuration, and how a block of it is written."""

import re

from ovms_scaler.errors import InputError

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
_PATH = re.compile(r"/[A-Za-z0-9._/-]+")


def block(head: str, *body: str) -> list[str]:
    """``head { body }`` as lines, the body indented; an empty line stays empty."""
    return [f"{head} {{", *(f"    {line}" if line else "" for line in body), "}"]


def printable(text: str) -> str:
    """Text of people for a comment: nothing in it can end the line."""
    return "".join(char if char.isprintable() else "?" for char in text)


def check_name(name: str, *, what: str) -> str:
    """The name itself. Raises InputError when it is not lower-case letters, digits and dashes."""
    if not NAME.fullmatch(name):
        raise InputError(
            f"cannot write {what} {name!r} into the proxy's configuration: it must be lower-case letters, "
            "digits and dashes, and begin with a letter or digit"
        )
    return name


def check_path(path: str) -> str:
    """The absolute path itself. Raises InputError for one that would need quoting in nginx.conf."""
    if not _PATH.fullmatch(path):
        raise InputError(
            f"cannot write path {path!r} into the proxy's configuration: it must be absolute, of letters, "
            "digits, '.', '_', '-' and '/'"
        )
    return path


def check_number(value: int, *, what: str, low: int = 1, high: int = 2**31 - 1) -> int:
    """The number itself. Raises InputError outside ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"cannot set {what} to {value!r}: must be a whole number from {low} to {high}")
    return value
