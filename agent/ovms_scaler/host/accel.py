# SPDX-License-Identifier: Apache-2.0
"""Reads which compute accelerators, such as NPUs, the kernel offers device nodes for.

What the files mean: accel/introduction.rst of the kernel's documentation.
"""

import re

from ovms_scaler.core.topology import Accelerator
from ovms_scaler.host import pci
from ovms_scaler.host.sysroot import Survey

_ACCEL = "sys/class/accel"
_NAME = re.compile(r"accel[0-9]{1,6}")


def read_accelerators(survey: Survey, *, nodes: pci.Nodes) -> tuple[Accelerator, ...]:
    """Those on the PCI bus, ascending by address; one device may have several nodes."""
    found = []
    for name in survey.tree.names(_ACCEL):
        entry = f"{_ACCEL}/{name}"
        if _NAME.fullmatch(name) is None or (address := pci.read_address(survey, entry)) is None:
            continue
        device = pci.read_device(survey, address, entry=entry, nodes=nodes)
        found.append(
            Accelerator(
                address=address,
                device_node=f"/dev/accel/{name}",
                vendor_id=device.vendor_id,
                device_id=device.device_id,
                driver=device.driver,
                numa_node=device.numa_node,
            )
        )
    return tuple(sorted(found, key=lambda one: (pci.address_key(one.address), one.device_node)))
