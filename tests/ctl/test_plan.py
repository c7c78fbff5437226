# SPDX-License-Identifier: Apache-2.0
"""``ovms-scalerctl plan``: what programs rely on, and what people read."""

import json
from collections.abc import Callable
from pathlib import Path

import machines
import pytest
from ctl_lab import POOL, Ctl, write_config

from ovms_scaler.core.cpulist import parse_cpu_list

EVERY_MACHINE = pytest.mark.parametrize("machine", machines.ALL, ids=lambda machine: machine.__name__)


@pytest.fixture
def xeon(tmp_path: Path) -> Path:
    return machines.xeon_6972p_2s(tmp_path / "machine")


def test_json_of_two_xeon_6972p(ctl: Ctl, config: Path, xeon: Path) -> None:
    planned = ctl("plan", "--config", config, "--sysroot", xeon, "--json")
    assert (planned.status, planned.err) == (0, "")
    document = planned.json()
    cpus = ["0-31,192-223", "32-63,224-255", "64-95,256-287", "96-127,288-319"]
    cpus += ["128-159,320-351", "160-191,352-383"]
    contract = [
        {
            "id": f"chat-numa{node}",
            "unit": f"ovms@chat-numa{node}.service",
            "pool": "chat",
            "device": "CPU",
            "node": node,
            "cpus": own,
            "memory_nodes": str(node),
            "inference_threads": 32,
            "port": 8003 + node,
            "weight": 1,
            "gpus": [],
            "render_nodes": [],
        }
        for node, own in enumerate(cpus)
    ]
    assert [{key: one[key] for key in contract[0]} for one in document["instances"]] == contract
    assert all(isinstance(warning, str) for warning in document["warnings"])
    assert set(document) == {"instances", "actions", "warnings"}


@EVERY_MACHINE
def test_every_machine_is_planned_without_sharing_a_core(
    machine: Callable[[Path], Path], ctl: Ctl, config: Path, tmp_path: Path
) -> None:
    root = machine(tmp_path / "machine")
    nodes = ctl("topology", "--sysroot", root, "--json").json()["nodes"]
    document = ctl("plan", "--config", config, "--sysroot", root, "--json").json()
    assert [one["node"] for one in document["instances"]] == [node["id"] for node in nodes if node["cpus"]]
    used = [cpu for one in document["instances"] for cpu in parse_cpu_list(one["cpus"])]
    assert len(used) == len(set(used))
    ports = [one["port"] for one in document["instances"]]
    assert ports == list(range(8003, 8003 + len(ports)))


@EVERY_MACHINE
def test_tables_and_sentences_fit_80_columns(
    machine: Callable[[Path], Path], ctl: Ctl, config: Path, tmp_path: Path
) -> None:
    shown = ctl("plan", "--config", config, "--sysroot", machine(tmp_path / "machine"), "--no-diff").out
    # Paths are to be copied and therefore not wrapped.
    assert max(len(line) for line in shown.splitlines() if "/run/" not in line) <= 80
    assert "chat-numa0" in shown


def test_long_names_fit_80_columns(ctl: Ctl, tmp_path: Path, model: Path, xeon: Path) -> None:
    file = write_config(
        tmp_path, POOL.format(model=model).replace("chat", "a-name-of-as-many-as-32-characte")
    )
    shown = ctl("plan", "--config", file, "--sysroot", xeon, "--no-diff").out
    assert max(len(line) for line in shown.splitlines() if "/run/" not in line) <= 80


def test_rows_are_not_folded_in_a_pipe(ctl_process: Ctl, config: Path, xeon: Path) -> None:
    out = ctl_process("plan", "--config", config, "--sysroot", xeon, "--no-diff", env={"COLUMNS": ""}).out
    assert "chat-numa5     5  160-191,352-383       32  bind 5  8008       1\n" in out
    assert not [line for line in out.splitlines() if line.endswith(" ")]


