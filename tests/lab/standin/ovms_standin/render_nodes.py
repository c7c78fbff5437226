# SPDX-License-Identifier: Apache-2.0
"""The GPUs that this process can use: render nodes, opened and kept open as the OpenCL driver does."""

import errno
import fcntl
import os
import re
from pathlib import Path
from typing import Final, Self

from lab.standin.ovms_standin.engine import EngineError

_DIRECTORY: Final = Path("/dev/dri")
# _IOWR('d', 0, struct drm_version) of include/uapi/drm/drm.h on 64-bit machines.
_DRM_IOCTL_VERSION: Final = 0xC0406400
_VERSION_BYTES: Final = 64


class RenderNodes:
    """What is open for one model; empty for a model on the CPU."""

    def __init__(self, nodes: tuple[int, ...]) -> None:
        self._nodes = nodes

    @classmethod
    def open(cls, device: str) -> Self:
        """For "GPU", "GPU.1" or "HETERO:GPU.0,GPU.1": every node that may be opened, as all are enumerated.

        Raises EngineError when the device names more of them than there are.
        """
        wanted = [int(index or 0) for index in re.findall(r"\bGPU(?:\.([0-9]+))?", device)]
        if not wanted:
            return cls(())
        nodes: list[int] = []
        for path in sorted(_DIRECTORY.glob("renderD*")):
            try:
                nodes.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
            except OSError:
                continue
        if len(nodes) <= max(wanted):
            raise EngineError(f"Device with {device!r} name is not registered in the OpenVINO Runtime")
        return cls(tuple(nodes))

    def require(self) -> None:
        """Raises EngineError when a device has gone: its driver answers ENODEV from then on."""
        for node in self._nodes:
            try:
                fcntl.ioctl(node, _DRM_IOCTL_VERSION, bytes(_VERSION_BYTES))
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.EIO):
                    raise EngineError("[GPU] clFlush, error code: -5 CL_OUT_OF_RESOURCES") from error
