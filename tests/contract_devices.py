# SPDX-License-Identifier: Apache-2.0
"""What everything that stands for udev must do: run on the fake, and on libudev with replayed uevents."""

from typing import Protocol

import pytest

from ovms_scaler.core.device_event import DeviceEvent

GPU = "0000:03:00.0"
OTHER = "0000:04:00.0"
BEHIND_VMD = "10000:e1:00.0"


class Bench(Protocol):
    """A monitor under test that is subscribed to, and the levers of its host, those of FakeMonitor by name.

    Addresses of GPUs that no step has added are those of GPUs that were there before.
    """

    async def see(self, *steps: tuple[str, ...]) -> list[DeviceEvent]:
        """Pull levers one after the other; returns every event that the monitor passed on."""


class DevicesContract:
    """Subclasses provide the ``bench`` fixture."""

    @pytest.mark.parametrize("address", [GPU, BEHIND_VMD])
    async def test_a_gpu_that_is_removed(self, bench: Bench, address: str) -> None:
        """Nothing of it is left in sysfs when the events are read."""
        events = await bench.see(("add_gpu", address), ("remove_gpu", address))
        assert events[-1] == DeviceEvent(action="remove", subsystem="drm", address=address)
        assert {event.action for event in events} == {"add", "remove"}
        assert {event.address for event in events} == {address}

    async def test_a_gpu_that_comes_back(self, bench: Bench) -> None:
        events = await bench.see(("remove_gpu", GPU), ("add_gpu", GPU))
        assert events[0] == DeviceEvent(action="remove", subsystem="drm", address=GPU)
        assert events[-1] == DeviceEvent(action="add", subsystem="drm", address=GPU)

    async def test_gpus_are_told_apart(self, bench: Bench) -> None:
        events = await bench.see(("remove_gpu", GPU), ("remove_gpu", OTHER))
        assert [event.address for event in (events[0], events[-1])] == [GPU, OTHER]

    async def test_an_accelerator_has_its_address_too(self, bench: Bench) -> None:
        assert await bench.see(("add_npu", OTHER)) == [
            DeviceEvent(action="add", subsystem="accel", address=OTHER)
        ]

    @pytest.mark.parametrize(
        ("wedged", "methods"),
        [
            ("rebind", ("rebind",)),
            ("bus-reset", ("bus-reset",)),
            ("rebind,bus-reset", ("rebind", "bus-reset")),
            ("none", ("none",)),
            ("vendor-specific", ("vendor-specific",)),
            ("cold-reset", ("cold-reset",)),
            ("unknown", ("unknown",)),
            ("pray,rebind,rebind,", ("rebind",)),
            ("pray", ("unknown",)),
            ("REBIND; reboot", ("unknown",)),
            ("", ("unknown",)),
            (",,,", ("unknown",)),
            ("x" * 1900, ("unknown",)),
        ],
    )
    async def test_a_gpu_that_hangs(self, bench: Bench, wedged: str, methods: tuple[str, ...]) -> None:
        assert await bench.see(("wedge", GPU, wedged)) == [
            DeviceEvent(action="change", subsystem="drm", address=GPU, wedged=methods)
        ]

    async def test_who_made_it_hang_is_said(self, bench: Bench) -> None:
        (event,) = await bench.see(("wedge", GPU, "none", "ovms", "4711"))
        assert event.detail == "the kernel suspects ovms (PID 4711)"

    async def test_every_report_of_a_hang_is_passed_on(self, bench: Bench) -> None:
        events = await bench.see(
            ("wedge", GPU, "none"), ("wedge", OTHER, "rebind"), ("wedge", GPU, "rebind")
        )
        assert [(event.address, event.wedged) for event in events] == [
            (GPU, ("none",)),
            (OTHER, ("rebind",)),
            (GPU, ("rebind",)),
        ]

    async def test_a_coredump_names_the_gpu_and_no_method(self, bench: Bench) -> None:
        (event,) = await bench.see(("dump_core", "devcd3", GPU))
        assert (event.action, event.subsystem) == ("add", "devcoredump")
        assert (event.address, event.wedged) == (GPU, ())
        assert "/sys/class/devcoredump/devcd3" in event.detail

    async def test_a_coredump_of_another_device_is_not_ours(self, bench: Bench) -> None:
        assert await bench.see(("dump_core_of_another_device", "devcd4", "0000:05:00.0")) == []

    async def test_a_coredump_that_is_deleted_is_no_news(self, bench: Bench) -> None:
        events = await bench.see(("dump_core", "devcd3", GPU), ("drop_core", "devcd3"))
        assert [event.action for event in events] == ["add"]

    @pytest.mark.parametrize(
        ("lever", "subsystem", "action"),
        [
            ("set_cpu", "cpu", "offline"),
            ("set_cpu", "cpu", "online"),
            ("set_memory", "memory", "offline"),
            ("set_memory", "memory", "online"),
            ("set_node", "node", "add"),
            ("set_node", "node", "remove"),
        ],
    )
    async def test_cpus_memory_and_nodes(
        self, bench: Bench, lever: str, subsystem: str, action: str
    ) -> None:
        assert await bench.see((lever, "3", action)) == [DeviceEvent(action=action, subsystem=subsystem)]

    @pytest.mark.parametrize("action", ["add", "bind", "unbind", "remove"])
    async def test_a_gpu_on_the_bus_without_a_driver(self, bench: Bench, action: str) -> None:
        seen = await bench.see(("set_pci", GPU, action, "30000"), ("set_pci", OTHER, action, "20000"))
        assert seen == [DeviceEvent(action=action, subsystem="pci", address=GPU)]

    async def test_what_changes_nothing_is_not_heard(self, bench: Bench) -> None:
        assert await bench.see(("plug_cable", GPU), ("plug_network", "0000:05:00.0")) == []

    async def test_nothing_is_heard_after_close(self, bench: Bench) -> None:
        assert await bench.see(("close",), ("remove_gpu", GPU), ("close",)) == []
