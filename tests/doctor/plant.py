# SPDX-License-Identifier: Apache-2.0
"""What a planted fault is, and the deeds it is made of."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from doctor_host import POOL, DoctorHost
from machine_tree import Machine, number_cores, write_machine

from ovms_scaler.core.checks.finding import Result

Deed = Callable[[DoctorHost], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """A fault: how it is made, and what the finding is to say.

    ``mend`` does what the remedy says; None where the remedy itself can be typed.
    """

    check: str
    make: Deed
    subject: str
    reason: str
    remedy: str
    mend: Deed | None
    note: str = ""
    result: Result = Result.bad


def setting(name: str, value: object) -> Deed:
    """Write a kernel setting."""
    return lambda host: host.write(f"proc/sys/{name}", f"{value}\n")


def writing(name: str, text: str, *, mode: int = 0o644) -> Deed:
    return lambda host: host.write(name, text, mode=mode)


def linking(name: str, target: str) -> Deed:
    return lambda host: host.path(name).symlink_to(target)


def removing(name: str) -> Deed:
    return lambda host: host.remove(name)


def chmod(name: str, mode: int) -> Deed:
    return lambda host: host.path(name).chmod(mode)


def unit(name: str, **changes: str) -> Deed:
    return lambda host: host.write_unit(name, **changes)


def both(*deeds: Deed) -> Deed:
    return lambda host: [deed(host) for deed in deeds]


def occupy(port: int, name: str, of: str) -> Deed:
    def make(host: DoctorHost) -> None:
        host.listen(port, inode=port)
        host.write_process(812, name, unit=of, cpus="0-7", sockets=[port])

    return make


def free(port: int) -> Deed:
    def mend(host: DoctorHost) -> None:
        host.remove("proc/812")
        text = host.path("proc/net/tcp").read_text().splitlines(keepends=True)
        host.write("proc/net/tcp", "".join(line for line in text if f":{port:04X} " not in line))

    return mend


def machine(**changes: Any) -> Deed:
    """Another machine in the place of the one that there is."""

    def make(host: DoctorHost) -> None:
        for name in ("sys/devices/system/node", "sys/devices/system/cpu"):
            host.remove(name)
        write_machine(
            host.root, dataclasses.replace(Machine(cores=number_cores({0: 8}, threads=1)), **changes)
        )

    return make


def add_to_pool(text: str) -> Deed:
    """Further keys of the only pool, or further tables."""
    return writing("etc/ovms-scaler/config.toml", POOL + text)
