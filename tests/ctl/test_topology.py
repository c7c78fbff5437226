# SPDX-License-Identifier: Apache-2.0
"""``ovms-scalerctl topology``: the machine as JSON for programs and as a table for people."""

from collections.abc import Callable
from pathlib import Path

import machines
import pytest
from ctl_lab import Ctl

EVERY_MACHINE = pytest.mark.parametrize("machine", machines.ALL, ids=lambda machine: machine.__name__)


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
def test_table_has_a_row_for_each_node_and_fits(
    machine: Callable[[Path], Path], ctl: Ctl, tmp_path: Path
) -> None:
    root = machine(tmp_path)
    nodes = ctl("topology", "--sysroot", root, "--json").json()["nodes"]
    shown = ctl("topology", "--sysroot", root)
    assert (shown.status, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(nodes) + 1]] == [str(node["id"]) for node in nodes]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        pytest.param(machines.offline_cpu0, "  offline: 0,8-9", id="offline CPUs"),
        pytest.param(machines.no_numa, "This kernel shows no NUMA nodes", id="no NUMA"),
        pytest.param(machines.hybrid, "  efficiency cores: 16-19", id="hybrid processor"),
        pytest.param(machines.hybrid, "0000:00:02.0  /dev/dri/renderD128  8086:4680", id="GPU"),
        pytest.param(machines.xeon_6972p_2s, "12 to 1-2, 21 to 3-5", id="distances"),
        pytest.param(machines.memoryless, "none", id="node without memory"),
    ],
)
def test_table_says(machine: Callable[[Path], Path], sentence: str, ctl: Ctl, tmp_path: Path) -> None:
    assert sentence in ctl("topology", "--sysroot", machine(tmp_path)).out


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
