# SPDX-License-Identifier: Apache-2.0
"""The recovery of a GPU: its orders on a tree of sysfs that obeys them, the program on pipes and devices."""

import errno
import fcntl
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HELPER = Path(__file__).parents[1] / "packaging" / "recover-gpu"
GPU, AUDIO, SWITCH = "0000:03:00.0", "0000:04:00.0", "0000:01:00.0"
# As of an Intel card: below the root port a switch of the card's own, with a port for each device.
CARD = f"pci0000:00/0000:00:01.0/{SWITCH}"
PATHS = {SWITCH: CARD, GPU: f"{CARD}/0000:02:01.0/{GPU}", AUDIO: f"{CARD}/0000:02:04.0/{AUDIO}"}
CLASSES = {SWITCH: "0x060400", GPU: "0x030000", AUDIO: "0x040300"}
NODE = "renderD129"
Written = list[tuple[str, str]]
UNBIND, BIND, PROBE = ("drivers/xe/unbind", GPU), ("drivers/xe/bind", GPU), ("drivers_probe", GPU)
RESET, METHOD = (f"devices/{GPU}/reset", "1"), f"devices/{GPU}/reset_method"
OFF, ON = ("slots/3/power", "0"), ("slots/3/power", "1")


class Machine:
    """sysfs with one card, and a kernel that carries out what is written: ``orders``, in their order."""

    def __init__(self, path: Path) -> None:
        self.root = path
        self.bus = path / "sys/bus/pci"
        self.device = self.bus / "devices" / GPU
        self.note = path / "run/ovms-scaler/gpu-recovery" / GPU
        self.orders: Written = []
        self.errors: dict[tuple[str, str], int] = {}
        # What somebody else does just before an order.
        self.before: dict[tuple[str, str], Callable[[], None]] = {}
        self.has_driver = True
        self.node = f"drm/{NODE}"
        for address in PATHS:
            self.add(address)
        (self.device / "reset_method").write_text("bus\n")
        for name in ("drivers/xe", "drivers/vfio-pci", "slots/3"):
            (self.bus / name).mkdir(parents=True)
        (self.bus / "slots/3/address").write_text(f"{SWITCH.removesuffix('.0')}\n")
        (self.bus / "slots/3/power").touch()
        self.bind("xe")

    def add(self, address: str, *, path: str = "", base: str = "") -> None:
        place = self.root / "sys/devices" / (path or PATHS[address])
        place.mkdir(parents=True, exist_ok=True)
        (place / "class").write_text(f"{base or CLASSES[address]}\n")
        (self.bus / "devices").mkdir(parents=True, exist_ok=True)
        (self.bus / "devices" / address).symlink_to(place)

    def bind(self, driver: str) -> None:
        (self.device / "driver").symlink_to(self.bus / "drivers" / driver)
        if self.node:
            (self.device / self.node).mkdir(parents=True)

    def unbind(self) -> None:
        (self.device / "driver").unlink()
        if self.node:
            shutil.rmtree(self.device / self.node.partition("/")[0])

    def write(self, path: Path, text: str) -> None:
        """One write(2) to a file below /sys/bus/pci, which is all that the helper changes."""
        order = (str(path.relative_to(self.bus)), text)
        self.orders.append(order)
        if order in self.before:
            self.before[order]()
        if order in self.errors:
            raise OSError(self.errors[order], os.strerror(self.errors[order]))
        if order == UNBIND:
            self.unbind()
        elif order in (BIND, PROBE) and self.has_driver:
            self.bind("xe")
        elif path.name == "reset_method":
            path.write_text(text)
        elif order == OFF:
            shutil.rmtree(self.device.resolve())
            self.device.unlink()
        elif order == ON:
            self.add(GPU)


