# SPDX-License-Identifier: Apache-2.0
"""DeviceMonitor over the real libudev: with umockdev's devices, and on a real netlink socket."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import udev_host
from contract_devices import GPU, DevicesContract

from ovms_scaler.core.device_event import RECOVERY_METHODS, DeviceEvent
from ovms_scaler.errors import HostError
from ovms_scaler.host.devices import BATCH, DeviceMonitor, find_address, parse_event

CARD = f"/devices/pci0000:00/{GPU}/drm/card0"
REMOVED = ("send", "ACTION=remove", "SUBSYSTEM=drm", f"DEVPATH={CARD}")
# libudev listens only where udevd has its socket or /dev is a devtmpfs.
ISOLATE = 'mount -t tmpfs none /run && mkdir /run/udev && touch /run/udev/control && exec "$@"'


class UdevBench:
    """udev_host.py in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    async def see(self, *steps: tuple[str, ...]) -> list[DeviceEvent]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(steps), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the host has failed, see its standard error"
        return [parse_answer(fields) for fields in json.loads(answer)]


def parse_answer(fields: dict[str, Any]) -> DeviceEvent:
    wedged = fields["wedged"]
    return DeviceEvent(**(fields | {"wedged": wedged if wedged is None else tuple(wedged)}))


@contextmanager
def udev_bench(*command: str) -> Iterator[UdevBench]:
    program = [*command, sys.executable, udev_host.__file__]
    program.append("mocked" if command[0] == "umockdev-wrapper" else "netlink")
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield UdevBench(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                status = process.wait(udev_host.LIMIT_SEC)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    assert status == 0


@pytest.fixture(scope="module")
def replayed() -> Iterator[UdevBench]:
    with udev_bench("umockdev-wrapper") as bench:
        yield bench


@pytest.fixture(scope="module")
def netlink() -> Iterator[UdevBench]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    with udev_bench("unshare", *user, "--net", "--mount", "sh", "-c", ISOLATE, "sh") as bench:
        yield bench


class TestReplayed(DevicesContract):
    """umockdev stands for the kernel and udevd."""

    @pytest.fixture
    def bench(self, replayed: UdevBench) -> UdevBench:
        return replayed


class TestNetlink:
    """What umockdev does not stand in for: the kernel's filter, its queue, and messages as they come."""

    @pytest.fixture
    def bench(self, netlink: UdevBench) -> UdevBench:
        return netlink

    async def test_only_our_subsystems_pass(self, bench: UdevBench) -> None:
        heard = [
            await bench.see(("send", "ACTION=add", f"SUBSYSTEM={subsystem}", f"DEVPATH={CARD}"))
            for subsystem in ("drm", "accel", "cpu", "memory", "node", "net", "block", "pci", "usb")
        ]
        assert [[event.subsystem for event in events] for events in heard] == [
            ["drm"], ["accel"], ["cpu"], ["memory"], ["node"], [], [], [], [],
        ]  # fmt: skip

    async def test_lost_events_are_reported_after_those_that_were_kept(self, bench: UdevBench) -> None:
        sent = 6000
        events = await bench.see(("flood", str(sent)))
        kept = [event for event in events if event.subsystem == "memory"]
        assert BATCH < len(kept) < sent
        assert events[-1].action == "overflow"
        assert "No buffer space available" in events[-1].detail
        assert all(event.action == "overflow" for event in events if event not in kept)

    async def test_it_goes_on_after_a_loss(self, bench: UdevBench) -> None:
        """What comes later is heard, lost events are reported again, and only those."""
        flooded = (("flood", "6000"), ("settle",), REMOVED, ("settle",))
        actions = [event.action for event in await bench.see(*flooded, *flooded)]
        first = actions.index("remove")
        last = actions.index("remove", first + 1)
        assert actions[first - 1] == actions[last - 1] == "overflow"
        assert actions[first + 1] == "online"
        assert last == len(actions) - 1

    async def test_malformed_messages_count_as_lost(self, bench: UdevBench) -> None:
        """The filter lets pass what is not libudev's, and libudev refuses what is too short for a header."""
        events = await bench.see(("send_raw", "11" * 30), REMOVED)
        assert [event.action for event in events] == ["remove", "overflow"]

    @pytest.mark.parametrize(
        "message", ["00", b"libudev\0".hex() + "11" * 40, "ff" * 9000], ids=["short", "no magic", "long"]
    )
    async def test_what_is_not_from_udev_does_no_harm(self, bench: UdevBench, message: str) -> None:
        """Some releases of libudev skip it and some report it."""
        events = await bench.see(("send_raw", message), REMOVED)
        assert [event for event in events if event.action != "overflow"] == [
            DeviceEvent(action="remove", subsystem="drm", address=GPU)
        ]

    async def test_a_report_of_ten_kilobytes_does_no_harm(self, bench: UdevBench) -> None:
        """The libudev of Debian 12 refuses what is longer than 8 kB; the kernel itself ends at two."""
        events = await bench.see(
            ("send", "ACTION=change", "SUBSYSTEM=drm", f"DEVPATH={CARD}", "WEDGED=" + "rebind," * 1500),
            ("send", "ACTION=change", "SUBSYSTEM=drm", f"DEVPATH={CARD}", "WEDGED=rebind"),
        )
        hangs = [event for event in events if event.wedged is not None]
        assert {event.wedged for event in hangs} == {("rebind",)}
        assert len(events) == 2

    async def test_names_that_are_no_text_do_no_harm(self, bench: UdevBench) -> None:
        properties = ("ACTION=change", "SUBSYSTEM=drm", f"DEVPATH={CARD}")
        (task,) = await bench.see(("send", *properties, "WEDGED=none", "TASK=\xff\xfe", "PID=4711"))
        (wedged,) = await bench.see(("send", *properties, "WEDGED=\xff\xfe"))
        assert (task.wedged, task.detail) == (("none",), "the kernel suspects a task (PID 4711)")
        assert wedged.wedged == ("unknown",)


def test_without_udev_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="udev does not run") as caught:
        DeviceMonitor(control=tmp_path / "control")
    assert caught.value.hint


