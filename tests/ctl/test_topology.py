# SPDX-License-Identifier: Apache-2.0
"""``ovms-scalerctl topology``: the machine as JSON for programs and as a tree for people."""

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import machines
import pytest
from ctl_lab import CTL, Ctl

from ovms_scaler.ctl.tables import show
from ovms_scaler.ctl.topology_view import render_topology
from ovms_scaler.host.sysfs import read_topology

GUIDE = re.compile("([│├└─ ]*)(machine|socket [0-9]+|node [0-9]+|[0-9a-f:.]{12,}) ")

EVERY_MACHINE = pytest.mark.parametrize("machine", machines.ALL, ids=lambda machine: machine.__name__)


def branches(lines: list[str]) -> list[tuple[str, str]]:
    """Every row of a tree with the row that it stands below, "" for the first."""
    found: list[tuple[str, str]] = []
    above: list[str] = [""]
    for line in lines:
        if match := GUIDE.match(line):
            depth = len(match[1]) // 2
            found.append((match[2], above[depth]))
            above[depth + 1 :] = [match[2]]
    return found


def test_json_of_two_xeon_6972p(ctl: Ctl, tmp_path: Path) -> None:
    document = ctl("topology", "--sysroot", machines.xeon_6972p_2s(tmp_path), "--json").json()
    cpus = ["0-31,192-223", "32-63,224-255", "64-95,256-287", "96-127,288-319"]
    cpus += ["128-159,320-351", "160-191,352-383"]
    assert document["nodes"] == [
        {"id": node, "cpus": own, "cores": 32, "memory_bytes": 256 * machines.GIB}
        for node, own in enumerate(cpus)
    ]
    assert document["gpus"] == []


def test_json_of_gpus(ctl: Ctl, tmp_path: Path) -> None:
    document = ctl("topology", "--sysroot", machines.four_gpus(tmp_path), "--json").json()
    assert document["gpus"][0] == {
        "address": "0000:21:00.0",
        "render_node": "/dev/dri/renderD130",
        "vendor_id": "0x8086",
        "device_id": "0xe20b",
        "driver": "xe",
        "numa_node": 0,
    }


@EVERY_MACHINE
def test_tree_has_a_row_for_each_node_and_device_and_fits(
    machine: Callable[[Path], Path], ctl: Ctl, tmp_path: Path
) -> None:
    root = machine(tmp_path)
    document = ctl("topology", "--sysroot", root, "--json").json()
    shown = ctl("topology", "--sysroot", root)
    assert (shown.status, shown.err) == (0, "")
    lines = shown.out.splitlines()
    names = [branch for branch, _ in branches(lines)]
    assert sorted(name for name in names if name.startswith("node ")) == sorted(
        f"node {node['id']}" for node in document["nodes"]
    )
    devices = [*document["gpus"], *document["gpus_without_render_node"], *document["accelerators"]]
    assert sorted(name for name in names if ":" in name) == sorted(device["address"] for device in devices)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        pytest.param(machines.offline_cpu0, "  offline: 0,8-9", id="offline CPUs"),
        pytest.param(machines.no_numa, "This kernel shows no NUMA nodes", id="no NUMA"),
        pytest.param(machines.hybrid, "  efficiency cores: 16-19", id="hybrid processor"),
        pytest.param(machines.hybrid, "0000:00:02.0  renderD128 8086:4680  i915", id="GPU"),
        pytest.param(
            machines.igpu_and_arc, "renderD128 8086:e20b  xe         11.9 GiB  discrete", id="card"
        ),
        pytest.param(
            machines.igpu_and_arc, "renderD129 8086:7d67  i915              -  integrated", id="iGPU"
        ),
        pytest.param(
            machines.igpu_and_arc, "accel0     8086:ad1d  intel_vpu         -  accelerator", id="NPU"
        ),
        pytest.param(machines.three_vendors, "renderD129 10de:2684  nvidia         -  GPU", id="vendor"),
        pytest.param(
            machines.no_render_nodes, "- 1a03:2000      ast             -  GPU, renders nothing", id="BMC"
        ),
        pytest.param(
            machines.no_render_nodes,
            "- 8086:56a0      -               -  discrete, no driver",
            id="no driver",
        ),
        pytest.param(machines.flex_sriov, "16.0 GiB  discrete, 4 VFs", id="SR-IOV"),
        pytest.param(machines.flex_sriov, "vfio-pci          -  VF, for guests", id="function for a guest"),
        pytest.param(
            machines.xeon_6972p_2s, "384 CPUs online on 192 cores of 2 sockets, 2 threads", id="sockets"
        ),
        pytest.param(machines.xeon_6972p_2s, "12 to 1-2, 21 to 3-5", id="distances"),
        pytest.param(machines.memoryless, "none", id="node without memory"),
    ],
)
def test_tree_says(machine: Callable[[Path], Path], sentence: str, ctl: Ctl, tmp_path: Path) -> None:
    assert sentence in ctl("topology", "--sysroot", machine(tmp_path)).out


