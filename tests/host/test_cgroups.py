# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from ovms_scaler.core.use import MemoryUse
from ovms_scaler.host.cgroups import read_cpu_sec, read_memory

UNIT = "ovms@chat-numa0.service"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n", 2.5, id="used"),
        pytest.param("user_usec 1\n", None, id="another kernel"),
        pytest.param("usage_usec much\n", None, id="no number"),
        pytest.param(None, None, id="does not run"),
    ],
)
def test_cpu_time_of_a_unit(tmp_path: Path, text: str | None, expected: float | None) -> None:
    if text is not None:
        directory = tmp_path / "sys/fs/cgroup/ovms.slice" / UNIT
        directory.mkdir(parents=True)
        (directory / "cpu.stat").write_text(text)
    assert read_cpu_sec(UNIT, tmp_path) == expected


PID = 4711
# In bytes, as of a group with 600 of page cache, of which a third is mapped.
STAT = "anon 4000\nfile 600\nkernel_stack 10\nshmem 50\nfile_mapped 200\nslab_reclaimable 30\nslab 90\n"
NUMA_STAT = """\
anon N0=4000 N1=0
file N0=500 N1=100
kernel_stack N0=10 N1=0
pagetables N0=20 N1=0
shmem N0=50 N1=0
file_mapped N0=200 N1=0
slab_reclaimable N0=30 N1=0
slab_unreclaimable N0=60 N1=0
workingset_refault_anon N0=0 N1=0
"""


def write_group(root: Path, **files: str) -> Path:
    directory = root / "sys/fs/cgroup/ovms.slice" / UNIT
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / f"memory.{name}").write_text(text)
    return root


def write_status(root: Path, text: str) -> Path:
    path = root / f"proc/{PID}/status"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return root


def test_memory_of_a_unit_is_without_cache_that_nobody_has_mapped(tmp_path: Path) -> None:
    write_group(tmp_path, current="5000\n", stat=STAT, numa_stat=NUMA_STAT)
    by_node = {0: 4000 + 500 - 250 + 10 + 20 + 60, 1: 0}
    assert read_memory(UNIT, PID, tmp_path) == MemoryUse(memory_bytes=5000 - 350 - 30, by_node=by_node)


@pytest.mark.parametrize(
    "numa_stat",
    ["total=6337 N0=6337\n", "", "anon N0\n", "anon N0=many\n", "anon N0=1\nfile N1=1\n"],
    ids=["cgroup v1", "empty", "no size", "no number", "nodes differ"],
)
def test_memory_by_node_may_be_unknown(tmp_path: Path, numa_stat: str) -> None:
    write_group(tmp_path, current="5000\n", stat=STAT, numa_stat=numa_stat)
    assert read_memory(UNIT, PID, tmp_path) == MemoryUse(memory_bytes=4620)


@pytest.mark.parametrize(
    "files",
    [{}, {"current": "5000"}, {"current": "much", "stat": STAT}, {"current": "1", "stat": "anon 1\nfile\n"}],
    ids=["no controller", "no parts", "no number", "cut"],
)
def test_memory_is_that_of_the_process_where_no_controller_counts(
    tmp_path: Path, files: dict[str, str]
) -> None:
    write_group(tmp_path, **files)
    write_status(tmp_path, "Name:\tovms\nVmRSS:\t    1828 kB\nRssAnon:\t     108 kB\n")
    assert read_memory(UNIT, PID, tmp_path) == MemoryUse(memory_bytes=1828 * 1024)
    assert read_memory(UNIT, None, tmp_path) is None
    assert read_memory(UNIT, PID + 1, tmp_path) is None


def test_memory_of_a_process_without_any_is_unknown(tmp_path: Path) -> None:
    """A zombie has no such lines."""
    write_status(tmp_path, "Name:\tovms\nState:\tZ (zombie)\n")
    assert read_memory(UNIT, PID, tmp_path) is None
