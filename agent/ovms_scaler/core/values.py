# SPDX-License-Identifier: Apache-2.0
"""What single values of the configuration must look like."""

import ipaddress
import re

from ovms_scaler.core import cpulist
from ovms_scaler.errors import InputError

NAME = r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"
NAME_RULE = "must be 1 to 32 of a-z, 0-9 and '-', not starting or ending with '-'"
ABSOLUTE = r"/[^\x00-\x1f]*"
ABSOLUTE_RULE = "must be an absolute path"
# systemd refuses an executable path with one of these (string_is_safe() in src/basic/string-util.c).
PROGRAM = r"/[^\x00-\x1f\x7f\"'\\]*"
PROGRAM_RULE = "must be an absolute path without quotes and backslashes"
# A PCI address as sysfs prints it: domains have more than four digits behind Intel's VMD.
ADDRESS = r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]"
GPU = rf"{ADDRESS}|0x[0-9a-f]{{4}}"  # or a device id
GPU_RULE = "must be a PCI address or a device id, in lower case"
VENDOR = r"0x[0-9a-f]{4}"
VENDOR_RULE = "must be a PCI vendor id, in lower case"
# What systemd.exec(5) takes as a variable's name in Environment=.
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def cpu_list_rule(text: str) -> str | None:
    """The rule that ``text`` breaks as a CPU list in the kernel's form."""
    try:
        cpulist.parse_cpu_list(text)
    except InputError as error:
        return error.message
    return None


def nodes_rule(text: str) -> str | None:
    """The rule that ``text`` breaks as a choice of nodes."""
    return cpu_list_rule(text) or (None if text.strip() else "must name a node at least")


def listen_rule(text: str) -> str | None:
    """The rule that ``text`` breaks as a place for clients to connect."""
    match = re.fullmatch(
        r"(?:(?P<v4>\d{1,3}(?:\.\d{1,3}){3}):|\[(?P<v6>[0-9A-Fa-f:.]+)\]:)?(?P<port>\d{1,5})",
        text,
        re.ASCII,
    )
    if match is None:
        return f"must be a port or ADDRESS:PORT with a literal address, not {text!r}"
    if not 1 <= int(match["port"]) <= 65535:
        return f"must name a port from 1 to 65535, not {match['port']}"
    for kind, read, text in (
        ("IPv4", ipaddress.IPv4Address, match["v4"]),
        ("IPv6", ipaddress.IPv6Address, match["v6"]),
    ):
        try:
            if text:
                read(text)
        except ValueError:  # also for 010.0.0.1, which some programs take for 8.0.0.1
            return f"must name an {kind} address, not {text!r}"
    return None


def loopback_rule(text: str) -> str | None:
    """The rule that ``text`` breaks as a place that only this machine reaches, or "" for none."""
    if not text:
        return None
    if (rule := listen_rule(text)) is not None:
        return rule
    if not is_loopback(text.rpartition(":")[0].strip("[]")):
        return f"must be ADDRESS:PORT with an address of the loopback, 127.0.0.1 or [::1], not {text!r}"
    return None


def is_loopback(address: str) -> bool:
    """Whether an address, without brackets, is one of 127.0.0.0/8 or ::1; no other spelling of these counts.

    From Python 3.13 on is_loopback is also true of ::ffff:127.0.0.1.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_loopback if parsed.version == 4 else parsed == ipaddress.IPv6Address("::1")