def test_another_machine_has_nothing_yet(ctl: Ctl, config: Path, xeon: Path) -> None:
    actions = ctl("plan", "--config", config, "--sysroot", xeon, "--json").json()["actions"]
    assert actions[:3] == [
        {"action": "write", "path": "/run/ovms-scaler-proxy/nginx.conf"},
        {"action": "start", "unit": "ovms-scaler-proxy.service"},
        {"action": "start", "unit": "ovms.target"},
    ]
    assert actions[-1] == {"action": "start", "unit": "ovms@chat-numa5.service"}
    assert not [one for one in actions if "routes" in one.get("path", "")]
    assert not [one for one in actions if "generation.conf" in one.get("path", "")]


def test_diff_shows_every_new_file_and_can_be_left_out(ctl: Ctl, config: Path, xeon: Path) -> None:
    shown = ctl("plan", "--config", config, "--sysroot", xeon).out
    assert "+++ /run/systemd/system/ovms@chat-numa0.service.d/50-placement.conf\n" in shown
    assert "+CPUAffinity=0-31,192-223\n" in shown
    assert "+CPUAffinity" not in ctl("plan", "--config", config, "--sysroot", xeon, "--no-diff").out


def test_no_escape_sequence_where_nobody_looks(ctl: Ctl, config: Path, xeon: Path) -> None:
    assert "\x1b" not in ctl("plan", "--config", config, "--sysroot", xeon).out


def test_a_missing_model_is_a_problem_with_a_way_out(ctl: Ctl, tmp_path: Path, xeon: Path) -> None:
    file = write_config(tmp_path, POOL.format(model="/srv/models/gone"))
    shown = ctl("plan", "--config", file, "--sysroot", xeon, "--no-diff")
    assert shown.status == 0
    text = " ".join(shown.out.split())
    assert "Would not be started chat-numa0, chat-numa1" in text
    assert "cannot serve '/srv/models/gone': No such file or directory hint: check the path" in text
    assert "start ovms@" not in text
    document = ctl("plan", "--config", file, "--sysroot", xeon, "--json").json()
    assert (
        document["instances"][0]["problem"] == "cannot serve '/srv/models/gone': No such file or directory"
    )
    assert not [one for one in document["actions"] if one.get("unit", "").startswith("ovms@")]


def test_no_pool_is_said(ctl: Ctl, tmp_path: Path, xeon: Path) -> None:
    file = write_config(tmp_path, "")
    shown = ctl("plan", "--config", file, "--sysroot", xeon)
    assert (shown.status, shown.err) == (0, "")
    assert "nothing would serve" in shown.out
    empty = ctl("plan", "--config", file, "--sysroot", xeon, "--json").json()
    assert empty == {"instances": [], "actions": [], "warnings": []}


def test_two_pools_on_nodes_of_their_own(ctl: Ctl, tmp_path: Path, model: Path, xeon: Path) -> None:
    one = POOL.format(model=model)
    text = f'{one}nodes = "0-2"\n{one.replace("chat", "draft")}nodes = "3-5"\nlisten = "8001"\n'
    file = write_config(tmp_path, text)
    document = ctl("plan", "--config", file, "--sysroot", xeon, "--json").json()
    assert [one["id"] for one in document["instances"]] == [
        *(f"chat-numa{node}" for node in range(3)),
        *(f"draft-numa{node}" for node in range(3, 6)),
    ]
    shown = ctl("plan", "--config", file, "--sysroot", xeon, "--no-diff").out
    assert "clients connect to port 8000" in shown
    assert "clients connect to port 8001" in shown


def test_an_error_of_placement_names_its_file(ctl: Ctl, tmp_path: Path, model: Path, xeon: Path) -> None:
    file = write_config(tmp_path, POOL.format(model=model) + 'nodes = "0,7"\n')
    refused = ctl("plan", "--config", file, "--sysroot", xeon, "--json")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == (
        f"{file}: pool[0].nodes: names node 7, which this machine does not have\n"
        "  hint: it has 0-5\n1 error\n"
    )


def test_equal_input_gives_equal_output(ctl: Ctl, config: Path, xeon: Path) -> None:
    arguments = ("plan", "--config", config, "--sysroot", xeon)
    assert ctl(*arguments).out == ctl(*arguments).out
    first = json.dumps(ctl(*arguments, "--json").json())
    assert json.dumps(ctl(*arguments, "--json").json()) == first