class Bench:
    """The helper in this process, with the machine's kernel in place of the real one."""

    def __init__(
        self, machine: Machine, capture: pytest.CaptureFixture[str], program: dict[str, Any]
    ) -> None:
        self.machine = machine
        self.capture = capture
        self.program = program

    def run(self, name: str, seconds: str = "10") -> tuple[int, str, str]:
        status = self.program["main"](name, str(self.machine.root), seconds)
        shown = self.capture.readouterr()
        assert isinstance(status, int)
        return status, shown.out, shown.err

    def recover(self, method: str) -> Written:
        """What it wrote, in a run that succeeded."""
        status, out, err = self.run(f"{method}-{GPU}")
        assert (status, err) == (0, "")
        assert out.endswith(f"GPU {GPU}: works again, as /dev/dri/{NODE}\n")
        return self.machine.orders

    def fail(self, method: str, *, status: int = 1) -> str:
        """The one line of why it failed, after at most half a second of waiting."""
        found, _, err = self.run(f"{method}-{GPU}", "0.5")
        assert (found, err.count("\n")) == (status, 1)
        assert err.startswith(f"cannot recover '{method}-{GPU}': ")
        assert "(hint: " in err
        return err

    def refuse(self, method: str = "rebind") -> str:
        """Why it did not even begin."""
        err = self.fail(method, status=2)
        assert self.machine.orders == []
        return err


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def bench(machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    program: dict[str, Any] = {"__name__": "recover_gpu"}
    exec(compile(HELPER.read_text(), HELPER, "exec"), program)
    monkeypatch.setattr(program["Gpu"], "write", lambda gpu, path, text: machine.write(path, text))
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    return Bench(machine, capsys, program)


def test_rebind_takes_the_driver_away_and_gives_it_back(bench: Bench) -> None:
    assert bench.recover("rebind") == [UNBIND, BIND]


def test_each_step_is_told(bench: Bench) -> None:
    _, out, _ = bench.run(f"bus-reset-{GPU}")
    steps = ["unbound from xe", "reset by bus", "bound to xe", f"works again, as /dev/dri/{NODE}"]
    assert out.splitlines() == [f"GPU {GPU}: {step}" for step in steps]


def test_gpu_that_an_earlier_run_has_left_without_a_driver_is_offered_to_all(bench: Bench) -> None:
    bench.machine.unbind()
    assert bench.recover("rebind") == [PROBE]


def test_driver_that_another_has_unbound_first_is_bound_again(bench: Bench) -> None:
    bench.machine.before[UNBIND] = bench.machine.unbind
    bench.machine.errors[UNBIND] = errno.ENODEV
    assert bench.recover("rebind") == [UNBIND, BIND]


def test_driver_that_takes_the_gpu_by_itself_is_left_to_it(bench: Bench) -> None:
    bench.machine.before[BIND] = lambda: bench.machine.bind("xe")
    bench.machine.errors[BIND] = errno.EBUSY
    assert bench.recover("rebind") == [UNBIND, BIND]


def test_render_node_of_a_virtio_gpu_is_found_below_a_device_of_its_own(bench: Bench) -> None:
    bench.machine.unbind()
    bench.machine.node = f"virtio5/drm/{NODE}"
    assert bench.recover("rebind") == [PROBE]


@pytest.mark.parametrize(
    ("offered", "orders", "word"),
    [
        pytest.param("bus", [RESET], "bus", id="alone on its bus"),
        pytest.param("bus pm", [RESET], "bus", id="the bus comes first"),
        pytest.param(
            "flr pm bus", [(METHOD, "bus"), RESET, (METHOD, "flr pm bus")], "bus", id="the bus comes last"
        ),
        pytest.param("flr pm", [RESET], "flr or pm", id="other functions are on its bus"),
    ],
)
def test_bus_reset_is_of_the_bus_where_that_harms_no_other(
    bench: Bench, offered: str, orders: Written, word: str
) -> None:
    (bench.machine.device / "reset_method").write_text(f"{offered}\n")
    assert bench.recover("bus-reset") == [UNBIND, *orders, BIND]
    assert (bench.machine.device / "reset_method").read_text().strip() == offered


def test_order_of_methods_is_put_back_when_the_reset_fails(bench: Bench) -> None:
    (bench.machine.device / "reset_method").write_text("flr bus\n")
    bench.machine.errors[RESET] = errno.ENOTTY
    assert "it cannot be reset: Inappropriate ioctl" in bench.fail("bus-reset")
    assert bench.machine.orders == [UNBIND, (METHOD, "bus"), RESET, (METHOD, "flr bus")]


def test_gpu_that_cannot_be_reset_is_told_so(bench: Bench) -> None:
    (bench.machine.device / "reset_method").unlink()
    bench.machine.errors[RESET] = errno.ENOENT
    assert "the kernel knows no way to reset it" in bench.fail("bus-reset")


def test_cold_reset_switches_the_slot_of_the_card_off_and_on(bench: Bench) -> None:
    assert bench.recover("cold-reset") == [UNBIND, OFF, ON, PROBE]
    assert bench.machine.note.read_text() == ""


def test_cold_reset_that_left_the_slot_off_switches_it_on_when_run_again(bench: Bench) -> None:
    bench.machine.errors[ON] = errno.EIO
    assert "slot 3 cannot be switched on: Input/output error" in bench.fail("cold-reset")
    assert "there is no such device" in bench.fail("rebind", status=2)
    del bench.machine.errors[ON]
    assert bench.recover("cold-reset") == [UNBIND, OFF, ON, ON, PROBE]


@pytest.mark.parametrize(
    "path", [f"{CARD}/0000:02:05.0/0000:05:00.0", "pci0000:00/0000:00:01.0/0000:01:00.1"]
)
def test_cold_reset_spares_other_devices_in_the_slot(bench: Bench, path: str) -> None:
    address = path.rpartition("/")[2]
    bench.machine.add(address, path=path, base="0x010802")
    assert f"slot 3 feeds {address}, too" in bench.refuse("cold-reset")


def test_cold_reset_of_a_card_in_a_slot_beside_that_one(bench: Bench) -> None:
    bench.machine.add("0000:07:00.0", path="pci0000:00/0000:00:02.0/0000:07:00.0", base="0x030000")
    assert bench.recover("cold-reset") == [UNBIND, OFF, ON, PROBE]


@pytest.mark.parametrize("gone", ["address", "power"])
def test_cold_reset_needs_a_slot_with_a_power_switch(bench: Bench, gone: str) -> None:
    (bench.machine.bus / "slots/3" / gone).unlink()
    if gone == "address":
        (bench.machine.bus / "slots/3").rename(bench.machine.bus / "slots-of-others")
    assert "there is no power switch for its slot" in bench.refuse("cold-reset")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("", "must be METHOD-ADDRESS", id="nothing"),
        pytest.param(f"none-{GPU}", "METHOD is rebind, bus-reset, cold-reset", id="a method of no effect"),
        pytest.param(f"vendor-specific-{GPU}", "must be METHOD-ADDRESS", id="a method of the vendor's"),
        pytest.param(GPU, "must be METHOD-ADDRESS", id="no method"),
        pytest.param("rebind-0000:03:00", "must be METHOD-ADDRESS", id="no function"),
        pytest.param("rebind-../../slots/3", "must be METHOD-ADDRESS", id="a path"),
        pytest.param(f"rebind-{GPU}\n", "must be METHOD-ADDRESS", id="a line end"),
        pytest.param("rebind-0000:03:00.9", "must be METHOD-ADDRESS", id="a function that cannot be"),
        pytest.param("rebind-0000:09:00.0", "there is no such device", id="not there"),
        pytest.param(f"rebind-{AUDIO}", "its class is 0x040300", id="no display controller"),
    ],
)
def test_refused(bench: Bench, name: str, words: str) -> None:
    status, out, err = bench.run(name)
    assert (status, out, err.count("\n"), bench.machine.orders) == (2, "", 1, [])
    assert words in err


