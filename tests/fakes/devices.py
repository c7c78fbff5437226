# SPDX-License-Identifier: Apache-2.0
"""A host in memory whose GPUs come, go and hang, and whose udev says so as the real one was seen to do."""

from collections.abc import Callable

from ovms_scaler.core.device_event import RECOVERY_METHODS, DeviceEvent


class FakeMonitor:
    """What DeviceMonitor offers, and the levers of its host.

    Each lever passes on the events that matter of those that the kernel sends, before it returns.
    """

    def __init__(self) -> None:
        self._received: Callable[[DeviceEvent], None] | None = None

    # What the adapter offers

    def subscribe(self, received: Callable[[DeviceEvent], None]) -> None:
        self._received = received

    def close(self) -> None:
        self._received = None

    # Levers

    def emit(self, event: DeviceEvent) -> None:
        """Pass on any event."""
        if self._received is not None:
            self._received(event)

    def add_gpu(self, address: str) -> None:
        self._change(address, "add")

    def remove_gpu(self, address: str) -> None:
        self._change(address, "remove")

    def add_npu(self, address: str) -> None:
        self.emit(DeviceEvent(action="add", subsystem="accel", address=address))

    def wedge(self, address: str, wedged: str, task: str = "", pid: str = "") -> None:
        """The driver reports a hang; ``wedged`` is WEDGED= as it stands."""
        known = tuple(dict.fromkeys(word for word in wedged.split(",") if word in RECOVERY_METHODS))
        detail = f"the kernel suspects {task} (PID {pid})" if task else ""
        self.emit(
            DeviceEvent(
                action="change",
                subsystem="drm",
                address=address,
                wedged=known or ("unknown",),
                detail=detail,
            )
        )

    def dump_core(self, name: str, address: str) -> None:
        """The driver of a GPU leaves a device coredump."""
        detail = f"the driver has left a device coredump in /sys/class/devcoredump/{name}"
        self.emit(
            DeviceEvent(action="add", subsystem="devcoredump", address=address, wedged=(), detail=detail)
        )

    def dump_core_of_another_device(self, name: str, address: str) -> None:
        """The same of a device that is no GPU: nobody here is told."""

    def drop_core(self, name: str) -> None:
        """The kernel deletes a device coredump after five minutes: nobody here is told."""

    def plug_cable(self, address: str) -> None:
        """A monitor is connected to a GPU: nobody here is told."""

    def plug_network(self, address: str) -> None:
        """A device of another subsystem comes: nobody here is told."""

    def set_pci(self, address: str, action: str, pci_class: str) -> None:
        """A device on the PCI bus comes or goes; ``pci_class`` as in PCI_CLASS=."""
        if pci_class.startswith("3"):
            self.emit(DeviceEvent(action=action, subsystem="pci", address=address))

    def set_cpu(self, number: str, action: str) -> None:
        self.emit(DeviceEvent(action=action, subsystem="cpu"))

    def set_memory(self, number: str, action: str) -> None:
        self.emit(DeviceEvent(action=action, subsystem="memory"))

    def set_node(self, number: str, action: str) -> None:
        self.emit(DeviceEvent(action=action, subsystem="node"))

    def _change(self, address: str, action: str) -> None:
        for _ in ("card", "render node"):
            self.emit(DeviceEvent(action=action, subsystem="drm", address=address))
