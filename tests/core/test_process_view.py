# SPDX-License-Identifier: Apache-2.0
"""What proc(5) prints of a process, read."""

import pytest

from ovms_scaler.core.process_view import (
    MemoryUse,
    parse_cgroup,
    parse_environment,
    parse_numa_maps,
    parse_open_files,
)

# As Linux 6.1 prints it for a process with set_mempolicy(MPOL_BIND, 1) on a machine with two nodes.
NUMA_MAPS = """\
00400000 bind:1 file=/usr/bin/python3.11 mapped=19 mapmax=4 N0=19 kernelpagesize_kB=4
00a3c000 bind:1 file=/usr/bin/python3.11 anon=2 dirty=2 N0=1 N1=1 kernelpagesize_kB=4
01b2e000 bind:1 heap anon=300 dirty=300 N0=100 N1=200 kernelpagesize_kB=4
7f2a40000000 bind:1 anon=4 dirty=4 N1=4 kernelpagesize_kB=2048
7f2a90000000 default anon=1 dirty=1 N0=1 kernelpagesize_kB=4
7ffd3b5f2000 bind:1 stack anon=3 dirty=3 N1=3 kernelpagesize_kB=4
7ffd3b5fb000 bind:1
"""
LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max stack size            8388608              unlimited            bytes
Max open files            {}                 524288               files
"""


def test_memory_of_files_is_not_counted_and_every_policy_is_seen() -> None:
    found = parse_numa_maps(NUMA_MAPS)
    assert found.policies == {"bind:1", "default"}
    assert found.bytes_by_node == {0: 101 * 4096, 1: 203 * 4096 + 4 * 2048 * 1024}
    assert found.share([1]) == pytest.approx(0.957, abs=0.001)


def test_share_of_nothing_is_not_known() -> None:
    assert MemoryUse(policies=frozenset(), bytes_by_node={}).share([0]) is None


@pytest.mark.parametrize(("soft", "limit"), [("1024", 1024), ("unlimited", 2**63 - 1)])
def test_open_files(soft: str, limit: int) -> None:
    assert parse_open_files(LIMITS.format(soft)) == limit


def test_open_files_that_are_not_told() -> None:
    assert parse_open_files("") is None


def test_environment() -> None:
    assert parse_environment("A=1\0B=two=2\0C=\0") == {"A": "1", "B": "two=2", "C": ""}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/ovms.slice/ovms@chat-numa0.service\n", "/ovms.slice/ovms@chat-numa0.service"),
        ("4:cpu:/x\n1:name=systemd:/ovms.slice/a.service\n", "/ovms.slice/a.service"),
        (
            "0::/ovms.slice/ovms@fast-gpu-0000:03:00.0.service\n",
            "/ovms.slice/ovms@fast-gpu-0000:03:00.0.service",
        ),
        ("", ""),
    ],
)
def test_control_group(text: str, path: str) -> None:
    assert parse_cgroup(text) == path