@pytest.mark.parametrize("method", ["rebind", "bus-reset", "cold-reset"])
def test_gpu_of_a_virtual_machine_is_left_alone(bench: Bench, method: str) -> None:
    bench.machine.unbind()
    bench.machine.bind("vfio-pci")
    assert "vfio-pci has it for a virtual machine" in bench.refuse(method)


def test_gpu_with_virtual_functions_is_left_alone(bench: Bench) -> None:
    (bench.machine.device / "sriov_numvfs").write_text("7\n")
    assert "7 virtual functions would go with it" in bench.refuse()
    (bench.machine.device / "sriov_numvfs").write_text("0\n")
    assert bench.recover("rebind") == [UNBIND, BIND]


def test_driver_that_refuses_is_told_with_the_reason(bench: Bench) -> None:
    bench.machine.errors[BIND] = errno.ETIMEDOUT
    assert "xe has refused it: Connection timed out (hint: journalctl -k)" in bench.fail("rebind")


def test_driver_that_does_not_let_go_is_told_with_the_reason(bench: Bench) -> None:
    bench.machine.errors[UNBIND] = errno.EBUSY
    assert "cannot unbind it from xe: Device or resource busy" in bench.fail("rebind")
    assert bench.machine.orders == [UNBIND]


def test_driver_that_does_not_come_back_fails(bench: Bench) -> None:
    bench.machine.has_driver = False
    assert "no driver has taken it" in bench.fail("rebind")
    bench.machine.has_driver = True
    assert bench.recover("rebind") == [UNBIND, BIND, PROBE]


