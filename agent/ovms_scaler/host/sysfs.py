# SPDX-License-Identifier: Apache-2.0
"""Reads the topology of a host from its sysfs and procfs, or from a copy of them."""

from pathlib import Path

from ovms_scaler.core.topology import Topology


def read_topology(root: Path = Path("/")) -> Topology:
    """Read ``root``/sys and ``root``/proc.

    Raises HostError when there is no CPU to be found below ``root``.
    """
    raise NotImplementedError
