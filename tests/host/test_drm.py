# SPDX-License-Identifier: Apache-2.0
"""GPUs read from the trees of whole machines and of poor copies."""

import grp
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import machines
import pytest
from machines import GIB, Card, Machine, number_cores, write_machine

from ovms_scaler.core.topology import Accelerator, Gpu
from ovms_scaler.host.drm import group_may_open, read_gpus
from ovms_scaler.host.pci import Nodes
from ovms_scaler.host.sysfs import read_topology
from ovms_scaler.host.sysroot import Survey


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


def found(root: Path) -> Mapping[str, Gpu]:
    return {gpu.address: gpu for gpu in read_topology(root).gpus}


def test_integrated_gpu_alone(tmp_path: Path) -> None:
    topology = read_topology(machines.one_igpu(tmp_path))
    assert topology.gpus == (
        Gpu(
            address="0000:00:02.0",
            render_node="/dev/dri/renderD128",
            vendor_id="0x8086",
            device_id="0x4690",
            driver="i915",
            numa_node=None,
            integrated=True,
        ),
    )
    assert topology.warnings == ()


def test_integrated_gpu_card_and_npu(tmp_path: Path) -> None:
    topology = read_topology(machines.igpu_and_arc(tmp_path))
    assert [(gpu.address, gpu.integrated, gpu.memory_bytes) for gpu in topology.gpus] == [
        ("0000:00:02.0", True, None),
        ("0000:03:00.0", False, 12 * GIB - 72 * 1024**2),
    ]
    assert topology.accelerators == (
        Accelerator(
            address="0000:00:0b.0",
            device_node="/dev/accel/accel0",
            vendor_id="0x8086",
            device_id="0xad1d",
            driver="intel_vpu",
            numa_node=None,
        ),
    )
    assert topology.warnings == ()


def test_four_cards_behind_switches_of_their_own(tmp_path: Path) -> None:
    topology = read_topology(machines.four_b580(tmp_path))
    assert [(gpu.address, gpu.render_node, gpu.numa_node) for gpu in topology.gpus] == [
        ("0000:03:00.0", "/dev/dri/renderD130", 0),
        ("0000:18:00.0", "/dev/dri/renderD131", 0),
        ("0000:83:00.0", "/dev/dri/renderD128", 1),
        ("0000:9a:00.0", "/dev/dri/renderD129", 1),
    ]
    assert topology.warnings == ()


def test_functions_of_sriov(tmp_path: Path) -> None:
    topology = read_topology(machines.flex_sriov(tmp_path))
    physical = "0000:4d:00.0"
    assert [
        (gpu.address, gpu.render_node, gpu.driver, gpu.physical_function, gpu.virtual_functions)
        for gpu in topology.gpus
    ] == [
        (physical, "/dev/dri/renderD128", "i915", None, 4),
        ("0000:4d:00.1", None, "vfio-pci", physical, 0),
        ("0000:4d:00.2", None, "vfio-pci", physical, 0),
        ("0000:4d:00.3", "/dev/dri/renderD130", "i915", physical, 0),
        ("0000:4d:00.4", "/dev/dri/renderD131", "i915", physical, 0),
        ("0000:cd:00.0", "/dev/dri/renderD129", "i915", None, 0),
    ]
    assert topology.gpus[0].memory_bytes == 16 * GIB
    assert topology.warnings == ()


def test_gpus_that_render_nothing_are_there(tmp_path: Path) -> None:
    topology = read_topology(machines.no_render_nodes(tmp_path))
    assert [(gpu.address, gpu.render_node, gpu.driver, gpu.numa_node) for gpu in topology.gpus] == [
        ("0000:03:00.0", None, "ast", 0),
        ("0000:83:00.0", None, None, 1),
    ]
    assert topology.warnings == ()


def test_gpus_of_other_vendors(tmp_path: Path) -> None:
    topology = read_topology(machines.three_vendors(tmp_path))
    assert [(gpu.vendor_id, gpu.driver, gpu.integrated, gpu.memory_bytes) for gpu in topology.gpus] == [
        ("0x1002", "amdgpu", None, 25753026560),
        ("0x10de", "nvidia", None, None),
        ("0x8086", "i915", False, None),
    ]
    assert topology.warnings == ()