def test_driver_without_a_render_node_fails(bench: Bench) -> None:
    bench.machine.before[BIND] = lambda: setattr(bench.machine, "node", "")
    assert "xe has made no render node" in bench.fail("rebind")


def test_one_recovery_at_a_time(bench: Bench) -> None:
    bench.machine.note.parent.mkdir(parents=True)
    with bench.machine.note.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another recovery has not ended" in bench.refuse()
    assert bench.recover("rebind") == [UNBIND, BIND]


def run(machine: Machine, seconds: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The program itself, which writes by itself."""
    command = [str(HELPER), f"rebind-{GPU}", str(machine.root), seconds]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment, check=False)


def test_program_writes_the_address_in_one_piece(machine: Machine) -> None:
    machine.unbind()
    os.mkfifo(machine.bus / "drivers_probe")
    received = []

    def obey() -> None:
        received.append((machine.bus / "drivers_probe").read_bytes())
        machine.bind("xe")

    kernel = threading.Thread(target=obey)
    kernel.start()
    done = run(machine, "10")
    kernel.join()
    assert (done.returncode, done.stderr, received) == (0, "", [GPU.encode()])


def test_program_passes_on_what_the_kernel_says(machine: Machine) -> None:
    (machine.bus / "drivers/xe/unbind").symlink_to("/dev/full")
    done = run(machine, "10")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot unbind it from xe: No space left on device" in done.stderr


def test_program_ends_while_the_kernel_hangs_and_none_begins_another(machine: Machine) -> None:
    os.mkfifo(machine.bus / "drivers/xe/unbind")  # to open it for writing hangs until somebody reads
    try:
        assert "the kernel hangs on" in run(machine, "0.2").stderr
        assert "another recovery has not ended" in run(machine, "0.2").stderr
    finally:
        with (machine.bus / "drivers/xe/unbind").open("rb") as pipe:
            assert pipe.read() == GPU.encode()
    with machine.note.open() as note:
        fcntl.flock(note, fcntl.LOCK_EX)  # free when what hung has ended


def test_program_tells_systemd_why_it_failed(machine: Machine, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        shutil.rmtree(machine.device.resolve())
        stderr = run(machine, "10", NOTIFY_SOCKET=str(tmp_path / "notify")).stderr
        assert manager.recv(4096).decode() == f"STATUS={stderr.strip()}"


def test_program_without_a_right_to_anything_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("no directory")
    command = [str(HELPER), f"rebind-{GPU}", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "Not a directory" in done.stderr