def test_without_netlink_it_says_so() -> None:
    """As in a service whose RestrictAddressFamilies= leaves it out."""
    program = """
import socket, sys
from pathlib import Path
import pyudev
from ovms_scaler.errors import HostError
from ovms_scaler.host.devices import DeviceMonitor

def refuse(*_, **__):
    raise OSError(97, "Address family not supported by protocol")

pyudev.Monitor.from_netlink = refuse
try:
    DeviceMonitor(control=Path("/"))
except HostError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "cannot watch devices" in done.stdout
    assert "AF_NETLINK" in done.stdout


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("/devices/pci0000:00/0000:00:02.0/drm/card0", "0000:00:02.0"),
        ("/devices/pci0000:00/0000:00:01.0/0000:03:00.0/drm/renderD128", "0000:03:00.0"),
        ("/devices/pci0000:00/0000:00:02.0/virtio0/drm/card0", "0000:00:02.0"),
        ("/devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e1:00.0/drm/card1", "10000:e1:00.0"),
        ("/devices/pci0000:00/0000:00:1c.0/0000:00:1c.0:pcie010", "0000:00:1c.0"),
        ("/devices/platform/soc/fd4a0000.gpu/drm/card0", None),
        ("/devices/virtual/drm/ttm", None),
        ("", None),
    ],
)  # fmt: skip
def test_address_is_the_last_one_on_the_way(path: str, address: str | None) -> None:
    assert find_address(path) == address


def test_only_a_change_can_report_a_hang() -> None:
    """udev repeats what a rule has stored of an earlier event when the card is removed."""
    event = parse_event({"ACTION": "remove", "SUBSYSTEM": "drm", "DEVPATH": CARD, "WEDGED": "rebind"})
    assert event == DeviceEvent(action="remove", subsystem="drm", address=GPU)


def test_details_are_one_short_line() -> None:
    event = parse_event(
        {"ACTION": "change", "SUBSYSTEM": "drm", "DEVPATH": CARD, "WEDGED": "none"}
        | {"PID": "1\n", "TASK": "evil\nPRIORITY=0\x1b[31m" + "x" * 999}
    )
    assert event is not None
    assert event.detail.isprintable()
    assert len(event.detail) < 200


def test_no_properties_are_too_strange() -> None:
    """Random ones of what matters and what does not; whatever is passed on keeps the type's promises."""
    chance = random.Random(4711)
    words = [
        "",
        "/",
        "..",
        "\0",
        "drm",
        "change",
        "add",
        "devcoredump",
        "card0",
        "\udcff",
        "ä",
        GPU,
        CARD,
        ",",
    ]
    words += [*RECOVERY_METHODS, "/devices/virtual/devcoredump/devcd1", "x" * 300, "1", "=", "\n"]
    keys = ["ACTION", "SUBSYSTEM", "DEVPATH", "WEDGED", "PID", "TASK", "HOTPLUG", "LEASE", "OTHER"]
    passed_on = 0
    for _ in range(3000):
        properties = {
            key: chance.choice(["", ",", "/"]).join(chance.choices(words, k=chance.randint(0, 4)))
            for key in chance.sample(keys, chance.randint(0, len(keys)))
        }
        properties["SUBSYSTEM"] = chance.choice(["drm", "accel", "devcoredump", "cpu"])
        properties["ACTION"] = chance.choice(["add", "change", "remove", ""])
        if (event := parse_event(properties)) is None:
            continue
        passed_on += 1
        assert event.wedged is None or set(event.wedged) <= set(RECOVERY_METHODS)
        assert event.address is None or event.address in properties["DEVPATH"]
        assert event.detail.isprintable()
    assert passed_on
