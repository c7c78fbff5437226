# SPDX-License-Identifier: Apache-2.0
"""Runs programs of the host and reads what they print."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovms_scaler.host import files
from ovms_scaler.host.accounts import Account

# Nothing of the caller's own surroundings changes what a program prints.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a program ended: ``status`` is negative for a signal, None when it could not be started.

    ``refused`` is why it could not; ``output`` is standard output and error together.
    """

    status: int | None
    output: str = ""
    refused: str = ""


def run_program(
    argv: Sequence[str],
    root: Path = Path("/"),
    *,
    user: Account | None = None,
    environment: Mapping[str, str] | None = None,
    errors: bool = True,
    timeout_sec: float | None = None,
) -> Ran:
    """Run the program of that absolute path below ``root`` to its end; ``errors`` are read along.

    Whoever cannot wait for ever gives a time, or calls this in ``run_apart``.
    """
    other = user is not None and user.uid != os.geteuid()
    try:
        done = subprocess.run(
            [str(files.below(root, argv[0])), *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if errors else subprocess.DEVNULL,
            env=_ENVIRONMENT | dict(environment or {}),
            cwd="/",
            check=False,
            timeout=timeout_sec,
            user=user.uid if other and user is not None else None,
            group=user.gid if other and user is not None else None,
            extra_groups=list(user.groups) if other and user is not None else None,
        )
    except subprocess.TimeoutExpired:
        return Ran(status=None, refused=f"it did not end within {timeout_sec:g} seconds")
    except OSError as error:
        return Ran(status=None, refused=error.strerror or str(error))
    return Ran(status=done.returncode, output=done.stdout.decode(errors="replace"))