def test_a_gpu_whose_class_is_no_display_is_known_by_its_render_node(tmp_path: Path) -> None:
    """As AMD's Instinct, which are "processing accelerators", or a copy without the class file."""
    card = Card(render=128, address="0000:03:00.0", class_id="0x120000")
    assert list(found(with_card(tmp_path / "one", card))) == ["0000:03:00.0"]
    root = with_card(tmp_path / "two", card)
    (root / "sys/bus/pci/devices/0000:03:00.0/class").unlink()
    assert list(found(root)) == ["0000:03:00.0"]


def test_domains_are_ordered_as_numbers(tmp_path: Path) -> None:
    cards = [Card(render=128, address="10000:03:00.0"), Card(render=129, address="8000:03:00.0")]
    root = write_machine(tmp_path, Machine(cores=number_cores({0: 2}), cards=cards))
    assert list(found(root)) == ["8000:03:00.0", "10000:03:00.0"]


TILES = {"tile0/physical_vram_size_bytes": 64 * GIB, "tile1/physical_vram_size_bytes": 64 * GIB}


@pytest.mark.parametrize(
    ("files", "memory_bytes"),
    [
        pytest.param(TILES, 128 * GIB, id="two tiles"),
        pytest.param({"mem_info_vram_total": 24 * GIB}, 24 * GIB, id="amdgpu"),
        pytest.param({"drm/card0/lmem_total_bytes": 16 * GIB}, 16 * GIB, id="i915"),
        pytest.param({"drm/card0/lmem_total_bytes": 0}, None, id="none of its own"),
        pytest.param({"mem_info_vram_total": -1}, None, id="less than nothing"),
    ],
)
def test_memory_from_the_files_of_drivers(
    files: Mapping[str, object], memory_bytes: int | None, tmp_path: Path
) -> None:
    card = Card(render=128, address="0000:03:00.0", files=files)
    assert found(with_card(tmp_path, card))["0000:03:00.0"].memory_bytes == memory_bytes


def test_memory_from_the_cgroup_controller(tmp_path: Path) -> None:
    card = Card(render=128, address="0000:03:00.0", files=TILES)
    root = with_card(tmp_path, card)
    (root / "sys/fs/cgroup").mkdir(parents=True)
    lines = ["vram0 100", "vram1 20", "stolen 3", "vramx 4", "vram0", "vram0 many"]
    text = "".join(f"drm/0000:03:00.0/{line}\n" for line in lines) + "drm/0000:04:00.0/vram0 5\nnonsense"
    (root / "sys/fs/cgroup/dmem.capacity").write_text(text)
    assert found(root)["0000:03:00.0"].memory_bytes == 120


def test_memory_that_is_nonsense_is_unknown_and_reported(tmp_path: Path) -> None:
    card = Card(render=128, address="0000:03:00.0", files={"mem_info_vram_total": "plenty"})
    topology = read_topology(with_card(tmp_path, card))
    assert topology.gpus[0].memory_bytes is None
    assert "mem_info_vram_total: cannot read number 'plenty'" in topology.warnings[-1]


def test_copied_functions_of_sriov(tmp_path: Path) -> None:
    """Links that became directories, a count that is missing, one that is nonsense."""
    root = machines.flex_sriov(tmp_path)
    devices = root / "sys/devices/pci0000:4a/0000:4a:02.0/0000:4b:00.0/0000:4c:01.0"
    (devices / "0000:4d:00.0/sriov_numvfs").unlink()
    for number in (1, 2):
        link = devices / f"0000:4d:00.{number}/physfn"
        link.unlink()
        link.mkdir()
    (devices / "0000:4d:00.1/physfn/uevent").write_text("PCI_SLOT_NAME=0000:4d:00.0\n")
    (devices / "0000:4d:00.3/physfn").unlink()
    (devices / "0000:4d:00.3/physfn").symlink_to("../0000:4d:00.3")
    gpus = found(root)
    assert gpus["0000:4d:00.0"].virtual_functions == 4
    assert [gpus[f"0000:4d:00.{number}"].physical_function for number in range(1, 5)] == [
        "0000:4d:00.0",
        None,
        None,
        "0000:4d:00.0",
    ]
    (devices / "0000:4d:00.0/sriov_numvfs").write_text("-3\n")
    assert found(root)["0000:4d:00.0"].virtual_functions == 4


