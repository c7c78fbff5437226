# SPDX-License-Identifier: Apache-2.0
"""What a service's user may not pass, list or read, and how to let it."""

from dataclasses import dataclass
from shlex import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The first thing in the way. ``mode`` are its permission bits; None where it cannot be looked at."""

    path: str
    verb: str  # "pass", "list", "read" or "run"
    mode: int | None
    is_directory: bool


def describe(closed: Closed, user: str) -> str:
    mode = f" (mode {closed.mode:04o})" if closed.mode is not None else ""
    return f"the user {user!r} may not {closed.verb} {closed.path!r}{mode}"


def remedy_for(closed: Closed, user: str, directory: str = "") -> str:
    """What lets the user in, and nobody into more than that; all of ``directory`` is to be read.

    A home directory is opened for that user alone.
    """
    path = quote(closed.path)
    if directory and (closed.path == directory or closed.path.startswith(f"{directory.rstrip('/')}/")):
        return f"chmod -R a+rX {quote(directory)}"
    if closed.verb == "pass":
        return f"setfacl -m u:{user}:x {path}" if _is_home(closed.path) else f"chmod a+x {path}"
    return f"chmod {'a+rx' if closed.verb == 'run' or closed.is_directory else 'a+r'} {path}"


def _is_home(path: str) -> bool:
    return path == "/root" or path.startswith(("/home/", "/root/"))
