# SPDX-License-Identifier: Apache-2.0
"""Runs a program of a release once as instances are run: as their user, with its libraries, confined."""

import os
import platform
import re
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ovms_scaler.core.release_check import Ran, System
from ovms_scaler.errors import HostError

LIMIT_SEC = 60
_GIVE_UP_SEC = 30  # beyond that limit, which systemd keeps
_MAX_CHARS = 64 * 1024
# As in units/ovms@.service, and no network at all: it is to say its version.
_CONFINED = (
    "NoNewPrivileges=yes", "CapabilityBoundingSet=", "RestrictSUIDSGID=yes", "ProtectSystem=strict",
    "ProtectHome=read-only", "PrivateTmp=yes", "PrivateDevices=yes", "PrivateNetwork=yes",
    "ProtectKernelTunables=yes", "ProtectKernelModules=yes", "ProtectControlGroups=yes",
    "ProtectProc=invisible", "LimitCORE=0", "TasksMax=512", "MemoryMax=4G",
)  # fmt: skip
# What systemd-run says itself, on the same stream as the program.
_OWN_LINES = re.compile(
    r"^(Running as unit:|Press \^\]|Finished with result:|Main processes terminated with:|Service runtime:"
    r"|CPU time consumed:|Memory (peak|swap)|IP traffic|IO bytes).*\n?",
    re.MULTILINE,
)
# systemd 252 and 257 put it differently.
_SIGNAL = re.compile(
    r"^Main processes terminated with: code=(?:killed|dumped)(?:/status=|, status=\d+/)(\w+)", re.MULTILINE
)


def run_trial(directory: Path, *arguments: str, user: str = "ovms") -> Ran:
    """Run ``arguments``, the program first, with the libraries of the release in ``directory``.

    Raises HostError when systemd cannot be asked to.
    """
    unit = f"ovms-scaler-trial-{os.getpid()}.service"
    library = directory / "lib"
    argv = [
        "systemd-run", "--pipe", "--wait", "--collect", f"--unit={unit}", f"--uid={user}", f"--gid={user}",
        "--description=ovms-scalerctl tries a release of OpenVINO Model Server", "--working-directory=/",
        f"--property=RuntimeMaxSec={LIMIT_SEC}", *(f"--property={one}" for one in _CONFINED),
        f"--setenv=LD_LIBRARY_PATH={library}", f"--setenv=PYTHONPATH={library}/python",
        "--setenv=PYTHONDONTWRITEBYTECODE=1", "--", *arguments,
    ]  # fmt: skip
    # --pipe takes the bus, which nobody has started yet where D-Bus was installed a moment ago.
    bus = ["systemctl", "start", "dbus.socket"]
    try:
        subprocess.run(bus, check=False, capture_output=True, timeout=_GIVE_UP_SEC)
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_SEC + _GIVE_UP_SEC,
            check=False,
        )
    except FileNotFoundError as error:
        raise HostError("cannot try the release: there is no systemd") from error
    except subprocess.TimeoutExpired as error:
        subprocess.run(["systemctl", "stop", "--no-block", unit], check=False, capture_output=True)
        raise HostError(
            "cannot try the release: systemd does not answer", hint="systemctl list-jobs"
        ) from error
    return parse_outcome(done.returncode, done.stdout.decode(errors="replace"))


def parse_outcome(status: int, text: str) -> Ran:
    """What systemd-run reported of a program. Raises HostError when it did not come to run."""
    output = _OWN_LINES.sub("", text)[:_MAX_CHARS]
    if status == 0:
        return Ran(output=output, result="success")
    result = re.search(r"^Finished with result: (\S+)", text, re.MULTILINE)
    if result is None:
        # It never came to that: a refused property, no such user, no systemd.
        said = " ".join(output.split())[:300]
        raise HostError(
            f"cannot try the release: {said or f'systemd-run ended with {status}'}",
            hint="systemctl is-system-running; getent passwd ovms",
        )
    signal = _SIGNAL.search(text)
    return Ran(
        output=output,
        result=result[1],
        status=status if result[1] == "exit-code" else 0,
        signal=signal[1] if signal else "",
    )


def find_libraries(directory: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the release's libraries that are loaded only when they are needed, by full path."""
    return tuple(str(path) for name in names if (path := directory / "lib" / name).is_file())


def read_system() -> System:
    """This system, as far as builds differ in it."""
    try:
        facts = platform.freedesktop_os_release()
    except OSError:
        facts = {}
    return System(
        id=facts.get("ID", ""),
        version=facts.get("VERSION_ID", ""),
        name=facts.get("PRETTY_NAME", "this system"),
        glibc=(os.confstr("CS_GNU_LIBC_VERSION") or "glibc ?").partition(" ")[2],
    )


def is_for_this_machine(program: Path) -> bool:
    """Whether an ELF program is for this kind of CPU (e_machine in elf(5)); whatever is no ELF is."""
    own, other = _read_machine(Path("/proc/self/exe")), _read_machine(program)
    return own is None or other is None or own == other


def _read_machine(path: Path) -> tuple[int, int] | None:
    try:
        with path.open("rb") as stream:
            head = stream.read(20)
    except OSError:
        return None
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    return head[4], struct.unpack("<H" if head[5] == 1 else ">H", head[18:20])[0]