def test_gpu_of_a_kernel_without_numa_is_nothing_to_warn_of(tmp_path: Path) -> None:
    card = Card(render=128, address="0000:03:00.0")
    root = write_machine(tmp_path, Machine(cores=number_cores({0: 2}), numa=False, cards=[card]))
    (root / "sys/bus/pci/devices/0000:03:00.0/numa_node").unlink()
    topology = read_topology(root)
    assert topology.gpus[0].numa_node is None
    assert topology.warnings == ()


def test_gpu_whose_node_is_missing_is_reported(tmp_path: Path) -> None:
    root = with_card(tmp_path, Card(render=128, address="0000:03:00.0"))
    (root / "sys/bus/pci/devices/0000:03:00.0/numa_node").unlink()
    assert "numa_node is missing: the device's node is unknown" in read_topology(root).warnings[0]


def test_several_accelerators(tmp_path: Path) -> None:
    """Ordered by address, then by name; one that is no PCI device and a control node are left out."""
    first = Card(accel=1, address="0000:83:00.0", class_id="0x120000", numa_node=0, driver="habanalabs")
    cards = [first, replace(first, accel=0, address="0000:84:00.0")]
    root = write_machine(tmp_path, Machine(cores=number_cores({0: 2}), cards=cards))
    accel = root / "sys/class/accel"
    (accel / "accel2").symlink_to(os.readlink(accel / "accel1"))
    (accel / "accel_controlD1").symlink_to(os.readlink(accel / "accel1"))
    (accel / "accel3").mkdir()
    (accel / "accel3/device").symlink_to("../../../devices/platform/fdab0000.npu")
    topology = read_topology(root)
    assert [(one.address, one.device_node) for one in topology.accelerators] == [
        ("0000:83:00.0", "/dev/accel/accel1"),
        ("0000:83:00.0", "/dev/accel/accel2"),
        ("0000:84:00.0", "/dev/accel/accel0"),
    ]
    assert topology.gpus == ()


@pytest.mark.parametrize(
    ("mode", "own", "answer"),
    [
        pytest.param(0o660, True, True, id="as udev makes it"),
        pytest.param(0o640, True, False, id="to be read only"),
        pytest.param(0o600, True, False, id="the owner's alone"),
        pytest.param(0o606, True, False, id="everybody but the group"),
        pytest.param(0o660, False, False, id="another group's"),
        pytest.param(0o666, False, True, id="everybody's"),
    ],
)
def test_whether_a_group_may_open_a_node(
    mode: int, *, own: bool, answer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = tmp_path / "renderD128"
    node.touch()
    node.chmod(mode)
    group_id = node.stat().st_gid if own else node.stat().st_gid + 1
    known = grp.struct_group(("render", "x", group_id, []))
    monkeypatch.setattr(grp, "getgrnam", {"render": known}.__getitem__)
    assert group_may_open(str(node)) is answer
    assert group_may_open(str(tmp_path / "gone")) is None
    assert group_may_open(str(node), group="video") is None


def test_access_is_looked_at_on_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendering = machines.four_b580(tmp_path / "four")
    monkeypatch.setattr("ovms_scaler.host.sysfs.group_may_open", lambda _: True)
    assert [gpu.accessible for gpu in read_topology(rendering).gpus] == [None] * 4
    answers = {"/dev/dri/renderD128": True, "/dev/dri/renderD129": False}
    nodes = Nodes(ids=[0, 1], numa=True)
    gpus = read_gpus(Survey(rendering), nodes=nodes, virtual=False, may_open=answers.get)
    assert [gpu.accessible for gpu in gpus] == [None, None, True, False]
    blank = machines.no_render_nodes(tmp_path / "none")
    gpus = read_gpus(Survey(blank), nodes=nodes, virtual=False, may_open=lambda _: True)
    assert [gpu.accessible for gpu in gpus] == [None, None]
