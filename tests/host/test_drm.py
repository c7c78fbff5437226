# SPDX-License-Identifier: Apache-2.0
"""GPUs read from the trees of whole machines and of poor copies."""

import os
import shutil
from pathlib import Path

import machines
from machines import Card, Machine, number_cores, write_machine

from ovms_scaler.host.sysfs import read_topology


def test_gpus_are_ordered_by_address_not_by_render_number(tmp_path: Path) -> None:
    topology = read_topology(machines.four_gpus(tmp_path))
    assert [(gpu.address, gpu.render_node, gpu.numa_node) for gpu in topology.gpus] == [
        ("0000:21:00.0", "/dev/dri/renderD130", 0),
        ("0000:22:00.0", "/dev/dri/renderD131", 0),
        ("0000:41:00.0", "/dev/dri/renderD128", 2),
        ("0000:42:00.0", "/dev/dri/renderD129", 2),
    ]
    assert {(gpu.vendor_id, gpu.device_id, gpu.driver) for gpu in topology.gpus} == {
        ("0x8086", "0xe20b", "xe")
    }
    assert [gpu.integrated for gpu in topology.gpus] == [False] * 4
    assert topology.warnings == ()


def with_card(root: Path, card: Card, *, flags: str = machines.XEON_FLAGS) -> Path:
    return write_machine(root, Machine(cores=number_cores({0: 2}), cards=[card], flags=flags))


def test_gpu_without_node_and_driver(tmp_path: Path) -> None:
    card = Card(render=128, address="0000:03:00.0", driver=None)
    (gpu,) = read_topology(with_card(tmp_path, card)).gpus
    assert gpu.numa_node is None
    assert gpu.driver is None


def test_gpu_on_a_node_that_is_not_there(tmp_path: Path) -> None:
    topology = read_topology(with_card(tmp_path, Card(render=128, address="0000:03:00.0", numa_node=7)))
    assert topology.gpus[0].numa_node is None
    assert "numa_node is 7, the host has 0, ignoring it" in topology.warnings[0]


def test_gpu_of_a_guest_may_be_anything(tmp_path: Path) -> None:
    card = Card(render=128, address="0000:00:02.0")
    (gpu,) = read_topology(with_card(tmp_path, card, flags="fpu hypervisor")).gpus
    assert gpu.integrated is None


def test_gpu_below_a_virtio_device(tmp_path: Path) -> None:
    """Linux before 5.17 makes the virtio device, not the PCI one, the parent of virtio-gpu's render node."""
    root = with_card(tmp_path, Card(render=128, address="0000:41:00.0", vendor_id="0x1af4", numa_node=0))
    pci = root / "sys/devices/pci0000:41/0000:41:00.0"
    render = pci / "virtio3/drm/renderD128"
    (pci / "virtio3").mkdir()
    shutil.move(pci / "drm", pci / "virtio3/drm")
    (render / "device").unlink()
    (render / "device").symlink_to("../../../virtio3")
    (root / "sys/class/drm/renderD128").unlink()
    (root / "sys/class/drm/renderD128").symlink_to(Path("../..") / render.relative_to(root / "sys"))
    (gpu,) = read_topology(root).gpus
    assert (gpu.address, gpu.vendor_id, gpu.numa_node) == ("0000:41:00.0", "0x1af4", 0)


def test_gpu_that_is_no_pci_device_is_left_out(tmp_path: Path) -> None:
    root = write_machine(tmp_path, Machine(cores=number_cores({0: 2})))
    (root / "sys/class/drm/renderD128").mkdir(parents=True)
    (root / "sys/class/drm/renderD128/device").symlink_to("../../../ff9a0000.gpu")
    topology = read_topology(root)
    assert topology.gpus == ()
    assert topology.warnings == ()


def test_copied_gpu_whose_links_became_directories(tmp_path: Path) -> None:
    """As ``cp -rL`` leaves it: the uevent file is the only one that still tells the address."""
    root = write_machine(tmp_path, Machine(cores=number_cores({0: 2})))
    device = root / "sys/class/drm/renderD128/device"
    device.mkdir(parents=True)
    (device / "uevent").write_text("DRIVER=xe\nPCI_SLOT_NAME=0000:03:00.0\n")
    (device / "vendor").write_text("0x8086\n")
    (device / "device").write_text("0xe20b\n")
    (device / "numa_node").write_text("0\n")
    (gpu,) = read_topology(root).gpus
    assert (gpu.address, gpu.driver, gpu.device_id, gpu.numa_node) == ("0000:03:00.0", "xe", "0xe20b", 0)


def test_copied_gpu_whose_target_was_left_behind(tmp_path: Path) -> None:
    root = with_card(tmp_path, Card(render=128, address="0000:03:00.0"))
    shutil.rmtree(root / "sys/devices/pci0000:03")
    topology = read_topology(root)
    assert [(gpu.address, gpu.vendor_id, gpu.driver) for gpu in topology.gpus] == [
        ("0000:03:00.0", None, None)
    ]
    assert any("vendor or device id of 0000:03:00.0 is missing" in warning for warning in topology.warnings)


def test_gpu_without_any_address_is_reported(tmp_path: Path) -> None:
    root = write_machine(tmp_path, Machine(cores=number_cores({0: 2})))
    (root / "sys/class/drm/renderD128").mkdir(parents=True)
    topology = read_topology(root)
    assert topology.gpus == ()
    assert topology.warnings == (
        "sys/class/drm/renderD128: its PCI address is unknown, ignoring this device",
    )


def test_two_render_nodes_of_one_card_are_one_gpu(tmp_path: Path) -> None:
    root = with_card(tmp_path, Card(render=129, address="0000:03:00.0"))
    (root / "sys/class/drm/renderD128").symlink_to(os.readlink(root / "sys/class/drm/renderD129"))
    topology = read_topology(root)
    assert [gpu.render_node for gpu in topology.gpus] == ["/dev/dri/renderD128"]
    assert len(topology.warnings) == 1