def test_gpus_stand_below_their_node_and_functions_below_their_gpu(ctl: Ctl, tmp_path: Path) -> None:
    lines = ctl("topology", "--sysroot", machines.flex_sriov(tmp_path)).out.splitlines()
    assert branches(lines) == [
        ("machine", ""),
        ("socket 0", "machine"),
        ("node 0", "socket 0"),
        ("0000:4d:00.0", "node 0"),
        ("0000:4d:00.1", "0000:4d:00.0"),
        ("0000:4d:00.2", "0000:4d:00.0"),
        ("0000:4d:00.3", "0000:4d:00.0"),
        ("0000:4d:00.4", "0000:4d:00.0"),
        ("socket 1", "machine"),
        ("node 1", "socket 1"),
        ("0000:cd:00.0", "node 1"),
    ]


def test_what_is_on_no_known_node_or_socket_stands_below_the_machine(ctl: Ctl, tmp_path: Path) -> None:
    lines = ctl("topology", "--sysroot", machines.igpu_and_arc(tmp_path / "one")).out.splitlines()
    below = ["0000:00:02.0", "0000:03:00.0", "0000:00:0b.0"]
    assert branches(lines)[1:] == [(name, "machine") for name in ("node 0", *below)]
    lines = ctl("topology", "--sysroot", machines.hbm(tmp_path / "two")).out.splitlines()
    assert ("node 1", "socket 1") in branches(lines)
    assert ("node 2", "machine") in branches(lines)


def test_a_node_across_sockets_stands_below_none(ctl: Ctl, tmp_path: Path) -> None:
    root = machines.write_machine(tmp_path, machines.Machine(cores=machines.number_cores({0: 4})))
    for cpu in (2, 3, 6, 7):
        (root / f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id").write_text("1\n")
    out = ctl("topology", "--sysroot", root).out
    assert branches(out.splitlines()) == [("machine", ""), ("node 0", "machine")]
    assert "8 CPUs online on 4 cores of 2 sockets" in out


def test_a_function_of_a_gpu_that_is_not_seen_names_it(ctl: Ctl, tmp_path: Path) -> None:
    root = machines.flex_sriov(tmp_path)
    (root / "sys/bus/pci/devices/0000:4d:00.0").unlink()
    (root / "sys/class/drm/renderD128").unlink()
    out = ctl("topology", "--sysroot", root).out
    assert ("0000:4d:00.3", "node 0") in branches(out.splitlines())
    assert "VF of 0000:4d:00.0" in out


def test_functions_that_name_one_another_are_all_shown(ctl: Ctl, tmp_path: Path) -> None:
    root = machines.flex_sriov(tmp_path)
    devices = root / "sys/devices/pci0000:4a/0000:4a:02.0/0000:4b:00.0/0000:4c:01.0"
    (devices / "0000:4d:00.0/physfn").symlink_to("../0000:4d:00.1")
    shown = [name for name, _ in branches(ctl("topology", "--sysroot", root).out.splitlines())]
    assert [name for name in shown if ":4d:" in name] == [f"0000:4d:00.{number}" for number in range(5)]


def test_sizes_that_are_unknown_are_not_summed(ctl: Ctl, tmp_path: Path) -> None:
    root = machines.four_b580(tmp_path)
    (root / "sys/devices/system/node/node1/meminfo").unlink()
    out = ctl("topology", "--sysroot", root).out
    memory = {line.split("  ")[0].strip("├└─│ "): line for line in out.splitlines()}
    assert "64.0 GiB" in memory["socket 0"]
    assert "GiB" not in memory["socket 1"]
    assert "GiB" not in memory["machine"]


@pytest.mark.parametrize(
    ("accessible", "kind"),
    [(True, "discrete"), (False, "discrete, no access"), (None, "discrete")],
)
def test_a_gpu_that_the_group_render_may_not_open_says_so(
    *,
    accessible: bool | None,
    kind: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    topology = read_topology(machines.igpu_and_arc(tmp_path))
    gpus = tuple(replace(gpu, accessible=accessible) for gpu in topology.gpus)
    show(render_topology(replace(topology, gpus=gpus)))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "0000:03:00.0" in line)
    assert line.endswith(f"GiB  {kind}")


def test_lines_are_drawn_with_what_the_encoding_has(tmp_path: Path) -> None:
    command = [*CTL, "topology", "--sysroot", str(machines.four_b580(tmp_path))]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    shown = subprocess.run(command, env=environment, capture_output=True, check=True).stdout.decode("ascii")
    assert "|-socket 0" in shown
    assert "  `-node 1" in shown


def test_isolated_cpus_and_others_that_are_not_ours_are_named(ctl: Ctl, tmp_path: Path) -> None:
    cores = machines.number_cores({0: 4})
    machine = machines.Machine(cores=cores, isolated={1, 5}, pid1_cpus={0, 1, 2, 4, 5, 6})
    out = ctl("topology", "--sysroot", machines.write_machine(tmp_path, machine)).out
    assert "isolated, not used: 1,5" in out
    assert "not ours to use: 3,7" in out


def test_this_machine_needs_no_arguments(ctl: Ctl) -> None:
    assert ctl("topology", "--json").json()["nodes"]
    assert ctl("topology").status == 0


def test_a_tree_that_is_no_machine_is_refused(ctl: Ctl, tmp_path: Path) -> None:
    refused = ctl("topology", "--sysroot", tmp_path)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.startswith("ovms-scalerctl: cannot read")


def test_a_directory_that_is_not_there_is_wrong_usage(ctl: Ctl, tmp_path: Path) -> None:
    assert ctl("topology", "--sysroot", tmp_path / "gone").status == 2
