# SPDX-License-Identifier: Apache-2.0
"""CPU time and memory of nodes, on trees as kernels have them, and on this machine."""

from pathlib import Path

import pytest

from ovms_scaler.core.use import NodeUse
from ovms_scaler.host.node_use import read_nodes

# user nice system idle iowait irq softirq steal guest guest_nice
STAT = """\
cpu  600 0 60 6000 6 0 0 0 0 0
cpu0 100 10 20 1000 5 1 2 3 40 4
cpu1 200 0 0 1000 0 0 0 0 200 0
cpu3 300 0 40 4000 1 0 0 0 0 0
intr 12345 0 1 2
ctxt 1
"""
MEMINFO = """\
Node {node} MemTotal:       1000 kB
Node {node} MemFree:        100 kB
Node {node} MemUsed:        900 kB
Node {node} FilePages:      500 kB
Node {node} Mapped:         150 kB
Node {node} Active(file):   50 kB
Node {node} Shmem:          50 kB
Node {node} SReclaimable:   20 kB
Node {node} HugePages_Total:     0
"""
USED = (1000 - 100 - 300 - 20) * 1024


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def node_files(node: int, cpus: str) -> dict[str, str]:
    directory = f"sys/devices/system/node/node{node}"
    return {f"{directory}/cpulist": cpus, f"{directory}/meminfo": MEMINFO.format(node=node)}


def test_each_node_has_its_cpus_and_memory(tmp_path: Path) -> None:
    files = {"proc/stat": STAT, **node_files(0, "0-1\n"), **node_files(10, "2-3\n"), **node_files(2, "\n")}
    write(tmp_path, {**files, "sys/devices/system/node/online": "0,2,10\n"})
    memory = {"memory_used_bytes": USED, "memory_bytes": 1000 * 1024}
    # Guests' time is in user's; CPU 2 is offline.
    assert read_nodes(tmp_path) == (
        NodeUse(id=0, busy=136 + 200, total=1141 + 1200, **memory),
        NodeUse(id=2, **memory),
        NodeUse(id=10, busy=340, total=4341, **memory),
    )


def test_a_host_without_numa_is_one_node(tmp_path: Path) -> None:
    meminfo = (
        "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 9 kB\nBuffers: 100 kB\nCached: 390 kB\n"
        "SwapCached: 10 kB\nMapped: 150 kB\nShmem: 50 kB\nSReclaimable: 20 kB\n"
    )
    write(tmp_path, {"proc/stat": STAT, "proc/meminfo": meminfo})
    expected = NodeUse(
        id=0,
        busy=136 + 200 + 340,
        total=1141 + 1200 + 4341,
        memory_used_bytes=USED,
        memory_bytes=1000 * 1024,
    )
    assert read_nodes(tmp_path) == (expected,)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, NodeUse(id=0), id="nothing"),
        pytest.param({"proc/stat": "cpu0 many\n", "proc/meminfo": "\n"}, NodeUse(id=0), id="no numbers"),
        pytest.param({"sys/devices/system/node/node4/cpulist": "x"}, NodeUse(id=4), id="no list"),
        pytest.param(
            {"proc/meminfo": "MemTotal: 2 kB\n"}, NodeUse(id=0, memory_bytes=2048), id="a total only"
        ),
    ],
)
def test_what_cannot_be_read_is_unknown(tmp_path: Path, files: dict[str, str], expected: NodeUse) -> None:
    assert read_nodes(write(tmp_path, files)) == (expected,)


def test_this_machine() -> None:
    for node in read_nodes():
        assert node.memory_used_bytes is not None
        assert node.memory_bytes is not None
        assert 0 <= node.memory_used_bytes <= node.memory_bytes
        if node.busy is not None and node.total is not None:
            assert 0 < node.busy <= node.total
